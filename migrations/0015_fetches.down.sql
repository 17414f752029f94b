-- Fetches are of no use to what does not know them, which would ask them as if
-- their events were parked.
DELETE FROM questions WHERE fetches;
ALTER TABLE questions
    DROP CONSTRAINT questions_fetches_check,
    DROP told,
    DROP again,
    DROP fetches;
