"""The server's log: one line an event, on standard error, for machines (JSON) or for people (text).

Code logs with the standard library; fields that belong to an event are given as ``extra={"fields": {…}}`` and stay
apart from its text. Only the server's process sets this up: who embeds an engine has a log of his own.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

__all__ = ["LOG_FORMATS", "LOG_LEVELS", "set_up_logs"]

LOG_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "never": logging.CRITICAL + 1,
}
LOG_FORMATS = ("text", "json", "pretty")
"""``pretty`` is another word for ``text``."""


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


class _Json(logging.Formatter):
    """``{"time": …, "level": …, "logger": …, "msg": …, …}``"""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    """``12:00:00.000 info    what happened field=value``"""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{at} {record.levelname.lower():<7} {record.getMessage()}{fields}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


def set_up_logs(log_format: str, log_level: str) -> None:
    """Write the process's log to standard error.

    Args:
        log_format: one of `LOG_FORMATS`.
        log_level: a key of `LOG_LEVELS`.
    """
    assert log_format in LOG_FORMATS and log_level in LOG_LEVELS, "checked where they are read"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LOG_LEVELS[log_level])
