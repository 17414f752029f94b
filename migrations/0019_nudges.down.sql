DROP TABLE nudges;
-- No older program could send them.
DELETE FROM attempts WHERE delivery_id IN (SELECT id FROM deliveries WHERE outcome = 'nudge');
DELETE FROM deliveries WHERE outcome = 'nudge';
ALTER DOMAIN outcome DROP CONSTRAINT outcome_check;
ALTER DOMAIN outcome ADD CONSTRAINT outcome_check
    CHECK (VALUE IN ('completed', 'failed', 'cancelled', 'expired', 'attempt_failed',
                     'processing', 'mismatch', 'refunded', 'disputed', 'paid_again'));
