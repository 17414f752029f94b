-- A destination that refuses its credentials is held: nobody calls it until
-- its credentials change or somebody resumes it.
ALTER TABLE destinations
    ADD COLUMN held_at timestamptz,
    ADD COLUMN held_reason text,
    -- Grows with each release and each change of the credentials. What an
    -- attempt says of the credentials is true of those it was made with: a
    -- refusal of older ones holds nothing.
    ADD COLUMN releases bigint NOT NULL DEFAULT 0,
    -- Its hold is over, and deliveries that waited may still be held: nodes
    -- take them in pieces, as many as they have room for.
    ADD COLUMN releasing boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT destinations_held_check CHECK ((held_at IS NULL) = (held_reason IS NULL));

-- A held delivery keeps the slot of its conversation, so that those that were
-- created after it wait behind it. Only of those that are held: the others pay
-- nothing for it.
CREATE INDEX deliveries_held ON deliveries (destination_id, id) WHERE status = 'held';
