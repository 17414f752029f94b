-- News for those who subscribe: a row for each piece of news and subscription,
-- born in the transaction of what it tells. A row goes when it was delivered,
-- so that the table holds what is owed and what is dead. Where nobody
-- subscribes nothing is ever written here.
CREATE TABLE hooks (
    project_id      bigint NOT NULL,
    -- A UUIDv7, made here because one change has as many hooks as it has
    -- subscriptions, and they are counted by the statement that writes them.
    id              uuid NOT NULL DEFAULT encode(set_bit(set_bit(
        overlay(uuid_send(gen_random_uuid())
                PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid,
    subscription_id uuid NOT NULL,
    -- Grows from a change to all that come after it and know of it: whoever
    -- makes them holds the lock of the same wait. That is no number to be
    -- shown: it counts the hooks of all projects, and those that were undone.
    born            bigint GENERATED ALWAYS AS IDENTITY,
    event           text NOT NULL,
    correlation_id  uuid,
    happened_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    payload         json NOT NULL,     -- an object, of nobody in person
    personal        json,              -- an object that is told with it; NULL: erased
    number          bigint,            -- of its subscription; NULL: no node has taken it yet
    attempts        integer NOT NULL DEFAULT 0,
    due_at          timestamptz,       -- of the next attempt, or the end of the lease
    lease           uuid,
    give_up_at      timestamptz NOT NULL,
    died_at         timestamptz,
    class           attempt_class,     -- of the last attempt
    http_status     integer,
    reason          text,
    CONSTRAINT hooks_pkey PRIMARY KEY (project_id, id),
    CONSTRAINT hooks_due_check CHECK ((due_at IS NOT NULL) = (number IS NOT NULL AND died_at IS NULL)),
    CONSTRAINT hooks_lease_check CHECK (lease IS NULL OR due_at IS NOT NULL),
    CONSTRAINT hooks_attempt_check CHECK ((attempts = 0) = (class IS NULL))
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02
);
-- By subscription, so that what is owed to one that does not answer is in
-- nobody else's way.
CREATE INDEX hooks_new ON hooks (subscription_id, born) WHERE number IS NULL AND died_at IS NULL;
CREATE INDEX hooks_due ON hooks (subscription_id, due_at) WHERE due_at IS NOT NULL;
-- For erasures.
CREATE INDEX hooks_correlation ON hooks (correlation_id) WHERE personal IS NOT NULL;

-- The number of the newest hook. A node that takes new ones has the row's
-- lock, and gives them the next numbers.
ALTER TABLE subscriptions ADD COLUMN last_number bigint NOT NULL DEFAULT 0;
ALTER TABLE subscriptions SET (fillfactor = 50);
