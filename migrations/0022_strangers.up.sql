-- A question that a stranger could have caused: nobody has signed its callback,
-- and that names no wait. The others go before it, and of a source a bounded
-- number waits.
ALTER TABLE questions
    ADD strange boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT questions_strange_check CHECK (fetches OR NOT strange);
DROP INDEX questions_due_events;
CREATE INDEX questions_due_events ON questions (strange, due_at) WHERE due_at IS NOT NULL AND event_id IS NOT NULL;
-- What waits of a source is counted by it. The others are not in it.
CREATE INDEX questions_of_strangers ON questions (source_id) WHERE due_at IS NOT NULL AND strange;
