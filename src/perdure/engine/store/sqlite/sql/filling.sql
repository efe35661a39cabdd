-- For migrations that need more than SQL (see filling.py).

-- name: runs_with_more_info
SELECT run_key, namespace, info FROM visibility WHERE length(info) > 0;

-- name: add_search_attribute
INSERT INTO search_attributes (run_key, namespace, name, type, value) VALUES (?, ?, ?, ?, ?);
