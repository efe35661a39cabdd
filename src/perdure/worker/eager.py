"""Activities that a workflow task schedules and that its own worker may run at once.

Over a wire, a scheduled activity costs a poll: the service tells a poller of it, which may be this very worker. Asking
for it in the completion that schedules it brings the task in the answer. Room is kept for each activity asked for, and
given back for those that did not come; a few per completion, so that other workers get their share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from perdure.api import messages as m
from perdure.api.direct import SCHEDULE_ACTIVITY_PREFIX
from perdure.api.wire import sized, sized_tag

__all__ = ["ActivityTaker", "EagerActivities"]

MAX_ASKED = 3
"""Activities asked for in one completion."""

_ASK = sized_tag(m.Command, "schedule_activity_task_command_attributes") + sized(
    m.ScheduleActivityTaskCommandAttributes(request_eager_execution=True).SerializeToString()
)
"""A field that occurs twice is merged: appended to a serialized command, this sets one flag in it."""


class ActivityTaker(Protocol):
    """The part of the worker that runs activities."""

    def reserve(self) -> bool:
        """Keep room for an activity; False if there is none."""
        ...

    def release(self) -> None:
        """Give that room back."""
        ...

    async def take(self, task: m.PollActivityTaskQueueResponse) -> None:
        """Run the activity that room was kept for; returns once it has begun."""
        ...


class EagerActivities:
    """Asks for activities, and hands over those that come.

    Args:
        taker: what runs them.
        task_queue: whose activities it runs.
    """

    def __init__(self, taker: ActivityTaker, task_queue: str) -> None:
        self._taker = taker
        self._task_queue = task_queue

    def ask(self, commands: list[bytes]) -> int:
        """Ask for activities among serialized commands, which are changed in place; how many were asked for."""
        asked = 0
        for at, command in enumerate(commands):
            if not command.startswith(SCHEDULE_ACTIVITY_PREFIX):
                continue
            attributes = m.Command.FromString(command).schedule_activity_task_command_attributes
            if attributes.task_queue.name != self._task_queue:
                continue
            if asked == MAX_ASKED or not self._taker.reserve():
                break
            commands[at] = command + _ASK
            asked += 1
        return asked

    async def settle(self, asked: int, tasks: Sequence[m.PollActivityTaskQueueResponse]) -> None:
        """Run what has come of those asked for, and give back the room for the others."""
        for _ in range(asked - len(tasks)):
            self._taker.release()
        for task in tasks:
            await self._taker.take(task)
