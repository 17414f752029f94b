-- Received callbacks, kept with their raw bytes. Rows are never updated but
-- to blank a body. Ids are UUIDv7, so the primary key is also the order of
-- time within a project: retention walks it in bounded updates (bodies) and,
-- much later, bounded deletes (rows). Partitions by time would drop faster,
-- but each project keeps for as long as it likes, and a unique dedupe key
-- cannot span partitions.

CREATE DOMAIN verdict AS text CONSTRAINT verdict_check
    CHECK (VALUE IN ('verified', 'unsigned', 'rejected', 'fetched'));
CREATE DOMAIN match AS text CONSTRAINT match_check
    CHECK (VALUE IN ('matched', 'parked', 'late', 'paid_again', 'duplicate', 'ignored',
                     'guard_failed', 'ambiguous', 'other_project', 'unmatched'));
CREATE DOMAIN body_format AS text CONSTRAINT body_format_check
    CHECK (VALUE IN ('json', 'form', 'text'));

CREATE TABLE events (
    project_id        bigint NOT NULL,
    id                uuid NOT NULL,
    source_id         bigint NOT NULL,
    received_at       timestamptz NOT NULL,
    verdict           verdict NOT NULL,
    match             match NOT NULL,
    rule              text NOT NULL,  -- the rule that decided
    reason            text,           -- why it was rejected
    outcome           outcome,
    type              text,
    provider_event_id text,
    correlation_id    uuid,
    duplicate_of      uuid,
    token             text,           -- the first place that could name a wait, where none was
    payment           json,
    form              json,
    format            body_format NOT NULL,
    headers           json,          -- those that the preset reads
    -- What identifies the event at its source: a hash of source and provider
    -- event id, or of token and body. NULL where a first one holds it already,
    -- and for forgeries, which must not keep the real event out. It lives as
    -- long as the row, and so outlives the body.
    dedupe_key        uuid,
    body              bytea,          -- NULL once retention has blanked it
    packing           smallint NOT NULL DEFAULT 0, -- how body is packed: internal/store/pack.go says
    CONSTRAINT events_pkey PRIMARY KEY (project_id, id),
    -- A forgery matches nothing and keeps nobody out.
    CONSTRAINT events_rejected_check CHECK (verdict <> 'rejected' OR correlation_id IS NULL AND dedupe_key IS NULL)
);
-- What is packed already gains nothing by another try.
ALTER TABLE events ALTER body SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX events_dedupe_key ON events (dedupe_key) WHERE dedupe_key IS NOT NULL;
CREATE INDEX events_correlation ON events (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX events_token ON events (project_id, token, id) WHERE token IS NOT NULL;
CREATE INDEX events_rejected ON events (received_at) WHERE verdict = 'rejected' AND body IS NOT NULL;
