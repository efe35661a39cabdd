-- The parts list and count statements are put together from by `visibility.py`; every value is a bound parameter.

-- name: list
SELECT run_key, namespace, workflow_id, run_id, workflow_type, task_queue, status, start_ms, execution_ms, close_ms,
       history_length, history_bytes, info
FROM visibility

-- name: count
SELECT count(*) FROM visibility

-- name: count_by_status
SELECT status, count(*) FROM visibility

-- name: page_order
ORDER BY start_ms DESC, run_key DESC LIMIT :limit

-- name: group_order
GROUP BY status
