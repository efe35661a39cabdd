"""Text from a database on a terminal: shown as it is, never obeyed.

Ids, names and messages are whatever somebody once gave. Brackets in them are no markup of ours, and control characters
(which could move the cursor, or hide what stands there) are shown as escapes.
"""

from __future__ import annotations

from rich.markup import escape

__all__ = ["plain", "printable"]


def printable(text: str) -> str:
    """`text` with everything that would not be seen as an escape; line ends stay."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )


def plain(text: str) -> str:
    """`text` for a place where markup is understood."""
    return escape(printable(text))
