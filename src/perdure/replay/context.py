"""How code that may or may not be workflow code finds the workflow it runs in.

`current()` answers the runtime of the workflow whose event loop runs in this thread right now, or None. It costs
one look at the running loop.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from typing import Any, Protocol

from perdure.replay.ports import ActivityOptions

__all__ = ["ActivityStarter", "current"]


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
    ) -> Future[Any]:
        """Schedule an activity; awaiting the answer gives its result or raises ActivityError.

        Raises:
            ConversionError: an argument cannot be serialised or is of the wrong type.
            ValueError: no timeout is given.
        """
        ...


def current() -> ActivityStarter | None:
    """The running workflow, None outside of workflow code."""
    return None
