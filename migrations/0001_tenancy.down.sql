DROP TABLE configuration, api_keys, projects;
