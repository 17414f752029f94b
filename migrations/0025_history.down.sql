DROP TABLE holds;
ALTER TABLE correlations DROP COLUMN erased_at;
ALTER TABLE deliveries DROP COLUMN retries;
ALTER TABLE events
    DROP COLUMN first_match,
    DROP COLUMN first_rule,
    DROP COLUMN decided_at,
    DROP COLUMN replayed_at;
