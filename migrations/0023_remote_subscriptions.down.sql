ALTER TABLE source_secrets DROP COLUMN subscribed;
DROP TABLE remote_subscriptions;
