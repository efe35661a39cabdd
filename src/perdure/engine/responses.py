"""What polls are answered with, assembled as bytes and parsed once.

A response has a dozen fields and more; setting them one by one takes three times as long as joining their bytes and
parsing the whole. What is the same in each response of a run is made once and kept in its slot while it is in use.
`tests/unit/engine/test_responses.py` compares them with responses that are built field by field.
"""

from __future__ import annotations

from perdure.api import messages as m
from perdure.api.wire import sized, text, timestamp, varint
from perdure.engine.history import ActivityItem, RunState, WorkflowTaskLive

__all__ = ["activity_response", "run_in_activity_response", "run_in_task_response", "task_response"]


def _run(state: RunState, execution_tag: bytes, type_tag: bytes) -> bytes:
    execution = b"\x0a" + sized(state.workflow_id.encode()) + b"\x12" + sized(state.run_id.encode())
    return execution_tag + sized(execution) + type_tag + sized(text(b"\x0a", state.workflow_type))


def run_in_task_response(state: RunState) -> bytes:
    """What is the same in each workflow task of a run: execution, type, and the normal queue it belongs to."""
    return _run(state, b"\x12", b"\x1a") + b"\x5a" + sized(text(b"\x0a", state.task_queue) + b"\x10\x01")


def run_in_activity_response(state: RunState) -> bytes:
    """What is the same in each activity task of a run: namespace, execution, type; of an activity execution its run."""
    if state.standalone is not None:
        return text(b"\x12", state.namespace) + text(b"\xa2\x01", state.run_id)
    head = text(b"\x12", state.namespace) + _run(state, b"\x22", b"\x1a")
    # Before what the activity says for itself: parsing merges the two, and what comes last holds.
    return head + b"\x9a\x01" + sized(state.priority) if state.priority else head


def task_response(
    run: bytes, token: bytes, state: RunState, task: WorkflowTaskLive, history: bytes
) -> m.PollWorkflowTaskQueueResponse:
    """A workflow task.

    Args:
        run: as `run_in_task_response` made it.
        token: of the hand-out.
        state: of the run.
        task: as it was handed out.
        history: serialized.
    """
    return m.PollWorkflowTaskQueueResponse.FromString(
        b"".join(
            (
                run,
                b"\x0a",
                varint(len(token)),
                token,
                b"\x20",
                varint(state.last_task_started_event_id),
                b"\x28",
                varint(task.started_event_id),
                b"\x30",
                varint(task.attempt),
                b"\x42",
                varint(len(history)),
                history,
                b"\x62",
                timestamp(state.task_scheduled_at_ms or task.started_at_ms),
                b"\x6a",
                timestamp(task.started_at_ms),
            )
        )
    )


def activity_response(
    run: bytes, token: bytes, item: ActivityItem, said: bytes, now_ms: int
) -> m.PollActivityTaskQueueResponse:
    """An activity task.

    Args:
        run: as `run_in_activity_response` made it.
        token: of the attempt.
        item: the activity.
        said: what its Scheduled event says, as `history.activity_task` made it.
        now_ms: when it is handed out.
    """
    data = (
        run,
        said,
        b"\x0a",
        varint(len(token)),
        token,
        b"\x52",
        timestamp(item.scheduled_at_ms),
        b"\x5a",
        timestamp(item.attempt_scheduled_at_ms or item.scheduled_at_ms),
        b"\x62",
        timestamp(now_ms),
        b"\x68",
        varint(item.attempt if item.control is None else item.shown_attempt),
    )
    if item.heartbeat_details:
        data += (b"\x4a", sized(item.heartbeat_details))
    return m.PollActivityTaskQueueResponse.FromString(b"".join(data))
