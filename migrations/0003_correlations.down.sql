DROP TABLE idempotency_keys, correlation_refs, deadlines, correlations, plans;
