"""Every RPC of the API: its name here, its path on the wire, its messages.

`RPCS` lists the methods of Temporal's WorkflowService and OperatorService under their Python names. It is read from
the descriptors of the request and response messages: each method has a pair of its own, named after it. (A test
compares it with the descriptors of the services themselves, whose modules cost more to import.) Both ends of the wire
are built from it: the server's handlers, and the client that is a `WorkflowService` over a channel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import ModuleType

from google.protobuf.message import Message
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as workflow_messages

__all__ = ["OPERATOR_SERVICE", "RPCS", "WORKFLOW_SERVICE", "Rpc"]

WORKFLOW_SERVICE = "temporal.api.workflowservice.v1.WorkflowService"
OPERATOR_SERVICE = "temporal.api.operatorservice.v1.OperatorService"

_LONG_POLLS = frozenset(
    {
        "describe_activity_execution",
        "execute_multi_operation",
        "get_workflow_execution_history",
        "poll_activity_execution",
        "poll_activity_task_queue",
        "poll_nexus_task_queue",
        "poll_workflow_execution_update",
        "poll_workflow_task_queue",
        "update_workflow_execution",
    }
)
"""Calls that may wait for something to happen; their functions take `timeout_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """One method of the API."""

    method: str
    """In Python: ``start_workflow_execution``."""
    name: str
    """In the API: ``StartWorkflowExecution``."""
    service: str
    """Full name of the service it belongs to."""
    path: str
    """On the wire: ``/service/name``."""
    request: type[Message]
    response: type[Message]
    is_long_poll: bool
    """It may wait: its function takes ``timeout_s``, and its caller's deadline is honoured with an empty answer."""


def _of(service: str, messages: ModuleType) -> dict[str, Rpc]:
    known: dict[str, object] = messages.DESCRIPTOR.message_types_by_name
    rpcs: dict[str, Rpc] = {}
    for request in known:
        name = request.removesuffix("Request")
        if name == request or f"{name}Response" not in known:
            continue
        method = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        rpcs[method] = Rpc(
            method=method,
            name=name,
            service=service,
            path=f"/{service}/{name}",
            request=getattr(messages, request),
            response=getattr(messages, f"{name}Response"),
            is_long_poll=method in _LONG_POLLS,
        )
    return rpcs


RPCS: dict[str, Rpc] = _of(WORKFLOW_SERVICE, workflow_messages) | _of(OPERATOR_SERVICE, operator_messages)
"""By Python name."""
