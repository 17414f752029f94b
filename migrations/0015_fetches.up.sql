-- What a callback is about that says no more is asked of its provider, and the
-- answer is an event of its own. Such a question stays one row however often
-- its callback is sent.
ALTER TABLE questions
    ADD fetches boolean NOT NULL DEFAULT false,
    ADD again boolean NOT NULL DEFAULT false, -- its callback came once more while it was being asked
    ADD told uuid, -- the event that the last answer became
    ADD CONSTRAINT questions_fetches_check CHECK (event_id IS NOT NULL OR NOT (fetches OR again OR told IS NOT NULL));
