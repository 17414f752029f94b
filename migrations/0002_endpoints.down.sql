DROP TABLE flows, source_activity, source_secrets, sources, destinations;
