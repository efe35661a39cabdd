"""A schedule as it is kept: what it was asked to be, and how far it is.

Two rows' worth. The *definition* is a serialized ``CreateScheduleRequest`` in canonical form, with memo and search
attributes, without its state; it is written when the schedule is created or updated. The *state* is everything that
changes by itself, written with each action. Both are sealed with a checksum: a row that was changed on the disk is
noticed when it is read.

    buffer ──plan──▶ starting ──start──▶ running ──end──▶ (recent)

`buffer` holds actions that are due and wait for their turn; `starting` those that have had it and whose start is under
way; `running` workflows that have not ended. Each action keeps its number from the buffer on, which with its nominal
instant makes the request id of its start.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

import msgspec
from msgspec import Struct

from perdure.api import messages as m
from perdure.api.durations import duration_ms

__all__ = ["Action", "Backfill", "Policies", "Recent", "Running", "State", "decode", "encode", "policies_of"]

RECENT_KEPT: Final = 10
REQUEST_IDS_KEPT: Final = 16
CATCHUP_DEFAULT_MS: Final = 365 * 86_400_000
CATCHUP_LEAST_MS: Final = 10_000
_SEAL_BYTES: Final = 4

_Overlap = m.ScheduleOverlapPolicy


class Action(Struct, array_like=True, frozen=True):
    """An action that is due."""

    number: int
    nominal_ms: int
    scheduled_ms: int
    """With jitter; of one asked for by a caller, the instant of the call."""
    overlap: int
    """ScheduleOverlapPolicy; 0 = the schedule's."""
    manual: bool
    """Triggered or backfilled: it goes ahead while the schedule is paused or has no actions left."""


class Running(Struct, array_like=True):
    """A workflow that was started and has not ended."""

    workflow_id: str
    run_id: str
    """Of the first run."""
    beside: bool
    """Started beside others (ALLOW_ALL): nobody waits for it, and its result is not handed on."""
    stopping: int = 0
    """1 = it has been asked to cancel."""


class Recent(Struct, array_like=True):
    """An action that was taken."""

    scheduled_ms: int
    actual_ms: int
    workflow_id: str
    run_id: str
    status: int
    """WorkflowExecutionStatus, once it has ended; RUNNING until then."""


class Backfill(Struct, array_like=True):
    """A span of the past to be worked off."""

    at_ms: int
    """Nominal instants up to here have been."""
    end_ms: int
    overlap: int


class State(Struct, array_like=True):
    """How far a schedule is."""

    uid: str
    """Of this schedule, whatever others of its id there were before."""
    created_ms: int
    cursor_ms: int
    """Nominal instants up to here have had their turn."""
    create_request_id: str = ""
    updated_ms: int = 0
    version: int = 1
    """The conflict token: grows when the schedule is changed."""
    wake_ms: int | None = None
    """When it has something to do next; 0 = at once."""
    next_number: int = 1
    paused: bool = False
    notes: str = ""
    limited: bool = False
    remaining: int = 0
    taken: int = 0
    missed: int = 0
    skipped: int = 0
    dropped: int = 0
    buffer: list[Action] = []
    starting: list[Action] = []
    running: list[Running] = []
    recent: list[Recent] = []
    backfills: list[Backfill] = []
    last_result: bytes | None = None
    """Serialized Payloads of the last run that completed."""
    failure: bytes | None = None
    """Serialized Failure of the last run, if it failed."""
    request_ids: list[str] = []
    """Of the latest updates and patches."""


class Policies(Struct, frozen=True):
    """What a definition says about taking actions."""

    overlap: int
    catchup_ms: int
    pause_on_failure: bool
    keeps_workflow_id: bool


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(State)


def policies_of(policies: m.SchedulePolicies) -> Policies:
    """With the defaults filled in."""
    given_ms = duration_ms(policies.catchup_window)
    return Policies(
        policies.overlap_policy or _Overlap.SCHEDULE_OVERLAP_POLICY_SKIP,
        max(given_ms, CATCHUP_LEAST_MS) if given_ms > 0 else CATCHUP_DEFAULT_MS,
        policies.pause_on_failure,
        policies.keep_original_workflow_id,
    )


def encode(state: State) -> bytes:
    """The row of a state."""
    return seal(_encoder.encode(state))


def decode(row: bytes) -> State:
    """A state as read. Raises ValueError: the row is damaged."""
    try:
        return _decoder.decode(unseal(row))
    except msgspec.MsgspecError as error:
        raise ValueError(f"the state of a schedule is damaged: {error}") from error


def seal(data: bytes) -> bytes:
    """With a checksum at the end."""
    return data + crc32(data).to_bytes(_SEAL_BYTES, "little")


def unseal(row: bytes) -> bytes:
    """Without it. Raises ValueError: it does not match."""
    data = row[:-_SEAL_BYTES]
    if crc32(data).to_bytes(_SEAL_BYTES, "little") != row[-_SEAL_BYTES:]:
        raise ValueError("a row of a schedule is damaged: its checksum does not match; restore it from a backup")
    return data
