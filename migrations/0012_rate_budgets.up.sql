-- The rate of a destination is one budget for all nodes. A node takes what it
-- is about to use, for many calls in one statement, so that the row is
-- written a few times a second however high the rate is. Destinations without
-- a rate have no row.
CREATE TABLE rate_budgets (
    destination_id bigint CONSTRAINT rate_budgets_pkey PRIMARY KEY
                          CONSTRAINT rate_budgets_destination_fkey REFERENCES destinations (id) ON DELETE CASCADE,
    -- Up to when the budget has been spent. What was not spent a second later
    -- is lost.
    spent_until timestamptz NOT NULL DEFAULT '-infinity',
    -- Up to when those that found nothing left have been told to come back,
    -- one after the other.
    line_until  timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50); -- room for the next version of the row on its page
