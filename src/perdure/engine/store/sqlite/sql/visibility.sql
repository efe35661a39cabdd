-- The parts list and count statements are put together from by `compiler.py` and `visibility.py`; every value is a
-- bound parameter.

-- name: listed
SELECT run_key, namespace, workflow_id, run_id, workflow_type, task_queue, status, start_ms, execution_ms, close_ms,
       history_length, history_bytes, info, state_transitions

-- name: count_all
SELECT runs FROM visibility_totals

-- name: has_attribute
SELECT 1 FROM search_attributes WHERE namespace = ?1 AND name = ?2 AND type = ?3 LIMIT 1
