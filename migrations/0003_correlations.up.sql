-- The waits. Hot tables have no foreign keys: rows are only ever written by
-- statements that hold the correlation's row lock, and a check per row would
-- cost more than the insert.

-- The words of the state machines are domains: Postgres reads a table's CHECK
-- anew for every statement, word by word, and a domain's once for a session.
CREATE DOMAIN correlation_status AS text CONSTRAINT correlation_status_check
    CHECK (VALUE IN ('pending', 'completed', 'failed', 'cancelled', 'expired', 'superseded'));
CREATE DOMAIN outcome AS text CONSTRAINT outcome_check
    CHECK (VALUE IN ('completed', 'failed', 'cancelled', 'expired', 'attempt_failed',
                     'processing', 'mismatch', 'refunded', 'disputed', 'paid_again'));
-- What ended a wait.
CREATE DOMAIN resolver AS text CONSTRAINT resolver_check
    CHECK (VALUE IN ('event', 'deadline', 'api', 'newer_wait', 'late_success'));

-- What a wait will do, frozen at its creation and stored once per content:
-- id is a hash of the project and the document. A plan is kept while any
-- correlation that could use it may exist: used_at is refreshed daily.
CREATE TABLE plans (
    id         uuid CONSTRAINT plans_pkey PRIMARY KEY,
    project_id bigint NOT NULL,
    doc        json NOT NULL,
    used_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE correlations (
    id           uuid CONSTRAINT correlations_pkey PRIMARY KEY,
    project_id   bigint NOT NULL,
    token        text NOT NULL,
    plan_id      uuid NOT NULL,
    source_ids   bigint[] NOT NULL,
    flow         text,
    user_id      text NOT NULL,
    conversation text,             -- NULL: user_id names the conversation
    key          text,
    -- Hash of project and flow + user (or destination + user + module): what
    -- a newer wait supersedes.
    scope        uuid NOT NULL,
    custom_vars  json,
    data         json,
    locale       text,
    status       correlation_status NOT NULL DEFAULT 'pending',
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    extended     boolean NOT NULL DEFAULT false,
    resolved_at  timestamptz,
    resolved_by  resolver,
    event_id     uuid,             -- the event that did, or the late success
    payment_id   text,
    -- payment and form given by hand to `resolve`.
    resolution   json,
    late_outcome outcome,
    late_at      timestamptz,
    CONSTRAINT correlations_token_key UNIQUE (token),
    CONSTRAINT correlations_token_check CHECK (token ~ '^[A-Za-z0-9]{22}$'),
    CONSTRAINT correlations_resolved_check
        CHECK ((status = 'pending') = (resolved_at IS NULL) AND (resolved_at IS NULL) = (resolved_by IS NULL)),
    -- A late success comes after an end that was none.
    CONSTRAINT correlations_late_check
        CHECK ((late_outcome IS NULL) = (late_at IS NULL)
               AND (late_outcome IS NULL OR late_outcome = 'completed' AND status <> 'pending' AND status <> 'completed'))
) WITH (
    -- A wait is updated once or twice. With room for a second version of each
    -- row on its page, and no index on what changes, the update is HOT: no
    -- index is written. Waits that were registered together also end together,
    -- so less room would not do.
    fillfactor = 45
);
CREATE INDEX correlations_list ON correlations (project_id, id);
CREATE INDEX correlations_user ON correlations (project_id, user_id, id);
CREATE INDEX correlations_key ON correlations (project_id, key, id) WHERE key IS NOT NULL;
CREATE INDEX correlations_late ON correlations (project_id, id) WHERE late_at IS NOT NULL;

-- A row is here exactly while its correlation is pending. Apart from
-- correlations, so that closing a wait deletes here instead of writing new
-- entries into every index over there.
CREATE TABLE deadlines (
    correlation_id uuid CONSTRAINT deadlines_pkey PRIMARY KEY,
    project_id     bigint NOT NULL,
    expires_at     timestamptz NOT NULL,
    scope          uuid NOT NULL,
    -- The newest wait of a scope supersedes the older one (promise 9).
    CONSTRAINT deadlines_scope_key UNIQUE (scope)
);
CREATE INDEX deadlines_due ON deadlines (expires_at);

-- Other names of a wait: the caller's own key, and the provider's ids that a
-- matched event taught. ref is a 128-bit hash of source and value, so that
-- long ids cost nothing and erased persons leave no trace.
CREATE TABLE correlation_refs (
    ref            uuid NOT NULL,
    correlation_id uuid NOT NULL,
    project_id     bigint NOT NULL,
    -- Of a caller's key: whether its wait is pending. NULL: a provider's id.
    key_active     boolean,
    CONSTRAINT correlation_refs_pkey PRIMARY KEY (ref, correlation_id)
);
CREATE UNIQUE INDEX correlation_refs_key_in_use ON correlation_refs (ref) WHERE key_active;
CREATE INDEX correlation_refs_correlation ON correlation_refs (correlation_id) WHERE key_active IS NOT NULL;

-- Idempotency-Key of POST /v1/correlations, for 24 h.
CREATE TABLE idempotency_keys (
    key            uuid CONSTRAINT idempotency_keys_pkey PRIMARY KEY, -- hash of project and key
    project_id     bigint NOT NULL,
    request        bytea NOT NULL,    -- SHA-256 of the body
    correlation_id uuid NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idempotency_keys_created ON idempotency_keys USING brin (created_at);
