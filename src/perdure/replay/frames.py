"""Places in the user's code, for messages: taken cheaply at every command, put into words only when needed.

Frames of Perdure's own modules and of asyncio's stand between the user's code and the event loop; they are passed over.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from traceback import StackSummary
from types import FrameType
from typing import Any

__all__ = ["Site", "place_of_call", "place_of_wait", "stack_trace", "strip_internal_frames", "user_stack", "waiting_at"]

MAX_FRAMES = 1000

INTERNAL_MODULES = ("perdure.replay.", "perdure.workflow", "perdure.activity", "asyncio.", "contextlib")
"""Modules whose frames stand between the user's code and the loop."""

_INTERNAL_PATHS = (
    *(str(Path(__file__).parents[1] / name) + os.sep for name in ("replay", "workflow", "activity")),
    str(Path(asyncio.__file__).parent) + os.sep,
)

_internal_modules: set[str] = set()
_LOOP = "perdure.replay.loop"


class Site:
    """The place in the user's code that issued a command; cheap to take, resolved only for a message."""

    __slots__ = ("_code", "_instruction")

    def __init__(self, code: Any, instruction: int) -> None:
        self._code = code
        self._instruction = instruction

    @property
    def place(self) -> Any:
        """As `place_of_call` answers it."""
        return self._code, self._instruction

    @property
    def is_internal(self) -> bool:
        """Whether this is a frame of Perdure's or asyncio's rather than of the user's code."""
        return self._code.co_filename.startswith(_INTERNAL_PATHS)

    def __str__(self) -> str:
        lineno = self._code.co_firstlineno
        for start, end, line in self._code.co_lines():
            if start <= self._instruction < end and line is not None:
                lineno = line
                break
        return f"{self._code.co_filename}:{lineno} in {self._code.co_qualname}"


def place_of_call() -> Any:
    """The innermost frame that is not ours or asyncio's, as (code, instruction); None outside of user code."""
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module not in _internal_modules:
            if not module.startswith(INTERNAL_MODULES):
                return frame.f_code, frame.f_lasti
            _internal_modules.add(module)
        if module == _LOOP and frame.f_code.co_name == "run":
            return None  # What called the loop is not the user's: the call is a task of its own.
        frame = frame.f_back
    return None


def suspended_at(coro: Any) -> list[Site]:
    """Where a suspended coroutine stands, outermost frame first."""
    sites: list[Site] = []
    for _ in range(MAX_FRAMES):
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None) or getattr(coro, "ag_frame", None)
        if frame is None:
            break
        sites.append(Site(frame.f_code, frame.f_lasti))
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None) or getattr(coro, "ag_await", None)
    return sites


def stack_trace(tasks: Sequence[Any]) -> str:
    """Tasks with their frames, outermost first."""
    return "\n\n".join("\n  ".join([f"{task.get_name()}:", *map(str, suspended_at(task.get_coro()))]) for task in tasks)


def waiting_at(tasks: Sequence[Any]) -> list[str]:
    """Where each task waits in user code, innermost frame."""
    places: list[str] = []
    for task in tasks:
        place = place_of_wait(task)
        if place is not None:
            places.append(f"{task.get_name()} waits at {Site(*place)}")
    return places


def place_of_wait(task: Any) -> Any:
    """Where a task waits in the user's code, as `place_of_call` answers it."""
    own = [site for site in suspended_at(task.get_coro()) if not site.is_internal]
    return own[-1].place if own else None


def user_stack(innermost: FrameType, outermost: FrameType) -> str:
    """The user's frames of a running thread between two frames, as a traceback shows them, outermost first."""
    frames: list[tuple[FrameType, int]] = []
    frame: FrameType | None = innermost
    while frame is not None and frame is not outermost and len(frames) < MAX_FRAMES:
        if not frame.f_code.co_filename.startswith(_INTERNAL_PATHS):
            frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return "".join(StackSummary.extract(reversed(frames)).format())


def strip_internal_frames(error: BaseException) -> None:
    """Let an error's traceback begin in the user's code."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_INTERNAL_PATHS):
        traceback = traceback.tb_next
    if traceback is not None:
        error.__traceback__ = traceback
