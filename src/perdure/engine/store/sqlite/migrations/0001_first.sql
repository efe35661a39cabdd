-- The tables of a Perdure database. The application_id and the schema's number (user_version) are set beside
-- this script, in the same transaction.
--
-- Rows sealed with a checksum (history.data, runs.state, items.data) end with four bytes: the CRC-32 of the row's key
-- and its bytes. SQLite itself does not notice a flipped bit inside a value.

-- Who may write. Claiming the store adds one to the epoch; every commit states the epoch it was claimed with.
CREATE TABLE fence (
  id    INTEGER PRIMARY KEY CHECK (id = 1),
  epoch INTEGER NOT NULL
) STRICT;
INSERT INTO fence VALUES (1, 0);

-- Small named blobs.
CREATE TABLE meta (
  name TEXT PRIMARY KEY,
  data BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE namespaces (
  name TEXT PRIMARY KEY,
  data BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The mutable state of each run, rewritten with each of its commits.
CREATE TABLE runs (
  run_key    INTEGER PRIMARY KEY,
  run_id     TEXT NOT NULL,
  wake_at_ms INTEGER,
  state      BLOB NOT NULL
) STRICT;
-- Only runs that will need something by themselves; sleepers on the outside cost nothing here.
CREATE INDEX runs_by_wake ON runs (wake_at_ms) WHERE wake_at_ms IS NOT NULL;

-- Pending items of runs that have many of them.
CREATE TABLE items (
  run_key  INTEGER NOT NULL,
  event_id INTEGER NOT NULL,
  data     BLOB NOT NULL,
  PRIMARY KEY (run_key, event_id)
) STRICT, WITHOUT ROWID;

-- Append-ordered: the batches of many runs share pages as they are written, so a commit of fifty runs touches a few
-- pages and not fifty. The index brings the batches of one run together.
CREATE TABLE history (
  id             INTEGER PRIMARY KEY,
  run_key        INTEGER NOT NULL,
  first_event_id INTEGER NOT NULL,
  data           BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX history_by_run ON history (run_key, first_event_id);

-- The latest run of each workflow id.
CREATE TABLE current (
  namespace   TEXT NOT NULL,
  workflow_id TEXT NOT NULL,
  run_key     INTEGER NOT NULL,
  PRIMARY KEY (namespace, workflow_id)
) STRICT, WITHOUT ROWID;
-- For erasing a run.
CREATE INDEX current_by_run ON current (run_key);

-- What list and count know of each run. Each index ends, as all do, with the run_key: the order of a page.
CREATE TABLE visibility (
  run_key        INTEGER PRIMARY KEY,
  namespace      TEXT NOT NULL,
  workflow_id    TEXT NOT NULL,
  run_id         TEXT NOT NULL,
  workflow_type  TEXT NOT NULL,
  task_queue     TEXT NOT NULL,
  status         INTEGER NOT NULL,
  start_ms       INTEGER NOT NULL,
  execution_ms   INTEGER NOT NULL,
  close_ms       INTEGER,
  history_length INTEGER NOT NULL,
  history_bytes  INTEGER NOT NULL,
  info           BLOB NOT NULL
) STRICT;
CREATE INDEX visibility_by_start ON visibility (namespace, start_ms);
CREATE INDEX visibility_by_status ON visibility (namespace, status, start_ms);
CREATE INDEX visibility_by_type ON visibility (namespace, workflow_type, start_ms);
CREATE INDEX visibility_by_workflow ON visibility (namespace, workflow_id, run_id);
CREATE INDEX visibility_by_close ON visibility (namespace, close_ms) WHERE close_ms IS NOT NULL;
