"""What a schedule does next: laws over any sequence of actions, ends and policies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.api import messages as m
from perdure.engine.schedules import stepping
from perdure.engine.schedules.spec import Times, canonical
from perdure.engine.schedules.state import Backfill, Policies, State, decode, encode, policies_of

OVERLAPS = [number for number in m.ScheduleOverlapPolicy.values() if number]
ALLOW_ALL = m.ScheduleOverlapPolicy.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL
BUFFER_ONE = m.ScheduleOverlapPolicy.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE
RUNNING = m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING
COMPLETED = m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED
SKIP = policies_of(m.SchedulePolicies())


def fresh() -> State:
    return State("uid", 0, 0)


def every_second() -> Times:
    spec = m.ScheduleSpec()
    spec.interval.add().interval.seconds = 1
    return Times(canonical(spec), b"seed")


def begin(state: State, policies: Policies) -> None:
    """Start what may start."""
    while state.starting:
        action = state.starting[0]
        name = f"wf-{action.number}"
        stepping.started(state, action, policies, workflow_id=name, run_id=name, status=RUNNING, now_ms=0)


Step = tuple[str, int]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(OVERLAPS),
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from([0, *OVERLAPS])),
            st.tuples(st.just("end"), st.integers(0, 3)),
            st.tuples(st.just("plan"), st.just(0)),
            st.tuples(st.just("start"), st.just(0)),
        ),
        max_size=60,
    ),
)
def test_no_action_is_lost_or_doubled(overlap: int, steps: list[Step]) -> None:
    policies = Policies(overlap, 60_000, False, False)
    state = fresh()
    added = 0
    for what, value in steps:
        match what:
            case "add":
                stepping.add(state, added * 1000, added * 1000, value, manual=True)
                added += 1
            case "end" if state.running:
                running = state.running[value % len(state.running)]
                stepping.ended(state, running, policies, status=COMPLETED)
            case "plan":
                stepping.plan(state, policies)
                again = encode(state)
                stepping.plan(state, policies)
                assert encode(state) == again, "planning twice changes nothing"
            case _:
                begin(state, policies)
        assert sum(not each.beside for each in state.running) <= 1, "one at a time, but for those beside others"
        kept = [each.number for each in (*state.buffer, *state.starting)]
        assert len(set(kept)) == len(kept)
        assert state.taken + state.skipped + state.dropped + len(kept) == added
        assert decode(encode(state)) == state


def test_the_buffer_is_bounded() -> None:
    state = fresh()
    for number in range(stepping.BUFFER_MAX + 5):
        stepping.add(state, number, number, 0, manual=False)
    assert (len(state.buffer), state.dropped) == (stepping.BUFFER_MAX, 5)


def test_what_is_due_is_collected_in_slices() -> None:
    state, times = fresh(), every_second()
    policies = Policies(ALLOW_ALL, 10_000, False, False)
    rounds = 1
    while stepping.collect(state, times, policies, 3_600_000):
        rounds += 1
    assert rounds == 8
    assert (state.missed, len(state.buffer)) == (3589, 11)
    assert state.cursor_ms == 3_600_000
    assert stepping.next_wake_ms(state, times) == 3_601_000


def test_a_paused_schedule_collects_nothing_and_does_not_make_up_for_it() -> None:
    state, times = fresh(), every_second()
    state.paused = True
    assert not stepping.collect(state, times, SKIP, 100_000)
    assert stepping.next_wake_ms(state, times) is None
    stepping.apply_patch(state, m.SchedulePatch(unpause="on"), [], times, 100_500)
    assert not stepping.collect(state, times, SKIP, 100_999)
    assert not state.buffer
    assert stepping.next_wake_ms(state, times) == 101_000


def test_what_is_paused_while_it_waits_is_left_out_unless_asked_for() -> None:
    state = fresh()
    stepping.add(state, 1, 1, BUFFER_ONE, manual=False)
    stepping.add(state, 2, 2, ALLOW_ALL, manual=True)
    state.paused = True
    stepping.plan(state, SKIP)
    assert [each.nominal_ms for each in state.starting] == [2]


def test_actions_beside_others_do_not_stand_in_the_way() -> None:
    state = fresh()
    stepping.add(state, 1, 1, ALLOW_ALL, manual=True)
    stepping.plan(state, SKIP)
    begin(state, SKIP)
    stepping.add(state, 2, 2, 0, manual=False)
    stepping.plan(state, SKIP)
    assert len(state.starting) == 1


def test_only_so_many_are_watched_beside_each_other() -> None:
    state = fresh()
    policies = Policies(ALLOW_ALL, 60_000, False, False)
    for number in range(stepping.BESIDE_MAX + 3):
        stepping.add(state, number, number, 0, manual=False)
        stepping.plan(state, policies)
        begin(state, policies)
    assert len(state.running) == stepping.BESIDE_MAX
    assert state.running[0].workflow_id == "wf-4"


def test_a_backfill_waits_for_room() -> None:
    state, times = fresh(), every_second()
    state.paused = True
    state.backfills = [Backfill(-1, 4_000_000, 0)]
    while stepping.collect(state, times, SKIP, 0):
        pass
    assert len(state.buffer) == stepping.BUFFER_MAX
    assert state.backfills
    del state.buffer[:]
    assert stepping.collect(state, times, SKIP, 0)
    assert state.buffer[0].nominal_ms == stepping.BUFFER_MAX * 1000
    assert state.dropped == 0


def test_requests_are_remembered() -> None:
    state = fresh()
    assert stepping.remember(state, "a")
    assert not stepping.remember(state, "a")
    assert stepping.remember(state, "") and stepping.remember(state, "")


def test_defaults_of_policies() -> None:
    assert SKIP.catchup_ms == 365 * 86_400_000
    short = m.SchedulePolicies()
    short.catchup_window.seconds = 1
    assert policies_of(short).catchup_ms == 10_000


def test_a_flipped_bit_is_noticed() -> None:
    row = bytearray(encode(fresh()))
    row[3] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        decode(bytes(row))
