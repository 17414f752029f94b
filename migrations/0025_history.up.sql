-- What a wait's timeline has to tell and no row kept: each was overwritten by
-- what came after it. This is what events and destinations have to tell;
-- deliveries and correlations follow. One migration changes one of the tables
-- that callbacks write: nodes that are at work lock several, in orders of their
-- own, and would end in a deadlock with one that waits for a second table.

-- What an event came to when it was received, where it has come to something
-- else since: by the time of its last decision, and by hand where it was
-- replayed. NULL of nearly all of them. No domain: a column of one would have
-- the table rewritten.
ALTER TABLE events
    ADD first_match text,
    ADD first_rule  text,
    ADD decided_at  timestamptz,
    ADD replayed_at timestamptz;

-- When destinations were held: the newest hundred times of each.
CREATE TABLE holds (
    destination_id bigint NOT NULL,
    held_at        timestamptz NOT NULL,
    reason         text NOT NULL,
    released_at    timestamptz, -- NULL: it is held
    CONSTRAINT holds_pkey PRIMARY KEY (destination_id, held_at)
);
INSERT INTO holds (destination_id, held_at, reason)
SELECT id, held_at, held_reason FROM destinations WHERE held_at IS NOT NULL;
