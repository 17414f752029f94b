ALTER TABLE deliveries DROP COLUMN retries;
