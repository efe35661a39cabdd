"""Handlers that are still under way when their workflow closes: what is done about them.

Nothing of theirs takes effect any more; a caller who waits for an update gets an error. So a live close warns of them,
unless the handler says that it may be abandoned. Waiting for `workflow.all_handlers_finished` before returning lets
them finish.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.replay.runtime import WorkflowRuntime

__all__ = [
    "HandlerUnfinishedPolicy",
    "UnfinishedSignalHandlersWarning",
    "UnfinishedUpdateHandlersWarning",
    "abandoned_by",
    "warn",
]

log = logging.getLogger("perdure.workflow")


class HandlerUnfinishedPolicy(Enum):
    """What happens when a workflow closes while a handler is under way."""

    WARN_AND_ABANDON = 1
    """Warn, and let go of it."""
    ABANDON = 2
    """Let go of it."""


class UnfinishedUpdateHandlersWarning(RuntimeWarning):
    """The workflow closed while update handlers were under way: their callers get an error."""


class UnfinishedSignalHandlersWarning(RuntimeWarning):
    """The workflow closed while signal handlers were under way: what they had yet to do is left undone."""


def abandoned_by(runtime: WorkflowRuntime) -> tuple[RuntimeWarning, ...]:
    """The warnings that a run which closes now has to give."""
    found: list[RuntimeWarning] = []
    signals = runtime.handlers.unfinished()
    if signals:
        found.append(UnfinishedSignalHandlersWarning(_message(runtime, "signal", signals)))
    updates = runtime.updates.unfinished() if runtime.updates is not None else ()
    if updates:
        found.append(UnfinishedUpdateHandlersWarning(_message(runtime, "update", updates)))
    return tuple(found)


def warn(warning: RuntimeWarning) -> None:
    """Give a warning; where warnings are errors it is logged, since the run has closed as it should."""
    try:
        warnings.warn(warning, stacklevel=2)
    except RuntimeWarning as raised:
        log.error("%s", raised)


def _message(runtime: WorkflowRuntime, kind: str, handlers: Sequence[str]) -> str:
    return (
        f"the workflow closed while handlers of {kind}s were under way: {', '.join(handlers)} ({runtime.describe()}). "
        "Before it returns, let it await workflow.wait_condition(workflow.all_handlers_finished); or say "
        f"@workflow.{kind}(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON) if it may be left"
    )
