-- What is held would stay so for ever. It becomes due, and is asked for again.
UPDATE deliveries SET status = 'scheduled', due_at = now(), give_up_at = now() + retry_for * interval '1 second' WHERE status = 'held';
DROP INDEX deliveries_held;
ALTER TABLE destinations
    DROP CONSTRAINT destinations_held_check,
    DROP COLUMN held_at,
    DROP COLUMN held_reason,
    DROP COLUMN releases,
    DROP COLUMN releasing;
