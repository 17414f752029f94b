DROP INDEX questions_of_strangers;
DROP INDEX questions_due_events;
CREATE INDEX questions_due_events ON questions (due_at) WHERE due_at IS NOT NULL AND event_id IS NOT NULL;
ALTER TABLE questions
    DROP CONSTRAINT questions_strange_check,
    DROP strange;
