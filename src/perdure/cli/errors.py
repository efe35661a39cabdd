"""The one error a command raises for bad input: what is wrong, and what to do next."""

from __future__ import annotations

__all__ = ["CliError"]


class CliError(Exception):
    """The command can't do what was asked.

    Attributes:
        message: what is wrong, in one line.
        hint: what to do next, in one line; may be empty.
        status: the exit status.
    """

    def __init__(self, message: str, hint: str = "", *, status: int = 2) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status
