DROP TABLE attempts, deliveries;
