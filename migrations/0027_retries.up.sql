-- The newest retries by hand: when, and from what. [{"at", "was", "ended_at"}]
-- Where 0025 was run before it was taken apart, the column is there.
ALTER TABLE deliveries ADD COLUMN IF NOT EXISTS retries jsonb;
