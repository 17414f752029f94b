-- Without its key such a secret would prove callbacks of every tenant of the
-- server at the source's plain address.
DELETE FROM source_secrets WHERE subscribed;
ALTER TABLE source_secrets DROP COLUMN subscribed;
DROP TABLE remote_subscriptions;
