"""The ways workflow code may end, told apart by what it raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from perdure.exceptions import ConversionError, NondeterminismError

__all__ = ["ContinueAsNewError", "fails_task", "leaves_debugger", "renewal_in", "result_error"]


class ContinueAsNewError(BaseException):
    """Raised by `workflow.continue_as_new` to close this run and start the next; let it pass."""

    def __init__(self, options: Mapping[str, Any], args: Sequence[Any], arg_types: Sequence[Any] | None) -> None:
        super().__init__("continue as new")
        self.options = options
        self.arguments = args
        self.arg_types = arg_types


def renewal_in(error: BaseException) -> ContinueAsNewError | None:
    """The request to continue as new, also if a task group has wrapped it."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return next((found for one in group.exceptions if (found := renewal_in(one)) is not None), None)
    return error if isinstance(error, ContinueAsNewError) else None


def result_error(error: Exception, workflow: str) -> Exception:
    """A result that does not convert, told as such."""
    if not isinstance(error, ConversionError):
        return error
    told = type(error)(f"the result of {workflow}: {str(error).removeprefix('argument 1: ')}")
    told.__cause__ = error.__cause__
    return told


def fails_task(error: BaseException) -> bool:
    """Whether an error makes the workflow task fail, so that it is tried again, rather than the workflow."""
    return isinstance(error, NondeterminismError) or leaves_debugger(error)


def leaves_debugger(error: BaseException) -> bool:
    """Whether somebody has typed "quit" at the debugger's prompt: that ends the process, and fails nothing."""
    return type(error).__module__ == "bdb"
