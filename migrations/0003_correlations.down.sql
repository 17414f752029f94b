DROP TABLE idempotency_keys, correlation_refs, deadlines, correlations, plans;
DROP DOMAIN correlation_status, outcome, resolver;
