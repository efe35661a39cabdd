-- The statements of lists and counts. `compiler.py` and `visibility.py` fill the braces: with numbered parameters, with
-- columns, indexes and orders from their tables, and with other blocks of this file. Values are always bound.

-- name: page
SELECT run_key, namespace, workflow_id, run_id, workflow_type, task_queue, status, start_ms, execution_ms, close_ms,
       history_length, history_bytes, info, state_transitions, {keys}
FROM {source}{place} ORDER BY {order} LIMIT {limit}

-- name: all_runs
visibility INDEXED BY {index} WHERE namespace = {namespace} AND {condition}

-- name: few_runs
visibility NOT INDEXED WHERE run_key IN ({candidates}) AND namespace = {namespace} AND {condition}

-- name: counters
visibility_counts WHERE namespace = {namespace} AND {condition}

-- name: count_everything
SELECT runs FROM visibility_totals WHERE namespace = {namespace}

-- name: count_by_counters
SELECT sum(runs) FROM {source}

-- name: count_runs
SELECT count(*) FROM {source}

-- name: count_some
SELECT count(*) FROM (SELECT 1 FROM ({candidates}) LIMIT {limit})

-- name: group_by_counters
SELECT {column}, sum(runs) FROM {source} AND runs > 0 GROUP BY 1 ORDER BY 1 LIMIT {limit}

-- name: group_runs
SELECT {column}, count(*) FROM {source} GROUP BY 1 ORDER BY 1 LIMIT {limit}

-- name: group_by_attribute
SELECT b.value, count(*)
FROM search_attributes AS b INDEXED BY search_attributes_by_value
CROSS JOIN visibility ON visibility.run_key = b.run_key
WHERE b.namespace = {namespace} AND b.name = {name} AND b.type = {type} AND {condition}
GROUP BY 1 ORDER BY 1 LIMIT {limit}

-- name: has_attribute
SELECT 1 FROM search_attributes WHERE namespace = {namespace} AND name = {name} AND type = {type} LIMIT 1

-- name: has_value
-- It names no namespace, so that SQLite looks up the run and not the value.
EXISTS (SELECT 1 FROM search_attributes AS a
        WHERE a.run_key = visibility.run_key AND a.name = {name} AND a.type = {type}{fits})

-- name: sort_value
(SELECT {pick}(a.value) FROM search_attributes AS a
 WHERE a.run_key = visibility.run_key AND a.name = {name} AND a.type = {type})

-- name: runs_by_column
SELECT run_key FROM visibility INDEXED BY {index} WHERE namespace = {namespace} AND {fits}

-- name: runs_by_attribute
SELECT run_key FROM search_attributes INDEXED BY search_attributes_by_value
WHERE namespace = {namespace} AND name = {name} AND type = {type} AND {fits}
