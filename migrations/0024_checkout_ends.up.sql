-- A session at the provider can be paid until its own end. Where its wait ends
-- before that, the provider is asked to end the session too: money is not to
-- move for what nobody waits for.

ALTER TABLE checkouts
    -- As of deliveries: the next try, or the end of the lease. NULL: nothing
    -- is to be ended, or it is done.
    ADD end_due_at timestamptz,
    ADD end_lease  uuid, -- of the node that asks; a stale one writes nothing
    ADD end_tries  integer NOT NULL DEFAULT 0,
    -- Of the last try. ended: the provider has ended it. over: there was nothing
    -- to end, it had been paid or had expired. refused: the api_key. failed: no
    -- usable answer. No domain: a column of one would have the table rewritten.
    ADD end_result text,
    ADD end_tried_at timestamptz,
    ADD CONSTRAINT checkout_end_check CHECK (end_result IN ('ended', 'over', 'refused', 'failed')),
    ADD CONSTRAINT checkouts_end_lease_check CHECK (end_lease IS NULL OR end_due_at IS NOT NULL),
    ADD CONSTRAINT checkouts_end_result_check CHECK ((end_tries = 0) = (end_result IS NULL) AND (end_result IS NULL) = (end_tried_at IS NULL));
CREATE INDEX checkouts_end_due ON checkouts (end_due_at) WHERE end_due_at IS NOT NULL;
