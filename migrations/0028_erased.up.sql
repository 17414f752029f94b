-- When the user of a wait was erased. Where 0025 was run before it was taken
-- apart, the column is there.
ALTER TABLE correlations ADD COLUMN IF NOT EXISTS erased_at timestamptz;
