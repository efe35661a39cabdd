"""What an interrupted command says: one line, and what is left."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from perdure.cli.errors import CliError

__all__ = ["interruptible"]


@contextmanager
def interruptible(advice: str) -> Generator[None]:
    """Turn an interrupt into a CliError that says `advice`."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise CliError("interrupted", advice, status=130) from error
