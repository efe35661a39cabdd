"""How code that may or may not be workflow code finds the workflow it runs in.

`current()` answers the runtime of the workflow whose event loop runs in this thread right now, or None. It costs
one look at the running loop.
"""

from __future__ import annotations

from asyncio.events import _get_running_loop
from collections.abc import Sequence
from typing import Any, Protocol

from perdure.exceptions import NotInWorkflowError
from perdure.replay.calls import ActivityHandle
from perdure.replay.loop import WorkflowLoop
from perdure.replay.ports import ActivityOptions
from perdure.replay.runtime import WorkflowRuntime

__all__ = ["ActivityStarter", "current", "must_be"]


class ActivityStarter(Protocol):
    """The part of the runtime that `perdure.activity` needs."""

    def start_activity(
        self,
        name: str,
        args: Sequence[Any],
        options: ActivityOptions,
        *,
        arg_types: Sequence[Any] | None = None,
        result_type: Any = None,
        is_awaited: bool = False,
    ) -> ActivityHandle[Any]:
        """Schedule an activity; awaiting the answer gives its result or raises ActivityError.

        `is_awaited` promises that the caller does so at once; a message can then find its place without noting it.

        Raises:
            ConversionError: an argument cannot be serialised or is of the wrong type.
            ValueError: no timeout is given.
            ReadOnlyContextError: a query handler asked.
        """
        ...


def current() -> WorkflowRuntime | None:
    """The running workflow, None outside of workflow code."""
    loop = _get_running_loop()
    if type(loop) is WorkflowLoop:
        owner: Any = loop.owner
        return owner
    return None


def must_be() -> WorkflowRuntime:
    """As `current`.

    Raises:
        NotInWorkflowError: this is not workflow code.
    """
    runtime = current()
    if runtime is None:
        raise NotInWorkflowError
    return runtime
