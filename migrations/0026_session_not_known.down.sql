UPDATE checkouts SET end_result = 'failed' WHERE end_result = 'not_known';
ALTER TABLE checkouts
    DROP CONSTRAINT checkout_end_check,
    ADD CONSTRAINT checkout_end_check CHECK (end_result IN ('ended', 'over', 'refused', 'failed')) NOT VALID;
