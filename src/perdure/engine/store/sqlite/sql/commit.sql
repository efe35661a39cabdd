-- One commit is one SQL statement: an INSERT into a view of the writer's connection whose triggers write all tables.
-- One statement means one call into SQLite that releases and takes back the interpreter lock once, however many rows
-- there are, and it is a transaction by itself.
--
-- Each argument is an array (carray) of records as `records.py` packs them: fixed-width decimal numbers in front, then
-- the variable part. Absent arguments are NULL and give no rows. Positions below are 1-based bytes of a record.
--
-- An array is a pointer in disguise: it survives as NEW.x, but would turn into NULL, that is into no rows, if it went
-- through a subquery first. The writer counts the rows a commit has changed and acknowledges none that is short.
--
-- Deletes have a trigger of their own, since even deleting nothing from a table with many indexes costs some
-- microseconds. SQLite fires triggers newest first, so it is created before the one that must precede it.

-- name: batch_view
CREATE TEMP VIEW batch AS
SELECT NULL AS epoch, NULL AS has_deletes, NULL AS histories, NULL AS runs, NULL AS items, NULL AS item_deletes,
       NULL AS currents, NULL AS visibility, NULL AS namespaces, NULL AS metas, NULL AS run_deletes,
       NULL AS has_attributes, NULL AS attribute_runs, NULL AS attributes, NULL AS namespace_deletes,
       NULL AS has_schedules, NULL AS schedules, NULL AS schedule_states, NULL AS schedule_deletes;

-- name: batch_deletes
CREATE TEMP TRIGGER batch_delete INSTEAD OF INSERT ON batch WHEN NEW.has_deletes BEGIN
  -- run_key 12, event_id 10
  DELETE FROM items WHERE (run_key, event_id) IN (
    SELECT CAST(substr(value, 1, 12) AS INTEGER), CAST(substr(value, 13, 10) AS INTEGER)
    FROM carray(NEW.item_deletes));

  -- int64 numbers
  DELETE FROM history WHERE run_key IN (SELECT value FROM carray(NEW.run_deletes));
  DELETE FROM items WHERE run_key IN (SELECT value FROM carray(NEW.run_deletes));
  DELETE FROM current WHERE run_key IN (SELECT value FROM carray(NEW.run_deletes));
  DELETE FROM visibility WHERE run_key IN (SELECT value FROM carray(NEW.run_deletes));
  DELETE FROM search_attributes WHERE run_key IN (SELECT value FROM carray(NEW.run_deletes));
  DELETE FROM runs WHERE run_key IN (SELECT value FROM carray(NEW.run_deletes));

  -- names
  DELETE FROM namespaces WHERE name IN (SELECT CAST(value AS TEXT) FROM carray(NEW.namespace_deletes));
  DELETE FROM visibility_counts WHERE namespace IN (SELECT CAST(value AS TEXT) FROM carray(NEW.namespace_deletes));
  DELETE FROM visibility_totals WHERE namespace IN (SELECT CAST(value AS TEXT) FROM carray(NEW.namespace_deletes));
END;

-- name: batch_attributes
-- Most commits have none.
CREATE TEMP TRIGGER batch_attribute INSTEAD OF INSERT ON batch WHEN NEW.has_attributes BEGIN
  -- int64 numbers: runs whose attributes are replaced
  DELETE FROM search_attributes WHERE run_key IN (SELECT value FROM carray(NEW.attribute_runs));

  -- run_key 12, type 2, number 21 (blank = the value is the text at the end), lengths 6 each of namespace and name;
  -- these; text
  INSERT INTO search_attributes (run_key, type, namespace, name, value)
  SELECT CAST(substr(value, 1, 12) AS INTEGER), CAST(substr(value, 13, 2) AS INTEGER),
         CAST(substr(value, 48, a) AS TEXT), CAST(substr(value, 48 + a, b) AS TEXT),
         CASE WHEN trim(CAST(substr(value, 15, 21) AS TEXT)) = '' THEN CAST(substr(value, 48 + a + b) AS TEXT)
              ELSE CAST(CAST(substr(value, 15, 21) AS TEXT) AS INTEGER) END
  FROM (SELECT value, CAST(substr(value, 36, 6) AS INTEGER) AS a, CAST(substr(value, 42, 6) AS INTEGER) AS b
        FROM carray(NEW.attributes));
END;

-- name: batch_schedules
-- Most commits have none. Definitions first: a state goes into a row that is there.
CREATE TEMP TRIGGER batch_schedule INSTEAD OF INSERT ON batch WHEN NEW.has_schedules BEGIN
  -- lengths of namespace and schedule_id 6 each; these; definition
  INSERT INTO schedules (namespace, schedule_id, definition, state)
  SELECT CAST(substr(value, 13, a) AS TEXT), CAST(substr(value, 13 + a, b) AS TEXT), substr(value, 13 + a + b), x''
  FROM (SELECT value, CAST(substr(value, 1, 6) AS INTEGER) AS a, CAST(substr(value, 7, 6) AS INTEGER) AS b
        FROM carray(NEW.schedules)) WHERE true
  ON CONFLICT (namespace, schedule_id) DO UPDATE SET definition = excluded.definition;

  -- the same; state
  UPDATE schedules SET state = given.state
  FROM (SELECT CAST(substr(value, 13, a) AS TEXT) AS namespace, CAST(substr(value, 13 + a, b) AS TEXT) AS schedule_id,
               substr(value, 13 + a + b) AS state
        FROM (SELECT value, CAST(substr(value, 1, 6) AS INTEGER) AS a, CAST(substr(value, 7, 6) AS INTEGER) AS b
              FROM carray(NEW.schedule_states))) AS given
  WHERE schedules.namespace = given.namespace AND schedules.schedule_id = given.schedule_id;

  -- the same, and nothing else
  DELETE FROM schedules WHERE (namespace, schedule_id) IN (
    SELECT CAST(substr(value, 13, CAST(substr(value, 1, 6) AS INTEGER)) AS TEXT),
           CAST(substr(value, 13 + CAST(substr(value, 1, 6) AS INTEGER)) AS TEXT)
    FROM carray(NEW.schedule_deletes));
END;

-- name: batch_upserts
CREATE TEMP TRIGGER batch_write INSTEAD OF INSERT ON batch BEGIN
  -- The fence: refuse everything once another owner has claimed the store.
  SELECT RAISE(ABORT, 'perdure: fenced') WHERE (SELECT epoch FROM main.fence WHERE id = 1) IS NOT NEW.epoch;

  -- run_key 12, first_event_id 10, data
  INSERT INTO history (run_key, first_event_id, data)
  SELECT CAST(substr(value, 1, 12) AS INTEGER), CAST(substr(value, 13, 10) AS INTEGER), substr(value, 23)
  FROM carray(NEW.histories);

  -- run_key 12, wake_at_ms 15 (-1 = none), length of run_id 6, run_id, state
  INSERT INTO runs (run_key, wake_at_ms, run_id, state)
  SELECT CAST(substr(value, 1, 12) AS INTEGER), nullif(CAST(substr(value, 13, 15) AS INTEGER), -1),
         CAST(substr(value, 34, CAST(substr(value, 28, 6) AS INTEGER)) AS TEXT),
         substr(value, 34 + CAST(substr(value, 28, 6) AS INTEGER))
  FROM carray(NEW.runs) WHERE true
  ON CONFLICT (run_key) DO UPDATE
  SET wake_at_ms = excluded.wake_at_ms, run_id = excluded.run_id, state = excluded.state;

  -- run_key 12, event_id 10, data
  INSERT INTO items (run_key, event_id, data)
  SELECT CAST(substr(value, 1, 12) AS INTEGER), CAST(substr(value, 13, 10) AS INTEGER), substr(value, 23)
  FROM carray(NEW.items) WHERE true
  ON CONFLICT (run_key, event_id) DO UPDATE SET data = excluded.data;

  -- run_key 12, length of namespace 6, namespace, workflow_id
  INSERT INTO current (run_key, namespace, workflow_id)
  SELECT CAST(substr(value, 1, 12) AS INTEGER),
         CAST(substr(value, 19, CAST(substr(value, 13, 6) AS INTEGER)) AS TEXT),
         CAST(substr(value, 19 + CAST(substr(value, 13, 6) AS INTEGER)) AS TEXT)
  FROM carray(NEW.currents) WHERE true
  ON CONFLICT (namespace, workflow_id) DO UPDATE SET run_key = excluded.run_key;

  -- The names of a run and its start never change, and to write them anew would be to write two indexes anew.
  -- run_key 12, status 6, start_ms 15, execution_ms 15, close_ms 15 (-1 = none), history_length 12, history_bytes 15,
  -- state_transitions 12, lengths 6 each of namespace, workflow_id, run_id, workflow_type, task_queue; these; info
  INSERT INTO visibility (run_key, status, start_ms, execution_ms, close_ms, history_length, history_bytes,
                          state_transitions, namespace, workflow_id, run_id, workflow_type, task_queue, info)
  SELECT CAST(substr(value, 1, 12) AS INTEGER), CAST(substr(value, 13, 6) AS INTEGER),
         CAST(substr(value, 19, 15) AS INTEGER), CAST(substr(value, 34, 15) AS INTEGER),
         nullif(CAST(substr(value, 49, 15) AS INTEGER), -1), CAST(substr(value, 64, 12) AS INTEGER),
         CAST(substr(value, 76, 15) AS INTEGER), CAST(substr(value, 91, 12) AS INTEGER),
         CAST(substr(value, 133, a) AS TEXT), CAST(substr(value, 133 + a, b) AS TEXT),
         CAST(substr(value, 133 + a + b, c) AS TEXT), CAST(substr(value, 133 + a + b + c, d) AS TEXT),
         CAST(substr(value, 133 + a + b + c + d, e) AS TEXT), substr(value, 133 + a + b + c + d + e)
  FROM (SELECT value, CAST(substr(value, 103, 6) AS INTEGER) AS a, CAST(substr(value, 109, 6) AS INTEGER) AS b,
               CAST(substr(value, 115, 6) AS INTEGER) AS c, CAST(substr(value, 121, 6) AS INTEGER) AS d,
               CAST(substr(value, 127, 6) AS INTEGER) AS e
        FROM carray(NEW.visibility)) WHERE true
  ON CONFLICT (run_key) DO UPDATE
  SET status = excluded.status, execution_ms = excluded.execution_ms, close_ms = excluded.close_ms,
      history_length = excluded.history_length, history_bytes = excluded.history_bytes,
      state_transitions = excluded.state_transitions, task_queue = excluded.task_queue, info = excluded.info;

  -- length of name 6, name, data
  INSERT INTO namespaces (name, data)
  SELECT CAST(substr(value, 7, CAST(substr(value, 1, 6) AS INTEGER)) AS TEXT),
         substr(value, 7 + CAST(substr(value, 1, 6) AS INTEGER))
  FROM carray(NEW.namespaces) WHERE true
  ON CONFLICT (name) DO UPDATE SET data = excluded.data;

  INSERT INTO meta (name, data)
  SELECT CAST(substr(value, 7, CAST(substr(value, 1, 6) AS INTEGER)) AS TEXT),
         substr(value, 7 + CAST(substr(value, 1, 6) AS INTEGER))
  FROM carray(NEW.metas) WHERE true
  ON CONFLICT (name) DO UPDATE SET data = excluded.data;
END;

-- name: batch_insert
INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);
