"""The server's log, for machines and for people."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from perdure.server.logs import set_up_logs


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def log(message: str, **fields: object) -> None:
    logging.getLogger("perdure.server").info(message, extra={"fields": fields})


def test_json_keeps_fields_apart(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("json", "info")
    log("serving\nhere", address="a:1", path=object)
    line = json.loads(capsys.readouterr().err)
    assert (line["msg"], line["address"], line["level"]) == ("serving\nhere", "a:1", "info")
    assert line["logger"] == "perdure.server" and line["time"].endswith("+00:00")


def test_text_shows_fields(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("pretty", "info")
    log("serving", address="a:1")
    assert capsys.readouterr().err.endswith("info    serving address=a:1\n")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_errors_have_their_traceback(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(log_format, "error")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("perdure.server").exception("failed")
    assert "ValueError: broken" in capsys.readouterr().err


def test_levels_bound_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("text", "warn")
    log("unheard")
    logging.getLogger("perdure.server").warning("heard")
    assert "unheard" not in (said := capsys.readouterr().err) and "heard" in said
    set_up_logs("text", "never")
    logging.getLogger("perdure.server").critical("unheard", exc_info=sys.exc_info())
    assert capsys.readouterr().err == ""
