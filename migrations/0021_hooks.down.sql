ALTER TABLE subscriptions RESET (fillfactor);
ALTER TABLE subscriptions DROP COLUMN last_number;
DROP TABLE hooks;
