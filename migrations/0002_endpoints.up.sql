-- What people configure: where to call (destinations), who calls (sources),
-- and the reusable waits between them (flows). All of it fits into a node's
-- memory and is read from there; these tables are read as a whole.

CREATE TABLE destinations (
    id              bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT destinations_pkey PRIMARY KEY,
    project_id      bigint NOT NULL CONSTRAINT destinations_project_fkey REFERENCES projects (id),
    name            text NOT NULL,
    platform        text NOT NULL,
    -- The public fields as given, secrets apart.
    doc             json NOT NULL,
    -- Sealed JSON object of the secret fields.
    secrets         bytea,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    -- Deliveries that are owed outlive the name: a deleted destination still
    -- takes what was promised to it.
    deleted_at      timestamptz,
    CONSTRAINT destinations_name_check CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$')
);
CREATE UNIQUE INDEX destinations_name_key ON destinations (project_id, name) WHERE deleted_at IS NULL;

CREATE TABLE sources (
    id              bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT sources_pkey PRIMARY KEY,
    project_id      bigint NOT NULL CONSTRAINT sources_project_fkey REFERENCES projects (id),
    name            text NOT NULL,
    provider        text NOT NULL,
    doc             json NOT NULL,
    -- Sealed JSON object of the credentials to ask the provider with; what
    -- callbacks are verified with stands in source_secrets.
    credentials     bytea,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    deleted_at      timestamptz,
    CONSTRAINT sources_name_check CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$')
);
CREATE UNIQUE INDEX sources_name_key ON sources (project_id, name) WHERE deleted_at IS NULL;

CREATE TABLE source_secrets (
    id           uuid CONSTRAINT source_secrets_pkey PRIMARY KEY,
    project_id   bigint NOT NULL,
    source_id    bigint NOT NULL CONSTRAINT source_secrets_source_fkey REFERENCES sources (id) ON DELETE CASCADE,
    sealed       bytea NOT NULL,
    -- Of the plain secret, so that PUT with an unchanged secret changes nothing.
    digest       bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    CONSTRAINT source_secrets_digest_key UNIQUE (source_id, digest)
);

-- What a source was last seen doing. Apart from sources, and flushed at most
-- once a second per node, because a row that every callback updates would be
-- the hottest row of the database.
CREATE TABLE source_activity (
    source_id     bigint CONSTRAINT source_activity_pkey PRIMARY KEY
                         CONSTRAINT source_activity_source_fkey REFERENCES sources (id) ON DELETE CASCADE,
    project_id    bigint NOT NULL,
    last_event_at timestamptz,
    last_error    text,
    last_error_at timestamptz
);

CREATE TABLE flows (
    id         bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT flows_pkey PRIMARY KEY,
    project_id bigint NOT NULL CONSTRAINT flows_project_fkey REFERENCES projects (id),
    name       text NOT NULL,
    doc        json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT flows_name_key UNIQUE (project_id, name),
    CONSTRAINT flows_name_check CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$')
);

-- The built-in source of hosted forms: every project has it.
INSERT INTO sources (project_id, name, provider, doc)
SELECT id, 'form', 'form', '{}' FROM projects;
