"""A loaded run and what the shard knows of it besides: what is not durable yet, and who waits.

A slot is *held* while losing it would lose something: it has changes that are not durable, a task of it is handed
out, or queries or updates wait for it. Only slots that are not held may leave memory. A slot that has left is `gone`:
whoever kept a reference over an `await` looks it up again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from perdure.api import RpcError
from perdure.engine.history import ActivityLive, Run

if TYPE_CHECKING:
    from perdure.api.direct import WorkflowTaker
    from perdure.engine.commit import Group
    from perdure.engine.queries import RunQueries
    from perdure.engine.updates import PendingUpdate

__all__ = ["NEVER_MS", "HeldActivity", "Slot"]

NEVER_MS = 1 << 62
_BASE_BYTES = 4500
"""What a loaded run costs besides its encoded state, about."""
_FRAME_BYTES = 200
"""What a recent event costs, about."""


class HeldActivity(Struct, frozen=True):
    """An attempt that a worker holds, as remembered when its run has to be read again."""

    scheduled_event_id: int
    attempt: int
    live: ActivityLive
    lost: Callable[[RpcError], None] | None = None
    """Who wants to know if its end could not be written."""


class Slot(Struct, eq=False):
    """One loaded run."""

    run: Run
    fresh: bool
    """Not in the store yet."""
    key: int = 0
    row_event_id: int = 1
    """First event id of the next history row."""
    durable_event_id: int = 0
    """The last event whose commit has been answered; later ones are shown to nobody outside."""
    writing: list[bytes] = []
    """Frames of the commit in flight."""
    pending: list[bytes] = []
    """Frames of the accumulating group."""
    visibility: bool = False
    """Its visibility row is due."""
    attributes: bool = False
    """With it, its search attributes are."""
    group: Group | None = None
    """The latest group with changes of it that is not durable yet."""
    groups: int = 0
    """How many such groups there are."""
    due_ms: int = NEVER_MS
    """The deadline registered with the shard's timers."""
    handout: int = 0
    """Number of the workflow task handed out last; 0 before the first."""
    settled: list[HeldActivity] = []
    """Hand-outs of activities that ended in a group which is not durable yet."""
    hot: bool = False
    """It had something to hand out or deliver when it was written last."""
    queries: RunQueries | None = None
    updates: dict[str, PendingUpdate] | None = None
    """Updates that somebody waits for, by id; None before the first."""
    size: int = _BASE_BYTES
    """Estimate of its memory, in bytes; see `measure`."""
    gone: bool = False
    pins: int = 0
    """How many operations that take several turns of the event loop need it in memory."""
    token: bytes = b""
    """Of the workflow task handed out last; empty as long as nobody has asked for it."""
    taker: WorkflowTaker | None = None
    """The worker of this process that may hold what its code has done (see `direct`)."""
    task_head: bytes = b""
    activity_head: bytes = b""
    """What every workflow task and every activity task of the run says (see `responses`); made when needed."""

    def __post_init__(self) -> None:
        run = self.run
        self.key = run.key
        if not self.fresh:
            self.durable_event_id = run.state.next_event_id - 1
            self.row_event_id = run.state.next_event_id

    @property
    def held(self) -> bool:
        """It must stay in memory."""
        live = self.run.live
        return bool(
            self.groups
            or live.task is not None
            or live.activities
            or self.queries
            or self.updates
            or self.run.state.outbox
            or self.pins
        )

    def uncommitted(self) -> list[bytes]:
        """Frames after `durable_event_id`, in order."""
        return self.writing + self.pending

    def measure(self, encoded_bytes: int) -> None:
        """Note the size of the encoded state."""
        self.size = _BASE_BYTES + 2 * encoded_bytes + _FRAME_BYTES * len(self.run.live.frames)
