-- Received callbacks, kept with their raw bytes. Rows are never updated but
-- to blank a body. Ids are UUIDv7, so the primary key is also the order of
-- time within a project: retention walks it in bounded deletes, and no
-- partition has to be made or dropped on time.

CREATE TABLE events (
    project_id        bigint NOT NULL,
    id                uuid NOT NULL,
    source_id         bigint NOT NULL,
    received_at       timestamptz NOT NULL,
    verdict           text NOT NULL,
    match             text NOT NULL,
    rule              text NOT NULL,  -- the rule that decided
    reason            text,           -- why it was rejected
    outcome           text,
    type              text,
    provider_event_id text,
    correlation_id    uuid,
    duplicate_of      uuid,
    token             text,           -- the first place that could name a wait, where none was
    payment           json,
    form              json,
    format            text NOT NULL,
    headers           json,          -- those that the preset reads
    body              bytea,          -- NULL once retention has blanked it
    CONSTRAINT events_pkey PRIMARY KEY (project_id, id),
    CONSTRAINT events_verdict_check CHECK (verdict IN ('verified', 'unsigned', 'rejected', 'fetched')),
    CONSTRAINT events_match_check CHECK (match IN ('matched', 'parked', 'late', 'paid_again', 'duplicate', 'ignored',
                                                   'guard_failed', 'ambiguous', 'other_project', 'unmatched')),
    CONSTRAINT events_outcome_check CHECK (outcome IN ('completed', 'failed', 'cancelled', 'expired', 'attempt_failed',
                                                       'processing', 'mismatch', 'refunded', 'disputed')),
    CONSTRAINT events_format_check CHECK (format IN ('json', 'form', 'text')),
    -- A forgery matches nothing.
    CONSTRAINT events_rejected_check CHECK (verdict <> 'rejected' OR correlation_id IS NULL)
);
CREATE INDEX events_correlation ON events (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX events_token ON events (project_id, token, id) WHERE token IS NOT NULL;
CREATE INDEX events_rejected ON events (received_at) WHERE verdict = 'rejected' AND body IS NOT NULL;

-- Dedupe keys outlive event bodies and rows (at least 30 days): a small table
-- of its own, 16 bytes a key. key is a hash of source and provider event id
-- (or token and body); event_id tells by its UUIDv7 when it was received.
CREATE TABLE event_keys (
    key        uuid CONSTRAINT event_keys_pkey PRIMARY KEY,
    event_id   uuid NOT NULL,
    project_id bigint NOT NULL
);
CREATE INDEX event_keys_age ON event_keys USING brin (event_id);
