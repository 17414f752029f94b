-- Retention: for how long a project keeps what. It works in pieces of a few
-- hundred rows, found by the ids: they are UUIDv7, so the primary keys that
-- begin with the project are also orders of time, and nothing that receives a
-- callback pays for it.

-- As people wrote it; NULL: the defaults.
ALTER TABLE projects ADD COLUMN retention json;

-- How far the clearing of one kind has come in one project. The row's lock
-- gives the piece to one node. Rows are made when a project has none yet.
CREATE TABLE retention_cursors (
    project_id bigint NOT NULL CONSTRAINT retention_cursors_project_fkey REFERENCES projects (id),
    kind       text NOT NULL,
    after      uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000', -- the row up to which it has come
    due_at     timestamptz NOT NULL DEFAULT now(),
    done_at    timestamptz NOT NULL DEFAULT now(), -- when nothing that should be gone was left
    CONSTRAINT retention_cursors_pkey PRIMARY KEY (project_id, kind),
    CONSTRAINT retention_cursors_kind_check CHECK (kind IN ('event_body', 'attempt_body', 'correlation', 'event'))
) WITH (fillfactor = 50);

-- What a cursor has passed though it was old enough, because a call is owed
-- that needs it, or a person has had it called once more: looked at again.
CREATE TABLE retention_left (
    project_id bigint NOT NULL,
    kind       text NOT NULL,
    id         uuid NOT NULL,
    due_at     timestamptz NOT NULL DEFAULT now() + interval '1 hour',
    CONSTRAINT retention_left_pkey PRIMARY KEY (project_id, kind, id)
);

-- A plan goes with the last wait that refers to it. Most waits share one, so
-- that nearly all entries stand next to each other, and an update of a wait
-- does not touch them.
CREATE INDEX correlations_plan ON correlations (plan_id);

-- By default a table is vacuumed once a fifth of it is dead, and a fifth of ten
-- million rows is weeks of clearing: the freed room would come too late to be
-- used again, and the tables would grow by it.
ALTER TABLE events SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE correlations SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE correlation_refs SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE deliveries SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE attempts SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
