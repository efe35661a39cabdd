"""What every store does: one suite for all of them."""

from __future__ import annotations

import pytest

from perdure.engine.store import (
    Batch,
    CurrentRow,
    HistoryRow,
    ItemRow,
    LoadedRun,
    Store,
    StoreError,
    VisibilityFilter,
)
from tests.store.rows import (
    COMPLETED,
    EVERYTHING,
    FAILED,
    RUNNING,
    UNBOUNDED,
    list_keys,
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
    assert await store.list_visibility(EVERYTHING, None, 10) == []
    assert await store.count_visibility(EVERYTHING) == 0
    assert await store.count_by_status(EVERYTHING) == {}
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
    assert await store.list_visibility(EVERYTHING, None, 10) == [visibility_row(7)]
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
    assert await store.list_visibility(EVERYTHING, None, 10) == [closed]
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
    assert await store.list_visibility(EVERYTHING, None, 10) == []


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
        assert await store.list_visibility(VisibilityFilter(namespace=text), None, 10) == [row]
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
    assert await store.list_visibility(EVERYTHING, None, 10) == [row]
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


FILTERS = [
    EVERYTHING,
    VisibilityFilter(namespace="other"),
    VisibilityFilter(namespace="absent"),
    VisibilityFilter(namespace="default", workflow_id="workflow-2"),
    VisibilityFilter(namespace="default", run_id="run-7"),
    VisibilityFilter(namespace="default", workflow_id="workflow-2", run_id="run-7"),
    VisibilityFilter(namespace="default", workflow_type="Refund"),
    VisibilityFilter(namespace="default", statuses=()),
    VisibilityFilter(namespace="default", statuses=(COMPLETED,)),
    VisibilityFilter(namespace="default", statuses=(FAILED, RUNNING, FAILED)),
    VisibilityFilter(namespace="default", statuses=(FAILED, RUNNING), workflow_type="Order"),
    VisibilityFilter(namespace="default", start_from_ms=1_001, start_to_ms=1_002),
    VisibilityFilter(namespace="default", close_from_ms=2_001),
    VisibilityFilter(namespace="default", close_to_ms=2_001, workflow_type="Order"),
    VisibilityFilter(namespace="default", close_from_ms=2_002, close_to_ms=2_003, statuses=(COMPLETED, FAILED)),
    VisibilityFilter(namespace="default", workflow_id="workflow-1", statuses=(COMPLETED,), start_from_ms=1_002),
]


def expected_keys(where: VisibilityFilter) -> list[int]:
    """The answer for `visibility_of_many`, worked out from how it made its rows."""
    found: list[tuple[int, int]] = []
    for run_key in range(1, 25):
        start_ms, close_ms = 1_000 + run_key % 4, None if run_key % 3 == 0 else 2_000 + run_key % 4
        conditions = (
            where.namespace == ("other" if run_key % 8 == 0 else "default"),
            where.workflow_id is None or where.workflow_id == f"workflow-{run_key % 5}",
            where.run_id is None or where.run_id == f"run-{run_key}",
            where.workflow_type is None or where.workflow_type == ("Order", "Refund")[run_key % 2],
            where.statuses is None or (RUNNING, COMPLETED, FAILED)[run_key % 3] in where.statuses,
            where.start_from_ms is None or start_ms >= where.start_from_ms,
            where.start_to_ms is None or start_ms <= where.start_to_ms,
            where.close_from_ms is None or (close_ms is not None and close_ms >= where.close_from_ms),
            where.close_to_ms is None or (close_ms is not None and close_ms <= where.close_to_ms),
        )
        if all(conditions):
            found.append((start_ms, run_key))
    return [run_key for _, run_key in sorted(found, reverse=True)]


@pytest.mark.parametrize("where", FILTERS, ids=lambda where: ",".join(_given(where)))
async def test_lists_and_counts_agree_with_the_filter(store: Store, where: VisibilityFilter) -> None:
    await visibility_of_many(store)
    expected = expected_keys(where)
    assert await list_keys(store, where) == expected
    assert await store.count_visibility(where) == len(expected)
    by_status: dict[int, int] = {}
    for run_key in expected:
        status = (RUNNING, COMPLETED, FAILED)[run_key % 3]
        by_status[status] = by_status.get(status, 0) + 1
    assert await store.count_by_status(where) == by_status
    for limit in (1, 3):
        pages: list[int] = []
        after: tuple[int, int] | None = None
        while page := await store.list_visibility(where, after, limit):
            assert len(page) <= limit
            pages += [row.run_key for row in page]
            after = page[-1].start_ms, page[-1].run_key
        assert pages == expected


def _given(where: VisibilityFilter) -> list[str]:
    names = ("workflow_id", "run_id", "workflow_type", "statuses", "start_from_ms", "close_from_ms", "close_to_ms")
    return [name for name in names if getattr(where, name) is not None] or [where.namespace]


async def test_filters_see_the_newest_row(store: Store) -> None:
    running = VisibilityFilter(namespace="default", statuses=(RUNNING,))
    await store.commit(started(1))
    assert await list_keys(store, running) == [1]
    await store.commit(Batch(visibility=[visibility_row(1, status=FAILED, close_ms=9)]))
    assert await list_keys(store, running) == []
    assert await store.count_by_status(EVERYTHING) == {FAILED: 1}


async def test_the_epoch_of_a_claim_is_no_meta(store: Store) -> None:
    for name in ("epoch", "fence", "owner"):
        assert await store.load_meta(name) is None


async def test_closing_twice_and_before_opening_is_harmless(store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.commit(Batch())
