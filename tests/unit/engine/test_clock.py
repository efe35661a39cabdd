"""Clocks: virtual ones move when told, the system's one notices jumps."""

from __future__ import annotations

import asyncio
import time

import pytest

from perdure.engine import clock as clock_module
from perdure.engine.clock import SystemClock, VirtualClock


def test_calls_are_made_in_order_of_time() -> None:
    clock = VirtualClock(1000)
    made: list[tuple[str, int]] = []
    clock.call_at(1300, lambda: made.append(("c", clock.now_ms())))
    clock.call_later(0.1, lambda: made.append(("a", clock.now_ms())))
    clock.call_at(1200, lambda: made.append(("b", clock.now_ms())))
    clock.advance_to(1250)
    assert made == [("a", 1100), ("b", 1200)]
    assert clock.now_ms() == 1250
    clock.advance_by(100)
    assert made[-1] == ("c", 1300)


def test_advance_jumps_to_deadlines_only() -> None:
    clock = VirtualClock(0)
    made: list[str] = []
    clock.call_later(1, lambda: made.append("wait"))
    assert clock.next_deadline_ms() is None
    assert not clock.advance()
    clock.call_at(5000, lambda: made.append("deadline"))
    assert clock.advance()
    assert made == ["wait", "deadline"]
    assert clock.now_ms() == 5000


def test_a_cancelled_call_is_not_made() -> None:
    clock = VirtualClock(0)
    made: list[int] = []
    handle = clock.call_at(10, lambda: made.append(1))
    handle.cancel()
    handle.cancel()
    assert clock.next_deadline_ms() is None
    clock.advance_by(100)
    assert made == []


def test_a_callback_may_ask_for_more() -> None:
    clock = VirtualClock(0)
    made: list[int] = []

    def again() -> None:
        made.append(clock.now_ms())
        if len(made) < 3:
            clock.call_at(clock.now_ms() + 10, again)

    clock.call_at(10, again)
    clock.advance_to(100)
    assert made == [10, 20, 30]


async def test_what_is_due_already_is_called_on_the_next_turn() -> None:
    clock = VirtualClock(1000)
    made: list[int] = []
    clock.call_at(900, lambda: made.append(1))
    assert made == []
    await asyncio.sleep(0)
    assert made == [1]


async def test_a_wall_clock_timer_waits_for_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's timer rings early when the wall clock is set back; the call waits on."""
    wall = [1000.0]
    monkeypatch.setattr(clock_module, "MAX_NAP_S", 0.001)
    monkeypatch.setattr(time, "time", lambda: wall[0])
    monkeypatch.setattr(time, "time_ns", lambda: int(wall[0] * 1e9))
    made = asyncio.Event()
    looked = asyncio.Event()
    clock = SystemClock()
    handle = clock.call_at(1_005_000, made.set)
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, looked.set)
    await looked.wait()
    assert not made.is_set(), "the wall clock has not come there"
    wall[0] = 1005.0
    await made.wait()
    handle.cancel()
    unmade = asyncio.Event()
    clock.call_at(9_999_000, unmade.set).cancel()
    assert not unmade.is_set()


def test_the_monotonic_clock_does_not_go_back() -> None:
    clock = SystemClock()
    first = clock.monotonic_s()
    assert clock.monotonic_s() >= first
    assert abs(clock.now_ms() - time.time() * 1000) < 1000
