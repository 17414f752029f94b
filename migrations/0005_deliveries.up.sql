-- One row per call owed to one destination. due_at is both the time of the
-- next attempt and, while a node holds the lease, the time at which the lease
-- ends: whoever finds due_at in the past may take the row. NULL: nothing is
-- owed any more, or a person has to decide.

CREATE DOMAIN delivery_status AS text CONSTRAINT delivery_status_check
    CHECK (VALUE IN ('scheduled', 'sending', 'delivered', 'unknown', 'held', 'dead', 'skipped'));
CREATE DOMAIN attempt_class AS text CONSTRAINT attempt_class_check
    CHECK (VALUE IN ('ok', 'permanent', 'retry', 'credentials', 'unknown'));

CREATE TABLE deliveries (
    project_id     bigint NOT NULL,
    id             uuid NOT NULL,
    correlation_id uuid NOT NULL,
    event_id       uuid,             -- NULL: fired by a deadline or by hand
    destination_id bigint NOT NULL,
    outcome        outcome NOT NULL,
    action         text NOT NULL,    -- the name under `on:` in the plan
    status         delivery_status NOT NULL DEFAULT 'scheduled',
    attempts       integer NOT NULL DEFAULT 0,
    due_at         timestamptz,
    lease          uuid,             -- of the node that holds it; a stale one writes nothing
    retry_for      integer NOT NULL, -- seconds; a retry by hand begins them anew
    give_up_at     timestamptz NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    finished_at    timestamptz,
    -- The last attempt. Most deliveries need one, and then it costs no row.
    started_at     timestamptz,
    duration_ms    integer,
    class          attempt_class,
    http_status    integer,          -- NULL where no answer came
    reason         text,
    response       text,             -- its first 2 KiB
    notes          json,             -- expressions that had no value
    CONSTRAINT deliveries_pkey PRIMARY KEY (project_id, id),
    -- Owed means due: no scheduled row is ever out of the poller's sight.
    CONSTRAINT deliveries_due_check CHECK ((due_at IS NOT NULL) = (status IN ('scheduled', 'sending'))),
    CONSTRAINT deliveries_lease_check CHECK (lease IS NULL OR due_at IS NOT NULL),
    CONSTRAINT deliveries_attempt_check CHECK ((attempts = 0) = (started_at IS NULL) AND (attempts = 0) = (class IS NULL)),
    CONSTRAINT deliveries_finished_check CHECK ((finished_at IS NOT NULL) = (status IN ('delivered', 'dead', 'skipped')))
) WITH (fillfactor = 80);
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_correlation ON deliveries (correlation_id);
CREATE INDEX deliveries_stuck ON deliveries (project_id, status, id) WHERE status IN ('dead', 'held', 'unknown');

-- The attempts before the last one.
CREATE TABLE attempts (
    delivery_id uuid NOT NULL,
    number      integer NOT NULL,
    project_id  bigint NOT NULL,
    started_at  timestamptz NOT NULL,
    duration_ms integer NOT NULL,
    class       attempt_class NOT NULL,
    http_status integer,
    reason      text,
    response    text,
    notes       json,
    CONSTRAINT attempts_pkey PRIMARY KEY (delivery_id, number)
);
