-- Search attributes in rows of their own, counters, and the order that lists have.

ALTER TABLE visibility ADD COLUMN state_transitions INTEGER NOT NULL DEFAULT 0;

-- What filters speak of and the columns above don't tell: search attributes, and whose child a run is. An attribute
-- with several values has a row for each; a text has one for each word, and an empty one. The type is that of the time
-- it was set: an attribute that was removed and registered anew with another type has other rows.
CREATE TABLE search_attributes (
  run_key   INTEGER NOT NULL,
  name      TEXT NOT NULL,
  type      INTEGER NOT NULL,
  value     ANY NOT NULL,
  namespace TEXT NOT NULL,
  PRIMARY KEY (run_key, name, type, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX search_attributes_by_value ON search_attributes (namespace, name, type, value);

-- A list begins with the runs that are open and goes on with those that closed last, so an open run counts as closing
-- later than any other: coalesce(close_ms, 1 << 62).
DROP INDEX visibility_by_close;
DROP INDEX visibility_by_status;
DROP INDEX visibility_by_type;
CREATE INDEX visibility_by_close ON visibility (namespace, coalesce(close_ms, 4611686018427387904));
CREATE INDEX visibility_by_status ON visibility (namespace, status, coalesce(close_ms, 4611686018427387904));
CREATE INDEX visibility_by_type ON visibility (namespace, workflow_type, coalesce(close_ms, 4611686018427387904));

-- How many runs there are, kept by the triggers below. A run never changes its namespace. Each row of `visibility`
-- that is inserted or updated changes two rows here, which the writer counts on.
CREATE TABLE visibility_counts (
  namespace     TEXT NOT NULL,
  workflow_type TEXT NOT NULL,
  status        INTEGER NOT NULL,
  runs          INTEGER NOT NULL,
  PRIMARY KEY (namespace, workflow_type, status)
) STRICT, WITHOUT ROWID;
CREATE TABLE visibility_totals (
  namespace TEXT PRIMARY KEY,
  runs      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO visibility_counts (namespace, workflow_type, status, runs)
SELECT namespace, workflow_type, status, count(*) FROM visibility GROUP BY namespace, workflow_type, status;
INSERT INTO visibility_totals (namespace, runs) SELECT namespace, sum(runs) FROM visibility_counts GROUP BY namespace;

CREATE TRIGGER visibility_count_new AFTER INSERT ON visibility BEGIN
  INSERT INTO visibility_counts (namespace, workflow_type, status, runs)
  VALUES (NEW.namespace, NEW.workflow_type, NEW.status, 1)
  ON CONFLICT (namespace, workflow_type, status) DO UPDATE SET runs = runs + 1;
  INSERT INTO visibility_totals (namespace, runs) VALUES (NEW.namespace, 1)
  ON CONFLICT (namespace) DO UPDATE SET runs = runs + 1;
END;
CREATE TRIGGER visibility_count_changed AFTER UPDATE ON visibility BEGIN
  UPDATE visibility_counts SET runs = runs - 1
  WHERE namespace = OLD.namespace AND workflow_type = OLD.workflow_type AND status = OLD.status;
  INSERT INTO visibility_counts (namespace, workflow_type, status, runs)
  VALUES (NEW.namespace, NEW.workflow_type, NEW.status, 1)
  ON CONFLICT (namespace, workflow_type, status) DO UPDATE SET runs = runs + 1;
END;
CREATE TRIGGER visibility_count_gone AFTER DELETE ON visibility BEGIN
  UPDATE visibility_counts SET runs = runs - 1
  WHERE namespace = OLD.namespace AND workflow_type = OLD.workflow_type AND status = OLD.status;
  UPDATE visibility_totals SET runs = runs - 1 WHERE namespace = OLD.namespace;
END;
