-- The newest retries by hand: when, and from what. [{"at", "was", "ended_at"}]
ALTER TABLE deliveries ADD retries jsonb;
