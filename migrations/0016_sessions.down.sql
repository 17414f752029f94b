DROP TABLE destination_sessions;
