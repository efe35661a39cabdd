"""A backlog in which tasks do not go in order of arrival: by priority key, and within a key by fair shares.

A queue has one only while tasks wait that ask for it. Within a priority key each fairness key gets tasks out in
proportion to its weight (start-time fair queuing): a task's tag is where its key's last task ended, at least where
the level has got to; each task moves its key's end on by the inverse of its weight. The smallest tag goes first, and
among equals the earliest. Tasks without a fairness key share the empty one, so that alone they go in order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from perdure.engine.history.priorities import DEFAULT_RANK, Rank

if TYPE_CHECKING:
    from perdure.engine.matching.queue import Task

__all__ = ["RankedBacklog"]

_KEYS_KEPT = 1000
"""Fairness keys of a level remembered; beyond it, those that have no claim any more are forgotten."""


class _Level:
    """How far the fairness keys of one priority key have got."""

    __slots__ = ("ends", "now")

    def __init__(self) -> None:
        self.now = 0.0
        """The tag of the task that went last."""
        self.ends: dict[str, float] = {}

    def tag(self, rank: Rank) -> float:
        start = max(self.now, self.ends.get(rank.fairness_key, 0.0))
        if len(self.ends) >= _KEYS_KEPT and rank.fairness_key not in self.ends:
            self.ends = {key: end for key, end in self.ends.items() if end > self.now}
        self.ends[rank.fairness_key] = start + 1.0 / rank.weight
        return start


class RankedBacklog:
    """Like the deque that stands in its place otherwise, for what a queue does with it."""

    def __init__(self, waiting: Iterable[Task]) -> None:
        self._heap: list[tuple[int, float, int, Task]] = []
        self._levels: dict[int, _Level] = {}
        self._last = 0
        self._first = 0
        for task in waiting:
            self.append(task)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Task]:
        return (entry[3] for entry in sorted(self._heap, key=lambda entry: entry[:3]))

    def __getitem__(self, index: int) -> Task:
        assert index == 0, "only the next task is looked at"
        return self._heap[0][3]

    def append(self, task: Task) -> None:
        """Take in a task without a rank of its own."""
        self.add(task, DEFAULT_RANK)

    def add(self, task: Task, rank: Rank) -> None:
        """Take in a task."""
        level = self._levels.get(rank.key)
        if level is None:
            level = self._levels[rank.key] = _Level()
        self._last += 1
        heappush(self._heap, (rank.key, level.tag(rank), self._last, task))

    def appendleft(self, task: Task) -> None:
        """Put back a task that had gone: it is the next to go."""
        self._first -= 1
        heappush(self._heap, (0, 0.0, self._first, task))

    def popleft(self) -> Task:
        """The next task."""
        key, tag, _, task = heappop(self._heap)
        if key:
            self._levels[key].now = tag
        return task

    def counts(self) -> dict[int, int]:
        """How many tasks wait, by priority key."""
        counts: dict[int, int] = {}
        for key, *_ in self._heap:
            key = key or DEFAULT_RANK.key
            counts[key] = counts.get(key, 0) + 1
        return counts
