ALTER TABLE correlations DROP COLUMN erased_at;
