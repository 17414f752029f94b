-- What the provider is to be asked: whose an event is that names nobody, and
-- what has become of a payment whose wait is about to expire. One row per
-- question, also when it is answered: it says when, and what came of it.

-- found: the provider knows it. none: it knows nothing of it. refused: the
-- api_key. failed: no usable answer. moot: not asked, since somebody else had
-- decided by then.
CREATE DOMAIN question_result AS text CONSTRAINT question_result_check
    CHECK (VALUE IN ('found', 'none', 'refused', 'failed', 'moot'));

CREATE TABLE questions (
    id             uuid CONSTRAINT questions_pkey PRIMARY KEY,
    project_id     bigint NOT NULL,
    source_id      bigint NOT NULL,
    event_id       uuid,             -- whose is it?
    correlation_id uuid,             -- is it paid?
    about          text NOT NULL,    -- the provider's id that is asked by
    tries          integer NOT NULL DEFAULT 0, -- that were answered, or failed
    -- As of deliveries: the next try, or the end of the lease. NULL: done.
    due_at         timestamptz,
    lease          uuid,             -- of the node that asks; a stale one writes nothing
    give_up_at     timestamptz NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    -- The last try.
    asked_at       timestamptz,
    result         question_result,
    reason         text,             -- why there is no usable answer
    CONSTRAINT questions_event_key UNIQUE (event_id),
    CONSTRAINT questions_correlation_key UNIQUE (correlation_id),
    CONSTRAINT questions_subject_check CHECK ((event_id IS NULL) <> (correlation_id IS NULL)),
    CONSTRAINT questions_lease_check CHECK (lease IS NULL OR due_at IS NOT NULL),
    CONSTRAINT questions_tries_check CHECK ((tries = 0) = (asked_at IS NULL)),
    CONSTRAINT questions_done_check CHECK (due_at IS NOT NULL OR result IS NOT NULL)
);
-- Two, so that those of waits, which have a minute, need not stand behind
-- those of events, which have days.
CREATE INDEX questions_due_waits ON questions (due_at) WHERE due_at IS NOT NULL AND correlation_id IS NOT NULL;
CREATE INDEX questions_due_events ON questions (due_at) WHERE due_at IS NOT NULL AND event_id IS NOT NULL;

-- The answer to an event's question, so that reading the event again sees the
-- names in it. NULL of nearly all events, and then it takes no room.
ALTER TABLE events ADD answer bytea;

-- asks is the object that the provider of asks_source can be asked for when
-- the wait is about to expire: NULL of nearly all waits. reconciled is NULL
-- where nobody asked, false from the question on and true once it is answered.
ALTER TABLE correlations
    ADD asks text,
    ADD asks_source bigint,
    ADD reconciled boolean,
    ADD CONSTRAINT correlations_asks_check CHECK ((asks IS NULL) = (asks_source IS NULL));
