"""Named SQL blocks from the package's .sql files.

A block begins with ``-- name: <name>`` and ends where the next begins. The comments go with it to SQLite, which skips
them.
"""

from __future__ import annotations

from importlib.resources import files

__all__ = ["load_migrations", "load_statements"]

PACKAGE = "perdure.engine.store.sqlite"
MARK = "-- name: "


def load_statements(*file_names: str) -> dict[str, str]:
    """The blocks of some files in ``sql/`` by name; a name may occur once."""
    statements: dict[str, str] = {}
    for file_name in file_names:
        text = files(PACKAGE).joinpath("sql", file_name).read_text(encoding="utf-8")
        for block in text.split(MARK)[1:]:
            name, _, body = block.partition("\n")
            assert name.strip() not in statements, f"{name} is defined twice"
            statements[name.strip()] = body.strip()
    return statements


def load_migrations() -> list[tuple[int, str]]:
    """The migrations as (number, script), in order, numbered 1, 2, 3…"""
    found = sorted(
        (int(entry.name.split("_", 1)[0]), entry.read_text(encoding="utf-8"))
        for entry in files(PACKAGE).joinpath("migrations").iterdir()
        if entry.name.endswith(".sql")
    )
    assert [number for number, _ in found] == list(range(1, len(found) + 1)), "migrations are numbered without gaps"
    return found
