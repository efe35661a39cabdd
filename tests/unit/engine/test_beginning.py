"""Ordinary starts are read from bytes; they begin no otherwise than those that are built field by field."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.engine import history as h

NOW_MS = 1_700_000_000_123


def request(**fields: Any) -> m.StartWorkflowExecutionRequest:
    asked = m.StartWorkflowExecutionRequest(
        namespace="default", workflow_id="Bestellung-ä", request_id="r-1", identity="client", **fields
    )
    asked.workflow_type.name = "order"
    asked.task_queue.name = "orders"
    return asked


def started(asked: m.StartWorkflowExecutionRequest, *, ordinary: bool) -> h.Transition:
    return h.start_run(
        run_key=7,
        run_id="run-1",
        request=asked,
        lineage=h.NO_LINEAGE if ordinary else h.Lineage(),
        limits=h.DEFAULT_LIMITS,
        retention_ms=1000,
        now_ms=NOW_MS,
    )


def duration(seconds: int) -> Any:
    return m.StartWorkflowExecutionRequest().workflow_run_timeout.__class__(seconds=seconds)


PAYLOADS = m.Payloads(payloads=[m.Payload(data=b"1" * 300)])
REQUESTS: list[dict[str, Any]] = [
    {},
    {"input": PAYLOADS, "workflow_task_timeout": duration(5)},
    {"workflow_run_timeout": duration(60), "priority": m.Priority(priority_key=2)},
    {"memo": m.Memo(fields={"k": PAYLOADS.payloads[0]}), "header": m.Header(fields={"h": PAYLOADS.payloads[0]})},
    {"search_attributes": m.SearchAttributes(indexed_fields={"k": PAYLOADS.payloads[0]})},
    {"memo": m.Memo(fields={"k": m.Payload(data=b"1" * 5000)})},
    # Not ordinary:
    {"workflow_execution_timeout": duration(60)},
    {"workflow_start_delay": duration(60)},
    {"retry_policy": m.RetryPolicy(maximum_attempts=3)},
    {"user_metadata": m.UserMetadata(summary=m.Payload(data=b"why"))},
    {"last_completion_result": PAYLOADS},
]


@pytest.mark.parametrize("fields", REQUESTS)
def test_both_ways_lead_to_the_same_run(fields: dict[str, Any]) -> None:
    one, other = (started(request(**fields), ordinary=ordinary) for ordinary in (True, False))
    assert one.run.state == other.run.state
    assert [m.History.FromString(data) for data in one.frames] == [m.History.FromString(data) for data in other.frames]
    assert one.workflow_task == other.workflow_task and one.visibility


def test_runs_of_a_kind_share_nothing_that_changes() -> None:
    one, other = (started(request(), ordinary=True).run.state for _ in range(2))
    one.items[1] = h.TimerItem(1, "t", 5)
    one.signal_request_ids.append("s")
    one.cancel_request_ids.append("c")
    one.buffered.append(b"b")
    one.outbox.append(h.OutMessage(1, 1, "", "", "", b""))
    assert not (other.items or other.signal_request_ids or other.cancel_request_ids or other.buffered or other.outbox)
    assert started(request(), ordinary=True).run.state == other


BAD: list[dict[str, Any]] = [
    {"workflow_id": ""},
    {"workflow_id": "x" * 1001},
    {"request_id": "x" * 1001},
    {"identity": "x" * 1001},
    {"cron_schedule": "* * * *"},
    {"input": m.Payloads(payloads=[m.Payload(data=b"1" * 3_000_000)])},
    {"workflow_type": m.WorkflowType()},
    {"workflow_task_timeout": duration(-1)},
]


@pytest.mark.parametrize("fields", BAD)
def test_both_ways_refuse_the_same(fields: dict[str, Any]) -> None:
    asked = request()
    asked.MergeFrom(m.StartWorkflowExecutionRequest(**fields))
    for name, value in fields.items():
        if not value:
            asked.ClearField(name)
        elif name == "workflow_type":
            asked.workflow_type.Clear()
    messages: list[str] = []
    for ordinary in (True, False):
        with pytest.raises(RpcError) as refused:
            started(asked, ordinary=ordinary)
        messages.append(refused.value.message.split(":")[0])
    assert messages[0] == messages[1]
