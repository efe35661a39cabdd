"""Settings of an engine: every bound that is not a limit of a single run.

`Limits` (in ``engine.history``) bounds what one run may hold; `EngineConfig` bounds what the process holds and how
long it waits. All have defaults that suit an embedded engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from perdure.engine.history.transition import Limits

__all__ = ["Address", "EngineConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where callbacks may go."""

    pattern: str
    """Of ``host`` or ``host:port``; an asterisk stands for anything."""
    allow_insecure: bool = False
    """Also without TLS, and to private addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How an engine behaves."""

    limits: Limits = field(default_factory=Limits)
    cache_bytes: int = 16 * 1024 * 1024
    """Loaded runs that nobody holds a task of are dropped, least recently used first, beyond this estimate."""
    poll_timeout_s: float = 60.0
    """A long poll answers empty after this long at most."""
    poll_margin_s: float = 1.0
    """A long poll answers this long before its caller's own deadline (a tenth of it, when that is less)."""
    query_timeout_s: float = 20.0
    max_queries_per_run: int = 100
    """Queries waiting for one run."""
    update_wait_s: float = 20.0
    """A caller who waits for an update gets the stage it has reached after this long at most."""
    admitted_update_bytes: int = 64 * 1024 * 1024
    """Requests of updates that wait to be accepted, over all runs: they are in memory only."""
    near_horizon_ms: int = 30_000
    """Deadlines of sleeping runs are in memory this far ahead; the rest stay in the store."""
    scan_page: int = 500
    """Rows read at a time when looking for due runs."""
    fire_slice: int = 200
    """Runs woken in one turn of the event loop."""
    sticky_alive_ms: int = 10_000
    """A sticky queue nobody has polled for this long is gone."""
    sticky_timeout_ms: int = 10_000
    """Schedule-to-start of a sticky task whose worker named none."""
    linger_turns: int = 4
    """Turns of the event loop a commit waits while new transitions keep arriving."""
    commit_distance_s: float = 0.0
    """From the end of a commit to the beginning of the next one, at least: more calls share a commit then."""
    retry_ms: int = 100
    retry_max_ms: int = 5_000
    """Back-off after a failed commit: first and longest."""
    history_page_events: int = 1000
    history_page_bytes: int = 2 * 1024 * 1024
    list_page: int = 1000
    """Most rows in a page of list, and the size when none is asked for."""
    max_queues: int = 10_000
    """Task queues kept in memory; idle ones are dropped beyond it."""
    poller_seen_ms: int = 5 * 60_000
    """A poller that has not been back for this long is forgotten."""
    quarantine_kept: int = 10_000
    """Damaged runs remembered; beyond it the oldest are read again when asked for."""
    batch_operations_per_second: float = 1000.0
    """What one batch operation may do at most."""
    callback_addresses: tuple[Address, ...] = ()
    """Where completion callbacks may go; the server's own URL needs no entry."""
    erase_closed: bool = True
    """Erase closed runs when their retention is over. Off, they stay until the setting returns."""
