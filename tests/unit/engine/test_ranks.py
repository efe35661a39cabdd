"""The order in which tasks with ranks leave a backlog."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from perdure.api import messages as m
from perdure.engine.history.priorities import DEFAULT_RANK, Rank, rank_of, refusal
from perdure.engine.matching.queue import ActivityTask
from perdure.engine.matching.ranks import RankedBacklog


def task(number: int) -> ActivityTask:
    return ActivityTask(1, number, 1)


def drain(backlog: RankedBacklog) -> list[int]:
    return [
        found.scheduled_event_id for _ in range(len(backlog)) if isinstance(found := backlog.popleft(), ActivityTask)
    ]


def test_lower_keys_go_first_and_equals_in_order_of_arrival() -> None:
    backlog = RankedBacklog(iter([task(1), task(2)]))
    for number, key in [(3, 5), (4, 1), (5, 3), (6, 1)]:
        backlog.add(task(number), Rank(key, "", 1.0))
    backlog.append(task(7))
    assert backlog.counts() == {1: 2, 3: 4, 5: 1}
    assert backlog[0] == task(4)
    assert [found.scheduled_event_id for found in backlog] == [4, 6, 1, 2, 5, 7, 3]  # type: ignore[union-attr]
    assert drain(backlog) == [4, 6, 1, 2, 5, 7, 3]


def test_what_is_put_back_is_next() -> None:
    backlog = RankedBacklog(iter([]))
    backlog.add(task(1), Rank(1, "", 1.0))
    backlog.appendleft(task(2))
    backlog.appendleft(task(3))
    assert backlog.counts() == {1: 1, 3: 2}
    assert drain(backlog) == [3, 2, 1]


def test_a_crowd_does_not_keep_another_tenant_waiting() -> None:
    backlog = RankedBacklog(iter([]))
    for number in range(100):
        backlog.add(task(number), Rank(3, "crowd", 1.0))
    for number in range(100, 103):
        backlog.add(task(number), Rank(3, "other", 1.0))
    assert {100, 101, 102} <= set(drain(backlog)[:7])


def test_shares_follow_weights() -> None:
    backlog = RankedBacklog(iter([]))
    for number in range(1000):
        backlog.add(task(number), Rank(3, "low", 1.0))
        backlog.add(task(1000 + number), Rank(3, "high", 9.0))
    first = Counter("high" if number >= 1000 else "low" for number in drain(backlog)[:500])
    assert 440 <= first["high"] <= 460


def test_one_who_comes_late_gets_no_arrears() -> None:
    backlog = RankedBacklog(iter([]))
    for number in range(50):
        backlog.add(task(number), Rank(3, "a", 1.0))
    for _ in range(40):
        backlog.popleft()
    for number in range(100, 150):
        backlog.add(task(number), Rank(3, "b", 1.0))
    assert sum(number >= 100 for number in drain(backlog)[:10]) in (5, 6)


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from("abc"), st.sampled_from([0.001, 1.0, 1000.0]))))
def test_nothing_is_lost_and_keys_are_in_order(ranks: list[tuple[int, str, float]]) -> None:
    backlog = RankedBacklog(iter([]))
    for number, rank in enumerate(ranks):
        backlog.add(task(number), Rank(*rank))
    found = drain(backlog)
    assert sorted(found) == list(range(len(ranks)))
    keys = [ranks[number][0] for number in found]
    assert keys == sorted(keys)


def test_a_rank_is_read_from_a_priority() -> None:
    assert rank_of(b"") == DEFAULT_RANK
    workflow = m.Priority(priority_key=2, fairness_key="tenant", fairness_weight=5000).SerializeToString()
    own = m.Priority(priority_key=9).SerializeToString()
    assert rank_of(workflow) == Rank(2, "tenant", 1000.0)
    assert rank_of(workflow + own) == Rank(5, "tenant", 1000.0)
    assert refusal(m.Priority(priority_key=1)) is None
    assert refusal(m.Priority(priority_key=-1)) is not None
    assert refusal(m.Priority(fairness_key="é" * 33)) is not None
