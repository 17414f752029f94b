-- Tenants and the keys that act for them. Every other table carries
-- project_id: nothing crosses a project.

CREATE TABLE projects (
    id         bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT projects_pkey PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- A deleted project answers 404 everywhere; its rows go by retention.
    deleted_at timestamptz,
    CONSTRAINT projects_name_check CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$')
);
CREATE UNIQUE INDEX projects_name_key ON projects (name) WHERE deleted_at IS NULL;

CREATE TABLE api_keys (
    id         uuid CONSTRAINT api_keys_pkey PRIMARY KEY,
    -- NULL: an instance key, which chooses its project by a header.
    project_id bigint CONSTRAINT api_keys_project_fkey REFERENCES projects (id),
    name       text NOT NULL,
    scope      text NOT NULL,
    -- SHA-256 of the key. A key is 160 random bits (or an operator's own
    -- string of at least 20 characters), so a slow hash would add nothing
    -- but a way to exhaust the CPU.
    hash       bytea NOT NULL,
    hint       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT api_keys_hash_key UNIQUE (hash),
    CONSTRAINT api_keys_scope_check CHECK (scope IN ('read', 'create', 'write', 'admin', 'instance')),
    CONSTRAINT api_keys_instance_check CHECK ((scope = 'instance') = (project_id IS NULL))
);

-- One row, one number: it grows with every change of the configuration, so
-- that a node that missed the notification sees by polling that it is behind.
CREATE TABLE configuration (
    only_row boolean NOT NULL DEFAULT true CONSTRAINT configuration_pkey PRIMARY KEY,
    version  bigint NOT NULL,
    CONSTRAINT configuration_only_row_check CHECK (only_row)
);
INSERT INTO configuration (version) VALUES (1);
INSERT INTO projects (name) VALUES ('default');
