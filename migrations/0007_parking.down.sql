DROP TABLE parked_refs;
UPDATE events SET match = 'unmatched', rule = 'nobody_waits', dedupe_key = NULL WHERE match = 'parked';
ALTER TABLE events DROP request;
