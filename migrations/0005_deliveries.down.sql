DROP TABLE attempts, deliveries;
DROP DOMAIN delivery_status, attempt_class;
