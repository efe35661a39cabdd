"""How a command's known errors are shown: one line, what to do next, and an exit status.

Loaded when there is something to show, as it knows the errors of both halves.
"""

from __future__ import annotations

import os
import sys

from rich.console import Console

from perdure.api import RpcError
from perdure.cli.errors import CliError
from perdure.cli.plain import printable
from perdure.client import WorkflowFailureError, WorkflowQueryFailedError, WorkflowUpdateFailedError
from perdure.engine.store.port import StoreError
from perdure.exceptions import FailureError, PerdureError

__all__ = ["fail"]

notes = Console(stderr=True)


def fail(error: Exception) -> None:
    """Show a known error and end the process; errors nobody foresaw are raised again."""
    match error:
        case CliError():
            _say(error, error.message, error.hint, error.status)
        case WorkflowFailureError() | WorkflowQueryFailedError() | WorkflowUpdateFailedError():
            _say(error, _chain(error), _stack(error), 1)
        case RpcError():
            _say(error, error.message, "", 2)
        case StoreError() | PerdureError():
            _say(error, str(error), "", 2)
        case _:
            raise error


def _chain(error: BaseException) -> str:
    """An error and its causes, in one line."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, RpcError):
        # An error that tells its cause needs no repetition of it.
        if not (texts and str(cause) in texts[-1]):
            texts.append(str(cause))
        cause = cause.__cause__
    return ": ".join(texts)


def _stack(error: BaseException) -> str:
    """Where the first cause of a workflow's failure was raised, in the workflow or an activity."""
    stack = ""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FailureError) and cause.failure is not None and cause.failure.stack_trace:
            stack = cause.failure.stack_trace
        cause = cause.__cause__
    return stack.rstrip()


def _say(error: BaseException, message: str, hint: str, status: int) -> None:
    if os.environ.get("PERDURE_TRACEBACK") == "1":
        raise error
    notes.print("[bold red]error:[/] ", end="")
    notes.print(printable(message), markup=False, highlight=False, soft_wrap=True)
    if hint:
        notes.print(printable(hint), markup=False, highlight=False, soft_wrap=True)
    sys.exit(status)
