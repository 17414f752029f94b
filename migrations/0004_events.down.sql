DROP TABLE events;
DROP DOMAIN verdict, match, body_format;
