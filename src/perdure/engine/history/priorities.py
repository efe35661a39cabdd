"""Priorities: which of the tasks that wait in a queue go first.

A workflow has a priority or none; its activities and children have it too, each field unless they set their own. Kept
as serialized ``Priority`` messages, two of them are merged by joining their bytes: protobuf takes the last value of a
field. Queues need only the `Rank` that follows from it: a key, lower ones first, and a share among those of one key.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from perdure.api import messages as m

KEY_DEFAULT: Final = 3
KEY_MAX: Final = 5
"""Higher keys count as this one."""
FAIRNESS_KEY_BYTES: Final = 64
_WEIGHT_MIN: Final = 0.001
_WEIGHT_MAX: Final = 1000.0
_RANKS_KEPT: Final = 1024


class Rank(NamedTuple):
    """The place of a task among those that wait."""

    key: int
    fairness_key: str
    weight: float


DEFAULT_RANK: Final = Rank(KEY_DEFAULT, "", 1.0)


def refusal(priority: m.Priority) -> str | None:
    """What is wrong with a priority that a caller gives, or None."""
    if priority.priority_key < 0:
        return "PriorityKey can't be negative"
    if len(priority.fairness_key.encode()) > FAIRNESS_KEY_BYTES:
        return f"FairnessKey exceeds the length limit of {FAIRNESS_KEY_BYTES} bytes"
    return None


@lru_cache(maxsize=_RANKS_KEPT)
def rank_of(priority: bytes) -> Rank:
    """The rank of tasks with this priority, the workflow's joined with the task's own."""
    message = m.Priority.FromString(priority)
    weight = message.fairness_weight
    return Rank(
        min(message.priority_key, KEY_MAX) if message.priority_key > 0 else KEY_DEFAULT,
        message.fairness_key,
        min(max(weight, _WEIGHT_MIN), _WEIGHT_MAX) if weight > 0 else 1.0,
    )
