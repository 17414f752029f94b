ALTER TABLE checkouts
    DROP CONSTRAINT checkouts_end_result_check,
    DROP CONSTRAINT checkouts_end_lease_check,
    DROP CONSTRAINT checkout_end_check,
    DROP end_tried_at,
    DROP end_result,
    DROP end_tries,
    DROP end_lease,
    DROP end_due_at;
