-- Persons whose erasure was asked for and is not done yet: whoever answers the
-- request works at it, and any other node goes on if that one does not. The
-- row goes with the last wait of the person, and so does the last of the name.
CREATE TABLE erasures (
    project_id bigint NOT NULL,
    user_id    text NOT NULL,
    due_at     timestamptz NOT NULL, -- when another node may go on with it
    CONSTRAINT erasures_pkey PRIMARY KEY (project_id, user_id)
);
