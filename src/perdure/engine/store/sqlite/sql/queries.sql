-- Reads. Each is short and ends its transaction at once, so that checkpoints are never held up.

-- name: claim
-- Become the owner: commits of whoever owned the store before are refused from now on.
UPDATE fence SET epoch = epoch + 1 WHERE id = 1 RETURNING epoch;

-- name: count_tables
SELECT count(*) FROM sqlite_schema;

-- name: max_run_key
SELECT max(run_key) FROM runs;

-- name: load_run
-- The run as item 0, and its items, in one statement: in two, a commit could come between.
SELECT 0 AS event_id, state AS data, run_id, wake_at_ms FROM runs WHERE run_key = ?1
UNION ALL
SELECT event_id, data, NULL, NULL FROM items WHERE run_key = ?1;

-- name: current_run
SELECT run_key FROM current WHERE namespace = ? AND workflow_id = ?;

-- name: find_run
SELECT run_key FROM visibility WHERE namespace = ? AND workflow_id = ? AND run_id = ?;

-- name: read_history
-- From the batch that contains an event: the one with the greatest first id not above it.
SELECT first_event_id, data FROM history
WHERE run_key = ?1 AND first_event_id >= coalesce(
  (SELECT max(first_event_id) FROM history WHERE run_key = ?1 AND first_event_id <= ?2), ?2)
ORDER BY first_event_id;

-- name: read_history_reverse
SELECT first_event_id, data FROM history WHERE run_key = ?1 AND first_event_id <= ?2 ORDER BY first_event_id DESC;

-- name: due_runs
-- After a pair: first the rest of its own instant, then later ones, so that many runs due at once page in order.
SELECT * FROM (
  SELECT wake_at_ms, run_key FROM runs
  WHERE wake_at_ms = ?2 AND ?2 <= ?1 AND run_key > ?3 ORDER BY run_key LIMIT ?4)
UNION ALL
SELECT * FROM (
  SELECT wake_at_ms, run_key FROM runs
  WHERE wake_at_ms > ?2 AND wake_at_ms <= ?1 ORDER BY wake_at_ms, run_key LIMIT ?4)
LIMIT ?4;

-- name: load_schedules
SELECT namespace, schedule_id, definition, state FROM schedules
WHERE (namespace, schedule_id) > (?1, ?2) ORDER BY namespace, schedule_id LIMIT ?3;

-- name: load_namespaces
SELECT name, data FROM namespaces ORDER BY name;

-- name: load_meta
SELECT data FROM meta WHERE name = ?;
