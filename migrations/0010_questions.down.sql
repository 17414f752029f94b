ALTER TABLE correlations
    DROP CONSTRAINT correlations_asks_check,
    DROP COLUMN reconciled,
    DROP COLUMN asks_source,
    DROP COLUMN asks;
ALTER TABLE events DROP COLUMN answer;
DROP TABLE questions;
DROP DOMAIN question_result;
