-- One delivery at a time per conversation, on any number of nodes. A row is
-- here exactly while a delivery of its conversation is owed and due: that one
-- holds the slot, the others wait without being due. The row's lock orders the
-- births, ends and retries of one conversation: who adds to those that wait,
-- or takes from them, holds it.
CREATE TABLE slots (
    conversation uuid CONSTRAINT slots_pkey PRIMARY KEY, -- hash of destination and conversation
    delivery_id  uuid NOT NULL,
    project_id   bigint NOT NULL
);

-- Deliveries from before have no conversation: they wait for nobody, and
-- nobody for them.
ALTER TABLE deliveries
    ADD COLUMN conversation uuid,
    ADD COLUMN by_hand boolean NOT NULL DEFAULT false, -- a person retried it: it is not skipped because its wait has closed
    DROP CONSTRAINT deliveries_due_check,
    -- Owed means due, or waiting for the slot of a conversation: no scheduled
    -- row is ever out of sight.
    ADD CONSTRAINT deliveries_due_check CHECK (
        CASE WHEN due_at IS NULL THEN status <> 'sending' AND (status <> 'scheduled' OR conversation IS NOT NULL)
             ELSE status IN ('scheduled', 'sending') END);

-- Only of those that wait: the others pay nothing for it.
CREATE INDEX deliveries_waiting ON deliveries (conversation, id) WHERE status = 'scheduled' AND due_at IS NULL;
