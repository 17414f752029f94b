-- Replays: stored events that a person wants to be matched again, worked off
-- in pieces by whichever node comes first. A node that dies leaves the piece
-- to another, which may take it from its beginning: no event fires twice.
CREATE TABLE replays (
    id         uuid CONSTRAINT replays_pkey PRIMARY KEY,
    project_id bigint NOT NULL,
    filter     json NOT NULL,    -- which events
    after      uuid NOT NULL,    -- the event up to which it has come
    remaining  integer NOT NULL, -- events that it may still take
    changed    integer NOT NULL DEFAULT 0, -- events that came to something else than before
    due_at     timestamptz NOT NULL DEFAULT now(), -- while a node works on a piece: when another may take it
    created_at timestamptz NOT NULL DEFAULT now(),
    done_at    timestamptz
);
CREATE INDEX replays_due ON replays (due_at) WHERE done_at IS NULL;
