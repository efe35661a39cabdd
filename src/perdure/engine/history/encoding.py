"""A run as rows, and back.

The state is one MessagePack array. Up to `INLINE_ITEMS_MAX` pending items travel inside it; a run that ever has more
is `spilled`: from then on each item has a row of its own and only touched ones are written, so that a fan-out of
thousands does not rewrite thousands with each commit.

The ids of completed updates are kept for good, as any may be asked for. Once there are many, the older ones move to
pages, which are rows beside the items with negative ids, and are never written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from perdure.engine.history import activity, deadlines, pending
from perdure.engine.history.evolve import STATE_VERSION
from perdure.engine.history.state import Item, Run, RunState, UpdateBook

INLINE_ITEMS_MAX: Final = 32
INLINE_UPDATES_MAX: Final = 128
UPDATES_PAGE: Final = 64

_encoder = msgspec.msgpack.Encoder()
_state_decoder = msgspec.msgpack.Decoder(RunState)
_item_decoder = msgspec.msgpack.Decoder(Item)
_page_decoder = msgspec.msgpack.Decoder(dict[str, int])


class EncodedRun(NamedTuple):
    """A run as rows."""

    state: bytes
    items: list[tuple[int, bytes]]
    """(event_id, bytes) of items to upsert, and (-number, bytes) of new pages of updates."""
    item_deletes: list[int]
    """Event ids of items whose rows must go."""


class StateVersionError(ValueError):
    """The row has another layout version: rebuild the state with `fold`."""


def encode(run: Run) -> EncodedRun:
    """The rows to write for what has changed since the last call."""
    updates = run.state.updates
    if updates is not None and len(updates.completed) > INLINE_UPDATES_MAX:
        return _encode_paged(run, updates)
    return _encode(run)


def _encode_paged(run: Run, updates: UpdateBook) -> EncodedRun:
    completed = updates.completed
    pages: list[tuple[int, bytes]] = []
    while len(completed) - updates.paged > INLINE_UPDATES_MAX:
        page = dict(islice(completed.items(), updates.paged, updates.paged + UPDATES_PAGE))
        updates.paged += UPDATES_PAGE
        pages.append((-(updates.paged // UPDATES_PAGE), _encoder.encode(page)))
    updates.completed = dict(islice(completed.items(), updates.paged, None))
    try:
        encoded = _encode(run)
    finally:
        updates.completed = completed
    return encoded._replace(items=encoded.items + pages)


def _encode(run: Run) -> EncodedRun:
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
    pages: dict[int, dict[str, int]] = {}
    for event_id, data in items:
        if event_id < 0:
            pages[-event_id] = _page_decoder.decode(data)
        else:
            decoded.items[event_id] = _item_decoder.decode(data)
    if decoded.updates is not None and decoded.updates.paged:
        _read_pages(decoded.updates, pages)
    run = Run(run_key, decoded)
    pending.index_all(run)
    if recovered_at_ms:
        activity.restart_waiting(run, recovered_at_ms)
    deadlines.rebuild(run)
    return run


def _read_pages(updates: UpdateBook, pages: dict[int, dict[str, int]]) -> None:
    completed: dict[str, int] = {}
    for number in sorted(pages):
        completed |= pages[number]
    if len(completed) != updates.paged:
        raise ValueError(f"pages of updates are missing: {len(completed)} of {updates.paged} updates are there")
    updates.completed = completed | updates.completed
