-- When the user of a wait was erased.
ALTER TABLE correlations ADD erased_at timestamptz;
