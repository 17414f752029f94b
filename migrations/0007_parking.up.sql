-- Events that come before anybody waits for them are parked, and matched when
-- the wait arrives or learns the reference: what was stored is read again.

-- What it takes to read an event again besides its body and headers: the
-- token of its path, its query, and which event of its body it is, as
-- {"path": …, "query": …, "item": …}. One column, and NULL of nearly all
-- events: only those that did nothing are read again, and most of these have
-- none of it.
ALTER TABLE events ADD request json;

-- The names that a parked event can be found by, one row each, at most 16. A
-- table of its own, so that events which are not parked pay nothing.
CREATE TABLE parked_refs (
    event_id   uuid NOT NULL,
    ref        uuid NOT NULL,     -- as in correlation_refs
    project_id bigint NOT NULL,
    source_id  bigint NOT NULL,
    number     smallint NOT NULL, -- from 0: the first row of an event stands for it where events are counted
    -- It stood where a token or a key stands: what a provider's id taught
    -- does not answer to it.
    key_only   boolean NOT NULL,
    parked_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT parked_refs_pkey PRIMARY KEY (event_id, number)
);
-- No column stands in both: on empty tables an index is walked from end to end
-- as cheaply as it is searched, and a plan that was made then would go on so.
CREATE INDEX parked_refs_ref ON parked_refs (ref);
CREATE INDEX parked_refs_source ON parked_refs (source_id, parked_at) WHERE number = 0;
