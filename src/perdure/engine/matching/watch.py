"""What a task queue is known by from outside: who polls it, and how fast tasks come and go.

Nothing is kept up to date by itself. A poll notes who it is and when; now and then, as polls come by, the number of
tasks so far is sampled, and a rate is told from the samples of the last half minute. Tasks that have gone are those
that have come and are not waiting.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from perdure.api import messages as m

__all__ = ["SEEN_MS", "PollerVersions", "QueueWatch", "Rates"]

_SPAN_MS = 30_000
"""Rates are averages over this long."""
_SAMPLE_MS = 5_000
SEEN_MS = 5 * 60_000
"""A poller that has not been back for this long is forgotten, as a rule."""
_SEEN_KEPT = 1_000
"""Pollers remembered after each sample, the latest ones."""


class PollerVersions(NamedTuple):
    """What a poller says of the code it runs."""

    capabilities: m.WorkerVersionCapabilities
    deployment: m.WorkerDeploymentOptions


class Rates(NamedTuple):
    """Tasks a second."""

    add: float
    dispatch: float


class QueueWatch:
    """The observations of one queue."""

    __slots__ = ("_samples", "_seen_ms", "sample_due_ms", "seen", "versions")

    def __init__(self, now_ms: int, seen_ms: int = SEEN_MS) -> None:
        self._seen_ms = seen_ms
        self.seen: dict[str, int] = {}
        """When each poller was here last, by identity."""
        self.versions: dict[str, PollerVersions] = {}
        """Of the pollers that told."""
        self.sample_due_ms = now_ms + _SAMPLE_MS
        self._samples: deque[tuple[int, int, int]] = deque([(now_ms, 0, 0)])
        """(instant, tasks that had come, tasks that were waiting)"""

    def sample(self, now_ms: int, added: int, waiting: int) -> None:
        """Take a sample, and forget what is too old."""
        self.sample_due_ms = now_ms + _SAMPLE_MS
        samples = self._samples
        samples.append((now_ms, added, waiting))
        while len(samples) > 1 and samples[1][0] <= now_ms - _SPAN_MS:
            samples.popleft()
        self._forget(now_ms)

    def _forget(self, now_ms: int) -> None:
        gone = [identity for identity, at_ms in self.seen.items() if at_ms < now_ms - self._seen_ms]
        if len(self.seen) - len(gone) > _SEEN_KEPT:
            gone = sorted(self.seen, key=self.seen.__getitem__)[:-_SEEN_KEPT]
        for identity in gone:
            del self.seen[identity]
            self.versions.pop(identity, None)

    def rates(self, now_ms: int, added: int, waiting: int) -> Rates:
        """How fast tasks have come and gone of late."""
        self.sample(now_ms, added, waiting)
        then_ms, then_added, then_waiting = self._samples[0]
        if now_ms - then_ms > _SPAN_MS + _SAMPLE_MS:
            then_ms = now_ms - _SPAN_MS  # Nobody came by in between; what has come since came of late, at worst.
        span_s = max(now_ms - then_ms, 1_000) / 1000
        come = added - then_added
        gone = come - (waiting - then_waiting)
        return Rates(come / span_s, max(gone, 0) / span_s)

    def pollers(self, now_ms: int) -> list[tuple[str, int]]:
        """Who has polled of late, and when."""
        self._forget(now_ms)
        return sorted(self.seen.items())
