-- What sources with `subscribe` have subscribed to at their platforms: a row
-- for each event that is subscribed to there, or may be. It holds all that it
-- takes to end the subscription, so that it outlives the source and the
-- destination, and goes when the subscription is certainly gone. Nodes work
-- the rows off: the table says what is wanted, a node makes it so.
CREATE TABLE remote_subscriptions (
    id             uuid CONSTRAINT remote_subscriptions_pkey PRIMARY KEY,
    project_id     bigint NOT NULL,
    source_id      bigint NOT NULL,
    destination_id bigint NOT NULL,
    -- The account there: its address and its project. Another account is
    -- another subscription, and the one before is to be ended.
    place          text NOT NULL,
    event          text NOT NULL,
    -- Sealed JSON: the credentials, the source's address and the key that the
    -- platform is given in it. The digest is of the plain text.
    sealed         bytea NOT NULL,
    digest         bytea NOT NULL,
    unwanted_at    timestamptz,        -- NULL: it is to be there
    -- Grows with each change of what is wanted: what was done for an earlier
    -- one is not the last word.
    revision       bigint NOT NULL DEFAULT 0,
    -- The platform's id of the one that is ours and whose secret we hold.
    remote_id      text,
    secret_id      uuid CONSTRAINT remote_subscriptions_secret_fkey REFERENCES source_secrets (id) ON DELETE SET NULL,
    checked_at     timestamptz,        -- when it was last seen as it is wanted
    failures       integer NOT NULL DEFAULT 0, -- in a row
    last_error     text,
    last_error_at  timestamptz,
    due_at         timestamptz NOT NULL DEFAULT now(),
    -- Apart from due_at, so that a change can make a row due while a node is at
    -- it: the lease keeps the others away all the same.
    lease          uuid,
    leased_until   timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT remote_subscriptions_key UNIQUE (source_id, place, event),
    CONSTRAINT remote_subscriptions_lease_check CHECK ((lease IS NULL) = (leased_until IS NULL)),
    CONSTRAINT remote_subscriptions_failures_check CHECK ((failures = 0) = (last_error IS NULL)),
    CONSTRAINT remote_subscriptions_error_check CHECK ((last_error IS NULL) = (last_error_at IS NULL))
);
CREATE INDEX remote_subscriptions_due ON remote_subscriptions (due_at);
-- For the metric: nearly always empty.
CREATE INDEX remote_subscriptions_failing ON remote_subscriptions (id) WHERE failures > 0;
CREATE INDEX remote_subscriptions_project ON remote_subscriptions (project_id);
CREATE INDEX remote_subscriptions_secret ON remote_subscriptions (secret_id);

-- One that a platform gave with a subscription. It proves a callback only at
-- the source's own address, since the platform may give it to others too; and
-- who sets a source's secrets does not drop it.
ALTER TABLE source_secrets ADD COLUMN subscribed boolean NOT NULL DEFAULT false;
