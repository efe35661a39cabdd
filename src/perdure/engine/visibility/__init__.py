"""Finding runs: list filters and pages. See `perdure.engine.visibility.query` for the grammar."""

from perdure.engine.visibility.query import ListQuery, parse

__all__ = ["ListQuery", "parse"]
