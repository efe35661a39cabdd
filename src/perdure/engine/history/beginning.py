"""How ordinary runs begin, read from the bytes of the request.

Requests that start one kind of workflow differ in three fields: workflow id, request id and input. The rest (type,
queue, timeouts, identity, …) is checked, and turned into a state and into fields of the Started event, once for each
distinct value. That is for starts a client asks for, without what depends on the instant or on the ids of a run:
delays, schedules, a retry policy, an execution timeout, metadata. Those are started field by field (`lifecycle`),
which is the definition: a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import lru_cache
from typing import Final

from msgspec import Struct

from perdure.api import messages as m
from perdure.api.wire import content, sized, sized_tag
from perdure.engine.history import evolve
from perdure.engine.history.state import RunState
from perdure.engine.history.transition import Limits

_KINDS_KEPT: Final = 1024
_KIND_KEPT_BYTES: Final = 2048
"""Longer ones are started field by field."""

_OWN: Final = b"\x12\x2a\x52"
_WORKFLOW_ID, _INPUT, _REQUEST_ID = _OWN
"""Tags of the three fields in a request; no field has a lower number than the last of them and no length."""

_OF_THE_MOMENT: Final = (
    "workflow_execution_timeout",
    "retry_policy",
    "continued_failure",
    "last_completion_result",
    "workflow_start_delay",
    "user_metadata",
)

_S: Final = m.WorkflowExecutionStartedEventAttributes
_INPUT_TAG: Final = sized_tag(_S, "input")
_ID_TAG: Final = sized_tag(_S, "workflow_id")
_ORIGINAL_TAG: Final = sized_tag(_S, "original_execution_run_id")
_FIRST_TAG: Final = sized_tag(_S, "first_execution_run_id")

Attributes = Callable[[m.StartWorkflowExecutionRequest, Limits], m.WorkflowExecutionStartedEventAttributes]
"""Checks a request and gives the attributes of its event, without run ids. Raises RpcError INVALID_ARGUMENT."""


class Kind(Struct, frozen=True, gc=False):
    """What all starts of a kind have in common."""

    state: RunState
    """Of such a run when it has begun; to be copied."""
    event: bytes
    """Fields of ``WorkflowExecutionStartedEventAttributes``."""


class Beginning(Struct, frozen=True, gc=False):
    """A start: its kind and what is its own."""

    kind: Kind
    workflow_id: str
    request_id: str
    input: bytes
    """The field, without its tag; empty if there is none."""
    input_bytes: int
    """Size of what the field holds."""

    def event(self, run_id: str) -> bytes:
        """The attributes of the Started event, serialized."""
        name = sized(run_id.encode())
        data = (self.kind.event, _ORIGINAL_TAG, name, _FIRST_TAG, name, _ID_TAG, sized(self.workflow_id.encode()))
        if self.input:
            data += (_INPUT_TAG, self.input)
        return b"".join(data)

    def state(self, run_id: str, now_ms: int) -> RunState:
        """The state after the Started event."""
        state = copy(self.kind.state)
        state.workflow_id = self.workflow_id
        state.run_id = state.first_run_id = state.original_run_id = run_id
        state.start_request_id = self.request_id
        state.start_ms = state.execution_ms = now_ms
        if state.run_timeout_ms:
            state.run_deadline_ms = now_ms + state.run_timeout_ms
        state.cancel_request_ids = []
        state.signal_request_ids = []
        state.buffered = []
        state.outbox = []
        state.items = {}
        return state


def read(request: m.StartWorkflowExecutionRequest, limits: Limits, attributes_of: Attributes) -> Beginning | None:
    """Read a request; None if it is not an ordinary one. Raises what `attributes_of` raises."""
    data = request.SerializeToString()
    workflow_id = request_id = ""
    given = b""
    given_bytes = 0
    common: list[bytes] = []
    common_at = at = 0
    end = len(data)
    while at < end and (tag := data[at]) <= _REQUEST_ID:
        start = at + 2
        stop = start + data[at + 1]
        if data[at + 1] > 127:
            start, stop = content(data, at)
        if tag in _OWN:
            common.append(data[common_at:at])
            common_at = stop
            if tag == _WORKFLOW_ID:
                workflow_id = data[start:stop].decode()
            elif tag == _INPUT:
                given = data[at + 1 : stop]
                given_bytes = stop - start
            else:
                request_id = data[start:stop].decode()
        at = stop
    common.append(data[common_at:])
    rest = b"".join(common)
    kind = _kind(rest, limits, attributes_of) if workflow_id and len(rest) <= _KIND_KEPT_BYTES else None
    return Beginning(kind, workflow_id, request_id, given, given_bytes) if kind is not None else None


@lru_cache(maxsize=_KINDS_KEPT)
def _kind(rest: bytes, limits: Limits, attributes_of: Attributes) -> Kind | None:
    request = m.StartWorkflowExecutionRequest.FromString(rest)
    if request.links or request.completion_callbacks or request.cron_schedule:
        return None
    if any(map(request.HasField, _OF_THE_MOMENT)):
        return None
    request.workflow_id = "-"
    attributes = attributes_of(request, limits)
    attributes.ClearField("workflow_id")
    state = evolve.blank()
    evolve.apply_workflow_started(state, 0, attributes)
    state.namespace = request.namespace
    return Kind(state, attributes.SerializeToString())
