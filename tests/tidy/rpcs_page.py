"""docs/rpcs.md, printed from the table of RPCs: `python -m tests.tidy.rpcs_page` (or `make rpcs`) writes it."""

from __future__ import annotations

from pathlib import Path

from perdure.api.rpcs import OPERATOR_SERVICE, RPCS, WORKFLOW_SERVICE
from perdure.engine.service.table import NOTES, UNSERVED, is_served

__all__ = ["PAGE", "page"]

PAGE = "docs/rpcs.md"

_HEAD = """# The API

What `perdure server` answers, method by method. A served method is a function of the engine, the same one that an
application calls which has the engine in its own process. A method that is not served answers `UNIMPLEMENTED` with the
reason given here. (Printed by `make rpcs` from `engine/service/table.py`; a test compares the two.)
"""


def page() -> str:
    """The page's text."""
    parts = [_HEAD]
    for service in (WORKFLOW_SERVICE, OPERATOR_SERVICE):
        rpcs = sorted((rpc for rpc in RPCS.values() if rpc.service == service), key=lambda rpc: rpc.name)
        parts.append(f"## {service.rpartition('.')[2]}\n")
        lines = ["| method | served | |", "|---|---|---|"]
        for rpc in rpcs:
            said = NOTES.get(rpc.method, "") if is_served(rpc) else UNSERVED[rpc.method]
            waits = "long poll" if rpc.is_long_poll and is_served(rpc) else ""
            note = "; ".join(part for part in (waits, said) if part)
            lines.append(f"| {rpc.name} | {'yes' if is_served(rpc) else 'no'} | {note} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(PAGE).write_text(page(), encoding="utf-8")
