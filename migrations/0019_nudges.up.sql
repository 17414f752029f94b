-- Reminders of those who wait, one row each until its time has come. A wait
-- without nudges has none; one that ends leaves its rows to be found then, so
-- that no callback has to look for them.
CREATE TABLE nudges (
    correlation_id uuid NOT NULL,
    number         smallint NOT NULL, -- from 0: which of the plan's
    project_id     bigint NOT NULL,
    due_at         timestamptz NOT NULL,
    CONSTRAINT nudges_pkey PRIMARY KEY (correlation_id, number)
);
CREATE INDEX nudges_due ON nudges (due_at);

-- What a nudge fires. The values that are there were held to less words than
-- these, and need not be read for it.
ALTER DOMAIN outcome DROP CONSTRAINT outcome_check;
ALTER DOMAIN outcome ADD CONSTRAINT outcome_check
    CHECK (VALUE IN ('completed', 'failed', 'cancelled', 'expired', 'attempt_failed',
                     'processing', 'mismatch', 'refunded', 'disputed', 'paid_again', 'nudge')) NOT VALID;
