"""The table of RPCs: every method of the API is served or refused with a reason."""

from __future__ import annotations

import inspect
from pathlib import Path

from perdure.api import WorkflowService
from perdure.api.rpcs import RPCS
from perdure.engine.service import EngineService
from perdure.engine.service.table import NOTES, UNSERVED, is_served
from tests.tidy.rpcs_page import PAGE, page


def test_every_method_is_served_or_refused_with_a_reason() -> None:
    served = {method for method, rpc in RPCS.items() if is_served(rpc)}
    assert served & set(UNSERVED) == set(), "served now: take them off UNSERVED in engine/service/table.py"
    assert served | set(UNSERVED) == set(RPCS), "neither served nor in UNSERVED of engine/service/table.py"


def test_the_protocol_names_what_is_served() -> None:
    named = {name for name, _ in inspect.getmembers(WorkflowService, inspect.isfunction) if not name.startswith("_")}
    assert named == {method for method, rpc in RPCS.items() if is_served(rpc)}


def test_long_polls_take_the_time_their_caller_has() -> None:
    for method, rpc in RPCS.items():
        if is_served(rpc):
            function = inspect.signature(getattr(EngineService, method))
            assert ("timeout_s" in function.parameters) == rpc.is_long_poll, method


def test_notes_are_about_served_methods() -> None:
    assert all(is_served(RPCS[method]) for method in NOTES)


def test_the_page_is_printed_from_the_table(root: Path) -> None:
    assert (root / PAGE).read_text(encoding="utf-8") == page(), "run `make rpcs`"
