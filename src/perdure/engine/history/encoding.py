"""A run as rows, and back.

The state is one MessagePack array. Up to `INLINE_ITEMS_MAX` pending items travel inside it; a run that ever has more
is `spilled`: from then on each item has a row of its own and only touched ones are written, so that a fan-out of
thousands does not rewrite thousands with each commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from perdure.engine.history import activity, deadlines, pending
from perdure.engine.history.evolve import STATE_VERSION
from perdure.engine.history.state import Item, Run, RunState

INLINE_ITEMS_MAX: Final = 32

_encoder = msgspec.msgpack.Encoder()
_state_decoder = msgspec.msgpack.Decoder(RunState)
_item_decoder = msgspec.msgpack.Decoder(Item)


class EncodedRun(NamedTuple):
    """A run as rows."""

    state: bytes
    items: list[tuple[int, bytes]]
    """(event_id, bytes) of items to upsert; empty unless spilled."""
    item_deletes: list[int]
    """Event ids of items whose rows must go."""


class StateVersionError(ValueError):
    """The row has another layout version: rebuild the state with `fold`."""


def encode(run: Run) -> EncodedRun:
    """The rows to write for what has changed since the last call."""
    state = run.state
    items = state.items
    if not state.spilled:
        if len(items) <= INLINE_ITEMS_MAX:
            return EncodedRun(_encoder.encode(state), [], [])
        state.spilled = True
        run.live.dirty_items = set(items)
    upserts: list[tuple[int, bytes]] = []
    deletes: list[int] = []
    for event_id in run.live.dirty_items:
        item = items.get(event_id)
        if item is None:
            deletes.append(event_id)
        else:
            upserts.append((event_id, _encoder.encode(item)))
    run.live.dirty_items = set()
    state.items = {}
    try:
        data = _encoder.encode(state)
    finally:
        state.items = items
    return EncodedRun(data, upserts, deletes)


def decode(run_key: int, state: bytes, items: Sequence[tuple[int, bytes]], *, recovered_at_ms: int = 0) -> Run:
    """A run from its rows, with indexes and deadlines rebuilt. Follow with `flush_buffered`.

    Args:
        run_key: its key.
        state: the run's row.
        items: (event_id, bytes) of its item rows.
        recovered_at_ms: when this process took over: a schedule-to-start span begun earlier counts from here, since
            the activity may have been running in the process that is gone.

    Raises:
        StateVersionError: the row has another layout version.
        ValueError: the row can't be decoded.
    """
    try:
        decoded = _state_decoder.decode(state)
    except msgspec.ValidationError as error:
        raise StateVersionError(f"run {run_key}: {error}") from error
    if decoded.version != STATE_VERSION:
        raise StateVersionError(f"run {run_key}: layout {decoded.version}, this is {STATE_VERSION}")
    for event_id, data in items:
        decoded.items[event_id] = _item_decoder.decode(data)
    run = Run(run_key, decoded)
    pending.index_all(run)
    if recovered_at_ms:
        activity.restart_waiting(run, recovered_at_ms)
    deadlines.rebuild(run)
    return run
