-- How the pages of a project look, as people wrote it; NULL: as ours do.
ALTER TABLE projects ADD COLUMN look json;
