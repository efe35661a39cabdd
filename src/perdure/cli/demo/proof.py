"""What the ledger proves. Pure: rows in, a verdict out.

The ledger is the outside world's own book (see ``examples/orders/world.py``): rows ``called``, ``effect``,
``done`` and ``failed``, in the order in which they happened, each with the process, workflow, run, activity and
attempt. Lives of the working process are told apart by its pid.

The laws:

1. Every order is at its end, and the world agrees with the workflow's result: a fulfilled order was reserved,
   charged, labelled, mailed and completed; a cancelled one has nothing left that was not undone.
2. No completed step ran again. A step is completed when the database has said so; that is known to be true when
   the history at the moment of the kill says it, and when a later step of the same run has been called. What may
   run again is a step that was running when the process was killed, and a failed one, being retried.
3. Each order was charged at most once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Proof", "examine"]

Row = Mapping[str, Any]

FULFILLED = Counter(reserved=1, charged=1, labelled=1, mailed=1, completed=1)
UNDONE_BY = {"reserved": "released", "charged": "refunded"}
NEVER_CANCELLED = {"mailed", "completed"}


@dataclass(slots=True, kw_only=True)
class Proof:
    """The verdict, and the figures to tell."""

    violations: list[str] = field(default_factory=list[str])
    fulfilled: int = 0
    cancelled: int = 0
    steps_done: int = 0
    retries: int = 0
    """Calls made because an earlier call of the same step had failed."""
    repeated: int = 0
    """Calls made because the process was killed while the step was running."""
    charged_cents: int = 0
    refunded_cents: int = 0

    @property
    def holds(self) -> bool:
        return not self.violations


@dataclass(slots=True)
class _Step:
    """What one step of a run has been seen to do."""

    pid: int
    state: str
    """The kind of its last row."""


def examine(rows: Sequence[Row], results: Mapping[str, str], recorded_at_kill: Iterable[tuple[str, str]] = ()) -> Proof:
    """Examine a ledger.

    Args:
        rows: the ledger, in order.
        results: order id → how its workflow says it ended: ``fulfilled``, ``cancelled``, or anything else.
        recorded_at_kill: (run id, activity id) of the steps whose completion was in the database when the
            process was killed.
    """
    proof = Proof()
    _examine_steps(rows, set(recorded_at_kill), proof)
    _examine_effects(rows, results, proof)
    return proof


def _examine_steps(rows: Sequence[Row], recorded: set[tuple[str, str]], proof: Proof) -> None:
    runs: dict[str, dict[str, _Step]] = {}
    done: set[tuple[str, str]] = set()
    first_pid = rows[0]["pid"] if rows else 0
    for row in rows:
        if row["kind"] == "effect":
            continue
        steps = runs.setdefault(row["run"], {})
        step = row["activity_id"]
        if row["kind"] == "called" and step in steps:
            _examine_repeat(row, steps, recorded if row["pid"] != first_pid else set(), proof)
        if row["kind"] == "done":
            done.add((row["run"], step))
        # A step keeps its place in the order of first calls; only its state moves on.
        steps[step] = _Step(row["pid"], row["kind"])
    proof.steps_done = len(done)


def _examine_repeat(row: Row, steps: dict[str, _Step], recorded: set[tuple[str, str]], proof: Proof) -> None:
    step = row["activity_id"]
    before = steps[step]
    if (row["run"], step) in recorded:
        proof.violations.append(f"{_name(row)} ran again, but was recorded as completed before the kill")
    elif list(steps)[-1] != step:
        proof.violations.append(f"{_name(row)} ran again after a later step of its run had begun")
    elif before.state == "failed":
        proof.retries += 1
    elif before.pid != row["pid"]:
        proof.repeated += 1
    else:
        proof.violations.append(f"{_name(row)} was called again while its process lived ({before.state} before)")


def _examine_effects(rows: Sequence[Row], results: Mapping[str, str], proof: Proof) -> None:
    effects: dict[str, Counter[str]] = {order: Counter() for order in results}
    for row in rows:
        if row["kind"] != "effect":
            continue
        effects.setdefault(row["order"], Counter())[row["what"]] += 1
        if row["what"] == "charged":
            proof.charged_cents += row["amount_cents"]
        elif row["what"] == "refunded":
            proof.refunded_cents += row["amount_cents"]
    for order, seen in effects.items():
        status = results.get(order, "not among the orders")
        if seen["charged"] > 1:
            proof.violations.append(f"order {order} was charged {seen['charged']} times")
        if status == "fulfilled":
            proof.fulfilled += 1
            if seen != FULFILLED:
                proof.violations.append(f"order {order} is said to be fulfilled, but the world saw {_listed(seen)}")
        elif status == "cancelled":
            proof.cancelled += 1
            kept = [what for what, undo in UNDONE_BY.items() if seen[what] != seen[undo]]
            kept += sorted(NEVER_CANCELLED & set(seen))
            if kept:
                proof.violations.append(f"order {order} was cancelled, but is still {', '.join(kept)}")
        else:
            proof.violations.append(f"order {order} is not at its end: {status}")


def _name(row: Row) -> str:
    return f"order {row['order']}: {row['activity']} (attempt {row['attempt']})"


def _listed(seen: Counter[str]) -> str:
    return ", ".join(f"{what} ×{count}" for what, count in seen.items()) or "nothing"
