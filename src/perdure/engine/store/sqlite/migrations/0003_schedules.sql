-- Schedules: what each was asked to be, and how far it is. The second changes with every action.

CREATE TABLE schedules (
  namespace   TEXT NOT NULL,
  schedule_id TEXT NOT NULL,
  definition  BLOB NOT NULL,
  state       BLOB NOT NULL,
  PRIMARY KEY (namespace, schedule_id)
) STRICT;
