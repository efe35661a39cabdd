"""A thread that notices workflow code which neither awaits nor returns, and says where it is.

Workflow code runs on the event loop, as everything else in the process does: a loop without an ``await`` keeps all of
it waiting, and no timeout of the loop's own can tell. The watchdog looks at the loop's thread every so often. When it
finds the same call into the same run twice in a row, the code has been there for that long at least, and a warning is
logged, once a call, with the stack of the user's code. It changes nothing: the code may still come to an end.

A look costs some microseconds, and while no workflow task comes the thread sleeps without a timeout: who hands a task
to a run wakes it. At a debugger's prompt nobody is warned.

It is off unless it is asked for. CPython 3.11 doesn't promise that the frames of a thread can be followed while that
thread goes on, and under heavy load a look has been seen to end in an object that was no frame.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from types import FrameType
from weakref import finalize, ref

from perdure.replay import WorkflowRun
from perdure.replay.frames import user_stack

__all__ = ["Watchdog"]

_logger = logging.getLogger("perdure.worker")
_DEBUGGERS = frozenset({"bdb", "pdb"})


class Watchdog:
    """Watches the thread it is made in.

    Args:
        after_s: between two looks: code that runs for twice as long is surely noticed. 0 = never look.
        is_mine: whether a run is this watchdog's; there may be others for the same thread.

    Attributes:
        is_asleep: it has to be woken when there is work.
        after_s: as given.
    """

    def __init__(self, after_s: float, is_mine: Callable[[object], bool]) -> None:
        self.is_asleep = after_s > 0
        self.after_s = after_s
        self._is_mine = is_mine
        self._watched = threading.get_ident()
        self._work = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: FrameType | None = None
        """The call that the last look found."""
        self._has_warned = False
        """Of that call."""

    def wake(self) -> None:
        """There is work: look, until there has been none for a while."""
        self.is_asleep = False
        if self._thread is None and not self._stop.is_set():
            # It must not keep a worker in memory that was left behind on an event loop that has died.
            finalize(self, _let_go, self._stop, self._work)
            self._thread = threading.Thread(
                target=_watch, args=(ref(self), self._stop, self._work), name="perdure-watchdog", daemon=True
            )
            self._thread.start()
        self._work.set()

    def stop(self) -> None:
        """Look no more. Harmless to repeat, or before there was work."""
        self.is_asleep = False
        _let_go(self._stop, self._work)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def look(self) -> None:
        """Warn if the thread is where it was at the last look. In the watchdog's own thread."""
        call = _call_into_a_run(self._watched)
        if call is None or call is not self._seen:
            self._has_warned = False
        elif not self._has_warned:
            self._has_warned = True
            self._warn(call)
        self._seen = call

    @property
    def is_idle(self) -> bool:
        """The last look found nothing."""
        return self._seen is None

    def _warn(self, call: FrameType) -> None:
        run = call.f_locals.get("self")
        innermost = sys._current_frames().get(self._watched)
        if not isinstance(run, WorkflowRun) or not self._is_mine(run) or innermost is None:
            return
        if any(frame.f_globals.get("__name__") in _DEBUGGERS for frame in _frames(innermost)):
            return
        _logger.warning(
            "%s has run for more than %g s without awaiting anything, and everything else in this process waits for "
            "it: let it await, or do the work in an activity or in workflow.step. It is here now:\n%s",
            run.described,
            self.after_s,
            user_stack(innermost, call),
        )


def _let_go(stop: threading.Event, work: threading.Event) -> None:
    stop.set()
    work.set()


def _watch(watchdog: ref[Watchdog], stop: threading.Event, work: threading.Event) -> None:
    """The thread: look every so often, and sleep while there is no work."""
    while (dog := watchdog()) is not None:
        after_s, was_idle = dog.after_s, dog.is_idle
        if was_idle:
            work.clear()
            dog.is_asleep = True
        del dog
        if stop.wait(after_s):
            return
        dog = watchdog()
        if dog is None:
            return
        dog.look()
        sleeps = was_idle and dog.is_idle and dog.is_asleep
        del dog
        if sleeps:
            work.wait()


def _frames(innermost: FrameType | None) -> list[FrameType]:
    found: list[FrameType] = []
    while innermost is not None:
        found.append(innermost)
        innermost = innermost.f_back
    return found


def _call_into_a_run(thread: int) -> FrameType | None:
    """The outermost call into a `WorkflowRun` that a thread is in."""
    calls = [
        frame
        for frame in _frames(sys._current_frames().get(thread))
        if frame.f_globals.get("__name__") == WorkflowRun.__module__
    ]
    return calls[-1] if calls else None
