"""What a migration can't say in SQL: rows that are made from what older rows hold as serialized messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import apsw

from perdure.api import messages as m
from perdure.engine.store.sqlite.driver import execute
from perdure.engine.store.sqlite.statements import load_statements
from perdure.engine.visibility.values import stored

__all__ = ["FILL"]


def _search_attributes(connection: apsw.Connection) -> None:
    """The rows of search attributes, from the summaries of runs that have some, or a parent."""
    statements = load_statements("filling.sql")
    rows = execute(connection, statements["runs_with_more_info"]).fetchall()
    for run_key, namespace, data in rows:
        info = m.WorkflowExecutionInfo.FromString(data)
        values = stored(info.search_attributes, info.parent_execution, info.root_execution)
        records = [(run_key, namespace, *value) for value in values]
        cast(Any, connection).executemany(statements["add_search_attribute"], records)


FILL: Final[Mapping[int, Callable[[apsw.Connection], None]]] = {2: _search_attributes}
"""Called after the migration of the number, in its transaction."""
