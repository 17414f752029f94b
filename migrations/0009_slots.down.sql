DROP INDEX deliveries_waiting, deliveries_slot;
-- What waited for its turn is due: without slots nobody waits.
UPDATE deliveries SET due_at = now() WHERE status = 'scheduled' AND due_at IS NULL;
ALTER TABLE deliveries
    DROP CONSTRAINT deliveries_due_check,
    ADD CONSTRAINT deliveries_due_check CHECK ((due_at IS NOT NULL) = (status IN ('scheduled', 'sending'))),
    DROP COLUMN conversation,
    DROP COLUMN by_hand;
