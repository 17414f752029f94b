-- One delivery at a time per conversation, on any number of nodes. The one that
-- is due, or held, has the slot of its conversation; the others are scheduled
-- without being due, and wait for it.

-- Deliveries from before have no conversation: they wait for nobody, and
-- nobody for them.
ALTER TABLE deliveries
    ADD COLUMN conversation uuid, -- hash of destination and conversation
    ADD COLUMN by_hand boolean NOT NULL DEFAULT false, -- a person retried it: it is not skipped because its wait has closed
    DROP CONSTRAINT deliveries_due_check,
    -- Owed means due, or waiting for the slot of a conversation: no scheduled
    -- row is ever out of sight.
    ADD CONSTRAINT deliveries_due_check CHECK (
        CASE WHEN due_at IS NULL THEN status <> 'sending' AND (status <> 'scheduled' OR conversation IS NOT NULL)
             ELSE status IN ('scheduled', 'sending') END);

-- Two of a conversation cannot have its slot, whatever a program does. A
-- delivery that is over has no entry here, so that giving the slot back writes
-- nothing but the delivery's own row. CASE, and not OR: no condition but the
-- same one implies it, so that nothing else is looked for by walking it.
CREATE UNIQUE INDEX deliveries_slot ON deliveries (conversation) WHERE CASE WHEN due_at IS NULL THEN status = 'held' ELSE true END;

-- Only of those that wait: the others pay nothing for it.
CREATE INDEX deliveries_waiting ON deliveries (conversation, id) WHERE status = 'scheduled' AND due_at IS NULL;
