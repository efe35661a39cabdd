"""Databases of earlier releases open, and lose nothing on the way."""

from __future__ import annotations

from pathlib import Path

import apsw

from perdure.api import messages as m
from perdure.engine.store.sqlite import SqliteStore, connection
from perdure.engine.store.sqlite.statements import load_migrations
from perdure.engine.visibility.attributes import KEYWORD, KEYWORD_LIST
from perdure.engine.visibility.expressions import Attribute, In, VisibilityQuery
from tests.store.rows import COMPLETED, EVERYTHING, RUNNING, by_status, list_keys, listed

INSERT = "INSERT INTO visibility VALUES (?, 'default', ?, ?, 'Order', 'orders', ?, ?, ?, ?, ?, ?, ?)"


def database_of_schema_1(path: Path) -> None:
    """Three runs as the first release wrote them: one with search attributes, one a child."""
    (_, script), *_ = load_migrations()
    info = m.WorkflowExecutionInfo()
    for name, kind, data in (("Colour", b"Keyword", b'"red"'), ("Tags", b"KeywordList", b'["a","b"]')):
        info.search_attributes.indexed_fields[name].data = data
        info.search_attributes.indexed_fields[name].metadata["type"] = kind
    info.search_attributes.indexed_fields["Untyped"].data = b"5"
    child = m.WorkflowExecutionInfo()
    child.parent_execution.workflow_id, child.parent_execution.run_id = "w1", "r1"
    child.root_execution.workflow_id, child.root_execution.run_id = "w0", "r0"
    rows = [
        (1, "w1", "r1", RUNNING, 1_000, 1_000, None, 0, 0, info.SerializeToString()),
        (2, "w2", "r2", COMPLETED, 2_000, 2_000, 5_000, 7, 700, child.SerializeToString()),
        (3, "w3", "r3", COMPLETED, 3_000, 3_000, 4_000, 7, 700, b""),
    ]
    database = apsw.Connection(str(path))
    database.execute(script)
    database.executemany(INSERT, rows)
    database.pragma("application_id", connection.APPLICATION_ID)
    database.pragma("user_version", 1)
    database.close()


async def test_lists_and_counts_of_a_database_of_the_first_schema(tmp_path: Path) -> None:
    database_of_schema_1(tmp_path / "old.db")
    store = SqliteStore(tmp_path / "old.db")
    await store.open()
    assert await list_keys(store, EVERYTHING) == [1, 2, 3]
    assert [row.state_transitions for row in await listed(store, EVERYTHING)] == [0, 0, 0]
    assert await store.count_visibility(EVERYTHING) == 3
    assert await by_status(store) == {RUNNING: 1, COMPLETED: 2}
    for attribute, value, key in (
        (Attribute("Colour", KEYWORD), "red", 1),
        (Attribute("Tags", KEYWORD_LIST), "b", 1),
        (Attribute("ParentWorkflowId", KEYWORD), "w1", 2),
        (Attribute("RootRunId", KEYWORD), "r0", 2),
    ):
        query = VisibilityQuery(namespace="default", where=In(attribute, (value,)))
        assert await list_keys(store, query) == [key]
    await store.close()
    again = SqliteStore(tmp_path / "old.db")
    await again.open()
    assert await again.count_visibility(EVERYTHING) == 3
    await again.close()
