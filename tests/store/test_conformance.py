"""What every store does: one suite for all of them."""

from __future__ import annotations

import pytest

from perdure.engine.store import (
    AttributesRow,
    Batch,
    CurrentRow,
    HistoryRow,
    ItemRow,
    LoadedRun,
    ScheduleRow,
    Store,
    StoreError,
    VisibilityPage,
)
from perdure.engine.visibility.attributes import INT, KEYWORD, KEYWORD_LIST
from perdure.engine.visibility.expressions import Attribute, In, VisibilityQuery
from tests.store.rows import (
    COMPLETED,
    EVERYTHING,
    FAILED,
    RUNNING,
    STATUS,
    UNBOUNDED,
    WORKFLOW_ID,
    WORKFLOW_TYPE,
    by_status,
    list_keys,
    listed,
    read_all,
    run_row,
    started,
    visibility_row,
)

AWKWARD = ("", "\x00", "a\x00b", "ünïcode 🚚", "'; DROP TABLE runs; --", "   7", "x" * 1_000)


async def test_an_empty_store_answers_everything(store: Store) -> None:
    assert await store.max_run_key() == 0
    assert await store.load_run(1) is None
    assert await store.current_run("default", "w") is None
    assert await store.find_run("default", "w", "r") is None
    assert await store.read_history(1, 1, 100) == []
    assert await store.read_history_reverse(1, 9, 100) == []
    assert await store.due_runs(UNBOUNDED, None, 10) == []
    assert await store.list_visibility(EVERYTHING, None, 10) == VisibilityPage([], None)
    assert await store.count_visibility(EVERYTHING) == 0
    assert await by_status(store) == {}
    assert await store.load_namespaces() == []
    assert await store.load_meta("token_key") is None


async def test_an_empty_batch_is_a_commit(store: Store) -> None:
    await store.commit(Batch())
    assert await store.max_run_key() == 0


async def test_a_started_run_is_found_in_every_way(store: Store) -> None:
    await store.commit(started(7))
    assert await store.load_run(7) == LoadedRun(run_row(7, 0), [])
    assert await read_all(store, 7) == [HistoryRow(7, 1, b"started 7")]
    assert await store.current_run("default", "workflow-7") == 7
    assert await store.find_run("default", "workflow-7", "run-7") == 7
    assert await listed(store, EVERYTHING) == [visibility_row(7)]
    assert await store.due_runs(0, None, 10) == [(0, 7)]
    assert await store.max_run_key() == 7


async def test_rows_replace_those_of_the_same_key(store: Store) -> None:
    await store.commit(started(1))
    closed = visibility_row(1, status=COMPLETED, close_ms=2_000)
    await store.commit(
        Batch(
            runs=[run_row(1, 50, b"older"), run_row(1, None, b"newer")],
            currents=[CurrentRow("default", "workflow-1", 9)],
            visibility=[closed],
            namespaces=[("default", b"a"), ("default", b"b")],
            metas=[("token_key", b"a"), ("token_key", b"b")],
        )
    )
    assert await store.load_run(1) == LoadedRun(run_row(1, None, b"newer"), [])
    assert await store.due_runs(UNBOUNDED, None, 10) == []
    assert await store.current_run("default", "workflow-1") == 9
    assert await listed(store, EVERYTHING) == [closed]
    assert await store.load_namespaces() == [("default", b"b")]
    assert await store.load_meta("token_key") == b"b"


async def test_a_row_is_refused_whole_with_its_batch(store: Store) -> None:
    await store.commit(started(1))
    again = Batch(
        histories=[HistoryRow(1, 5, b"new"), HistoryRow(1, 1, b"again")],
        runs=[run_row(1, 99, b"new")],
        metas=[("m", b"new")],
    )
    with pytest.raises(StoreError, match="nothing was written"):
        await store.commit(again)
    assert await read_all(store, 1) == [HistoryRow(1, 1, b"started 1")]
    assert await store.load_run(1) == LoadedRun(run_row(1, 0), [])
    assert await store.load_meta("m") is None
    await store.commit(Batch(histories=[HistoryRow(1, 5, b"new")]))
    assert len(await read_all(store, 1)) == 2


async def test_the_same_events_twice_in_a_batch_are_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="nothing was written"):
        await store.commit(Batch(histories=[HistoryRow(1, 1, b"a"), HistoryRow(1, 1, b"b")]))
    assert await read_all(store, 1) == []


async def test_items_come_in_order_and_go(store: Store) -> None:
    items = [ItemRow(1, 9, b"nine"), ItemRow(1, 5, b"five"), ItemRow(1, 100, b""), ItemRow(2, 5, b"other")]
    await store.commit(Batch(runs=[run_row(1), run_row(2)], items=items))
    await store.commit(Batch(items=[ItemRow(1, 9, b"NINE")], item_deletes=[(1, 5), (1, 6), (3, 5)]))
    assert await store.load_run(1) == LoadedRun(run_row(1), [ItemRow(1, 9, b"NINE"), ItemRow(1, 100, b"")])
    assert await store.load_run(2) == LoadedRun(run_row(2), [ItemRow(2, 5, b"other")])


async def test_upserts_go_before_deletes(store: Store) -> None:
    await store.commit(Batch(runs=[run_row(1)], items=[ItemRow(1, 5, b"a")], item_deletes=[(1, 5)]))
    assert await store.load_run(1) == LoadedRun(run_row(1), [])
    batch = started(1)
    batch.run_deletes.append(1)
    await store.commit(batch)
    assert await store.load_run(1) is None
    assert await listed(store, EVERYTHING) == []


async def test_an_erased_run_leaves_nothing(store: Store) -> None:
    for run_key in (1, 2, 3):
        await store.commit(started(run_key))
    # The workflow of run 2 has gone on as run 3.
    await store.commit(
        Batch(items=[ItemRow(2, 5, b"item")], currents=[CurrentRow("default", "workflow-2", 3)]),
    )
    await store.commit(Batch(run_deletes=[1, 2, 77]))
    for run_key in (1, 2):
        assert await store.load_run(run_key) is None
        assert await read_all(store, run_key) == []
        assert await store.find_run("default", f"workflow-{run_key}", f"run-{run_key}") is None
    assert await store.current_run("default", "workflow-1") is None
    assert await store.current_run("default", "workflow-2") == 3
    assert await store.due_runs(UNBOUNDED, None, 10) == [(0, 3)]
    assert await list_keys(store, EVERYTHING) == [3]
    await store.commit(Batch(runs=[run_row(2)]))
    assert await store.load_run(2) == LoadedRun(run_row(2), [])


async def test_history_is_read_from_the_batch_with_the_event(store: Store) -> None:
    rows = [HistoryRow(1, first, b"%d" % first * 10) for first in (1, 4, 9, 20)]
    await store.commit(Batch(histories=[*reversed(rows), HistoryRow(2, 2, b"other")]))
    assert await store.read_history(1, 1, UNBOUNDED) == rows
    assert await store.read_history(1, 8, UNBOUNDED) == rows[1:]
    assert await store.read_history(1, 9, UNBOUNDED) == rows[2:]
    assert await store.read_history(1, 500, UNBOUNDED) == rows[3:]
    assert await store.read_history(2, 1, UNBOUNDED) == [HistoryRow(2, 2, b"other")]


async def test_history_is_read_up_to_a_size(store: Store) -> None:
    rows = [HistoryRow(1, first, bytes(10)) for first in (1, 2, 3, 4)]
    await store.commit(Batch(histories=rows))
    assert await store.read_history(1, 1, 0) == rows[:1]
    assert await store.read_history(1, 1, 10) == rows[:1]
    assert await store.read_history(1, 1, 11) == rows[:2]
    assert await store.read_history(1, 2, 25) == rows[1:]
    assert await store.read_history_reverse(1, 4, 11) == [rows[3], rows[2]]


async def test_history_is_read_backwards(store: Store) -> None:
    rows = [HistoryRow(1, first, b"%d" % first) for first in (1, 4, 9)]
    await store.commit(Batch(histories=rows))
    assert await store.read_history_reverse(1, 500, UNBOUNDED) == rows[::-1]
    assert await store.read_history_reverse(1, 8, UNBOUNDED) == [rows[1], rows[0]]
    assert await store.read_history_reverse(1, 4, UNBOUNDED) == [rows[1], rows[0]]
    assert await store.read_history_reverse(1, 0, UNBOUNDED) == []


async def test_due_runs_come_in_order_and_in_pages(store: Store) -> None:
    wakes = {1: 0, 2: 500, 3: 0, 4: None, 5: 700, 6: 500, 7: 500, 8: 701, 9: 0}
    await store.commit(Batch(runs=[run_row(run_key, wake) for run_key, wake in wakes.items()]))
    expected = [(0, 1), (0, 3), (0, 9), (500, 2), (500, 6), (500, 7), (700, 5)]
    assert await store.due_runs(700, None, 100) == expected
    assert await store.due_runs(0, None, 2) == expected[:2]
    for limit in (1, 2, 3, 7):
        pages: list[tuple[int, int]] = []
        while page := await store.due_runs(700, pages[-1] if pages else None, limit):
            assert len(page) <= limit
            pages += page
        assert pages == expected
    assert await store.due_runs(499, (500, 2), 10) == []
    assert await store.due_runs(700, (600, 1), 10) == [(700, 5)]


async def test_names_and_bytes_of_any_kind_survive(store: Store) -> None:
    for run_key, text in enumerate(AWKWARD, start=1):
        row = visibility_row(run_key, namespace=text, workflow_id=text, workflow_type=text)._replace(
            run_id=text, task_queue=text, info=text.encode()
        )
        await store.commit(
            Batch(
                histories=[HistoryRow(run_key, 1, text.encode())],
                runs=[run_row(run_key, state=text.encode())._replace(run_id=text)],
                currents=[CurrentRow(text, text, run_key)],
                visibility=[row],
                namespaces=[(text, text.encode())],
                metas=[(text, text.encode())],
            )
        )
        assert await read_all(store, run_key) == [HistoryRow(run_key, 1, text.encode())]
        loaded = await store.load_run(run_key)
        assert loaded is not None and (loaded.row.run_id, loaded.row.state) == (text, text.encode())
        assert await store.current_run(text, text) == run_key
        assert await store.find_run(text, text, text) == run_key
        assert await listed(store, VisibilityQuery(namespace=text)) == [row]
        assert await store.load_meta(text) == text.encode()
    assert await store.load_namespaces() == sorted((text, text.encode()) for text in AWKWARD)


async def test_large_numbers_and_large_rows_survive(store: Store) -> None:
    run_key, event_id, late_ms = 999_999_999_999, 9_999_999_999, 253_402_300_799_999
    row = visibility_row(run_key, start_ms=late_ms, close_ms=late_ms)._replace(
        history_length=event_id, history_bytes=10**14
    )
    big = bytes(range(256)) * 8_192
    await store.commit(
        Batch(
            histories=[HistoryRow(run_key, event_id, big)],
            runs=[run_row(run_key, late_ms, big)],
            items=[ItemRow(run_key, event_id, big)],
            visibility=[row],
        )
    )
    assert await store.load_run(run_key) == LoadedRun(run_row(run_key, late_ms, big), [ItemRow(run_key, event_id, big)])
    assert await read_all(store, run_key) == [HistoryRow(run_key, event_id, big)]
    assert await listed(store, EVERYTHING) == [row]
    assert await store.max_run_key() == run_key


async def test_a_batch_may_be_large(store: Store) -> None:
    many = range(1, 5_001)
    await store.commit(
        Batch(
            histories=[HistoryRow(1, event_id, b"e") for event_id in many],
            runs=[run_row(run_key, run_key) for run_key in many],
            items=[ItemRow(1, event_id, b"i") for event_id in many],
        )
    )
    await store.commit(Batch(item_deletes=[(1, event_id) for event_id in many[:-1]]))
    assert len(await read_all(store, 1)) == 5_000
    assert await store.load_run(1) == LoadedRun(run_row(1, 1), [ItemRow(1, 5_000, b"i")])
    assert len(await store.due_runs(5_000, None, 10_000)) == 5_000


async def visibility_of_many(store: Store) -> None:
    """Runs 1 to 24 in two namespaces, with ties in every order."""
    statuses = (RUNNING, COMPLETED, FAILED)
    await store.commit(
        Batch(
            visibility=[
                visibility_row(
                    run_key,
                    namespace="other" if run_key % 8 == 0 else "default",
                    workflow_id=f"workflow-{run_key % 5}",
                    workflow_type=("Order", "Refund")[run_key % 2],
                    status=statuses[run_key % 3],
                    start_ms=1_000 + run_key % 4,
                    close_ms=None if run_key % 3 == 0 else 2_000 + run_key % 4,
                )
                for run_key in range(1, 25)
            ]
        )
    )


OTHER = VisibilityQuery(namespace="other")
ABSENT = VisibilityQuery(namespace="absent")


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_a_list_begins_with_open_runs_and_goes_on_with_the_last_closed(store: Store, limit: int) -> None:
    await visibility_of_many(store)
    open_runs = [run_key for run_key in range(24, 0, -1) if run_key % 3 == 0 and run_key % 8]
    closed = [run_key for run_key in range(24, 0, -1) if run_key % 3 and run_key % 8]
    closed.sort(key=lambda run_key: run_key % 4, reverse=True)
    assert await list_keys(store, EVERYTHING, limit) == open_runs + closed
    assert await list_keys(store, OTHER, limit) == [24, 16, 8]
    assert await list_keys(store, ABSENT, limit) == []


async def test_counters_follow_what_is_written(store: Store) -> None:
    running = VisibilityQuery(namespace="default", where=In(STATUS, (RUNNING,)))
    orders = VisibilityQuery(namespace="default", where=In(WORKFLOW_TYPE, ("Order",)))
    await store.commit(started(1))
    await store.commit(started(2))
    assert await list_keys(store, running) == [2, 1]
    assert await store.count_visibility(running) == 2
    await store.commit(Batch(visibility=[visibility_row(1, status=FAILED, close_ms=9)]))
    await store.commit(Batch(visibility=[visibility_row(1, status=FAILED, close_ms=9)]))
    assert await list_keys(store, running) == [2]
    assert await store.count_visibility(running) == 1
    assert await by_status(store) == {RUNNING: 1, FAILED: 1}
    assert await store.count_visibility(orders) == 2
    await store.commit(Batch(run_deletes=[1]))
    assert await by_status(store) == {RUNNING: 1}
    assert await store.count_visibility(EVERYTHING) == 1
    assert await store.count_visibility(OTHER) == 0


async def test_groups_are_in_order_and_bounded(store: Store) -> None:
    await visibility_of_many(store)
    queues = await store.group_visibility(EVERYTHING, WORKFLOW_ID, 3)
    assert queues == [("workflow-0", 4), ("workflow-1", 4), ("workflow-2", 5)]
    types = await store.group_visibility(EVERYTHING, WORKFLOW_TYPE, 10)
    assert types == [("Order", 9), ("Refund", 12)]


async def test_attributes_are_replaced_as_a_whole_and_go_with_their_run(store: Store) -> None:
    colour, sizes = Attribute("Colour", KEYWORD), Attribute("Sizes", KEYWORD_LIST)
    red = VisibilityQuery(namespace="default", where=In(colour, ("red",)))
    large = VisibilityQuery(namespace="default", where=In(sizes, ("l", "xl")))
    batch = started(1)
    values = (("Colour", KEYWORD, "red"), ("Sizes", KEYWORD_LIST, "l"), ("Sizes", KEYWORD_LIST, "xl"))
    batch.attributes.append(AttributesRow(1, "default", values))
    await store.commit(batch)
    await store.commit(started(2))
    assert await list_keys(store, red) == await list_keys(store, large) == [1]
    assert await store.count_visibility(large) == 1
    assert await store.group_visibility(EVERYTHING, sizes, 9) == [("l", 1), ("xl", 1)]
    await store.commit(Batch(attributes=[AttributesRow(1, "default", (("Colour", KEYWORD, "blue"),))]))
    assert await list_keys(store, red) == await list_keys(store, large) == []
    assert await store.group_visibility(EVERYTHING, colour, 9) == [("blue", 1)]
    await store.commit(Batch(run_deletes=[1]))
    assert await store.group_visibility(EVERYTHING, colour, 9) == []


async def test_attributes_of_any_kind_survive(store: Store) -> None:
    for run_key, text in enumerate(AWKWARD, start=1):
        number = (-(1 << 63), -1, 0, 1, 2**53 + 1, (1 << 63) - 1, 7)[run_key - 1]
        batch = Batch(visibility=[visibility_row(run_key, namespace=text)])
        name = text or "empty"
        batch.attributes.append(AttributesRow(run_key, text, ((name, KEYWORD, text), (name, INT, number))))
        await store.commit(batch)
        for kind, value in ((KEYWORD, text), (INT, number)):
            attribute = Attribute(name, kind)
            query = VisibilityQuery(namespace=text, where=In(attribute, (value,)))
            assert await list_keys(store, query) == [run_key]
            assert await store.group_visibility(VisibilityQuery(namespace=text), attribute, 9) == [(value, 1)]


async def test_schedules_are_read_in_order_and_in_pages(store: Store) -> None:
    rows = [
        ScheduleRow("default", "a", b"what a", b"how far a"),
        ScheduleRow("default", "b\0", b"", b""),
        ScheduleRow("other", "ü", b"what \0 c", b"\0"),
    ]
    await store.commit(Batch(schedules=rows[::-1]))
    assert await store.load_schedules(("", ""), 10) == rows
    assert await store.load_schedules(("", ""), 2) == rows[:2]
    assert await store.load_schedules(("default", "a"), 2) == rows[1:]
    assert await store.load_schedules(("other", "ü"), 2) == []


async def test_a_schedule_is_replaced_in_part_or_whole_and_goes(store: Store) -> None:
    await store.commit(Batch(schedules=[ScheduleRow("default", name, b"what", b"1") for name in "ab"]))
    await store.commit(Batch(schedules=[ScheduleRow("default", "a", None, b"2")]))
    assert (await store.load_schedules(("", ""), 1))[0] == ("default", "a", b"what", b"2")
    await store.commit(Batch(schedules=[ScheduleRow("default", "a", b"new", b"3")]))
    assert (await store.load_schedules(("", ""), 1))[0] == ("default", "a", b"new", b"3")
    await store.commit(Batch(schedule_deletes=[("default", "a"), ("default", "never")]))
    assert await store.load_schedules(("", ""), 10) == [("default", "b", b"what", b"1")]


async def test_the_epoch_of_a_claim_is_no_meta(store: Store) -> None:
    for name in ("epoch", "fence", "owner"):
        assert await store.load_meta(name) is None


async def test_closing_twice_and_before_opening_is_harmless(store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.commit(Batch())
