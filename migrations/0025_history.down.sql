DROP TABLE holds;
ALTER TABLE events
    DROP COLUMN first_match,
    DROP COLUMN first_rule,
    DROP COLUMN decided_at,
    DROP COLUMN replayed_at;
