-- When a person first opened the link of a wait. A table of its own: a column
-- of the wait would cost the page of each wait the room of one more version,
-- and an opening would stand in the way of the callback that holds its row.
CREATE TABLE openings (
    correlation_id uuid CONSTRAINT openings_pkey PRIMARY KEY,
    project_id     bigint NOT NULL,
    opened_at      timestamptz NOT NULL
);
