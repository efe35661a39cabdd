"""An approval: somebody signals yes or no, anybody may query, and after seven days the answer is no.

Run it: ``python examples/approval.py``.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import perdure
from perdure import activity, workflow


@dataclass(frozen=True, slots=True)
class Decision:
    """Somebody's answer."""

    approved: bool
    by: str


@activity.defn(start_to_close_timeout=timedelta(minutes=1))
async def ask(approver: str, request: str) -> None:
    print(f"to {approver}: please decide on {request!r}")


@workflow.defn
class Approval:
    """Ask, wait up to seven days, answer."""

    def __init__(self) -> None:
        self.decision: Decision | None = None

    @workflow.run
    async def run(self, request: str, approver: str) -> Decision:
        await ask(approver, request)
        try:
            await workflow.wait_condition(lambda: self.decision is not None, timeout=timedelta(days=7))
        except TimeoutError:
            self.decision = Decision(approved=False, by="the calendar")
        assert self.decision is not None
        return self.decision

    @workflow.signal
    def decide(self, decision: Decision) -> None:
        # The first answer counts.
        self.decision = self.decision or decision

    @workflow.query
    def status(self) -> str:
        if self.decision is None:
            return "waiting"
        return "approved" if self.decision.approved else "rejected"


async def main() -> None:
    """Ask and answer, in a database of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with perdure.open(Path(folder) / "approvals.db", workflows=[Approval], activities=[ask]) as app:
            handle = await app.start(Approval.run, "a new desk", "Grace", id="approval-1")
            print(await handle.query(Approval.status))
            await handle.signal(Approval.decide, Decision(approved=True, by="Grace"))
            print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main())
