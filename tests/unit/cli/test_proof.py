"""The demo's proof: it accepts what may happen, and sees what may not."""

from __future__ import annotations

from typing import Any

from perdure.cli.demo.proof import examine

FIRST, SECOND = 100, 200
STEPS = {
    "reserve": "reserved",
    "charge": "charged",
    "label": "labelled",
    "send_mail": "mailed",
    "complete": "completed",
}


class Book:
    """Writes ledger rows for one order."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.pid = FIRST

    def row(self, kind: str, activity: str, attempt: int = 1, **more: Any) -> None:
        ids = {"order": "A1", "run": "run-1", "activity": activity, "activity_id": activity, "attempt": attempt}
        self.rows.append({"pid": self.pid, "kind": kind} | ids | more)

    def step(self, activity: str, what: str | None = None) -> None:
        self.row("called", activity)
        self.row("effect", activity, what=what or STEPS[activity], amount_cents=500)
        self.row("done", activity)

    def whole(self) -> Book:
        for activity in STEPS:
            self.step(activity)
        return self


def test_a_fulfilled_order() -> None:
    proof = examine(Book().whole().rows, {"A1": "fulfilled"})
    assert proof.holds
    assert (proof.fulfilled, proof.steps_done, proof.charged_cents) == (1, 5, 500)


def test_a_cancelled_order_that_was_undone() -> None:
    book = Book()
    book.step("reserve")
    book.step("charge")
    book.row("called", "label")
    book.row("failed", "label")
    book.step("refund", "refunded")
    book.step("release", "released")
    proof = examine(book.rows, {"A1": "cancelled"})
    assert proof.holds
    assert (proof.cancelled, proof.refunded_cents) == (1, 500)


def test_a_cancelled_order_that_was_not_undone() -> None:
    book = Book()
    book.step("reserve")
    book.step("charge")
    book.step("refund", "refunded")
    proof = examine(book.rows, {"A1": "cancelled"})
    assert proof.violations == ["order A1 was cancelled, but is still reserved"]


def test_a_step_running_at_the_kill_may_run_again() -> None:
    book = Book()
    book.step("reserve")
    book.row("called", "charge")
    book.row("effect", "charge", what="charged", amount_cents=500)
    book.pid = SECOND
    book.row("called", "charge")
    book.row("done", "charge")
    for activity in ("label", "send_mail", "complete"):
        book.step(activity)
    proof = examine(book.rows, {"A1": "fulfilled"}, {("run-1", "reserve")})
    assert proof.holds
    assert proof.repeated == 1


def test_a_step_recorded_before_the_kill_may_not() -> None:
    book = Book()
    book.step("reserve")
    book.pid = SECOND
    book.row("called", "reserve")
    book.row("done", "reserve")
    for activity in list(STEPS)[1:]:
        book.step(activity)
    proof = examine(book.rows, {"A1": "fulfilled"}, {("run-1", "reserve")})
    assert proof.violations == [
        "order A1: reserve (attempt 1) ran again, but was recorded as completed before the kill"
    ]


def test_a_step_may_not_run_after_a_later_one() -> None:
    book = Book()
    book.step("reserve")
    book.step("charge")
    book.pid = SECOND
    book.row("called", "reserve")
    book.row("done", "reserve")
    for activity in list(STEPS)[2:]:
        book.step(activity)
    proof = examine(book.rows, {"A1": "fulfilled"})
    assert proof.violations == ["order A1: reserve (attempt 1) ran again after a later step of its run had begun"]


def test_a_step_may_not_run_twice_in_one_life() -> None:
    book = Book()
    book.step("reserve")
    book.step("reserve")
    assert "while its process lived" in examine(book.rows, {"A1": "fulfilled"}).violations[0]


def test_a_failed_step_is_retried() -> None:
    book = Book()
    book.row("called", "reserve")
    book.row("failed", "reserve")
    proof = examine(book.whole().rows, {"A1": "fulfilled"})
    assert proof.holds
    assert proof.retries == 1


def test_a_second_charge_is_seen() -> None:
    book = Book().whole()
    book.row("effect", "charge", what="charged", amount_cents=500)
    assert "order A1 was charged 2 times" in examine(book.rows, {"A1": "fulfilled"}).violations


def test_an_order_that_did_not_end_is_seen() -> None:
    assert examine([], {"A1": "running"}).violations == ["order A1 is not at its end: running"]


def test_an_order_nobody_ordered_is_seen() -> None:
    assert examine(Book().whole().rows, {}).violations == ["order A1 is not at its end: not among the orders"]
