DROP TABLE event_keys, events;
