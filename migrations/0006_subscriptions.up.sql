-- Third parties that are told of relay events, in Smartify's shape. Both
-- secrets are sealed: `secret` travels as x-hook-secret, `signing_secret`
-- never leaves.

CREATE TABLE subscriptions (
    id             uuid CONSTRAINT subscriptions_pkey PRIMARY KEY,
    project_id     bigint NOT NULL CONSTRAINT subscriptions_project_fkey REFERENCES projects (id),
    event          text NOT NULL,
    target         text NOT NULL,
    secret         bytea NOT NULL,
    signing_secret bytea NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT subscriptions_target_key UNIQUE (project_id, event, target)
);
