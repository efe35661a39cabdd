"""Requests that nobody would send on purpose, and a server that has to survive them.

`Messages` fills requests of every kind from their descriptors. Half of them are sound: fields hold what their names ask
for, and ids and tokens come from earlier answers, so that runs are started, their tasks are answered with commands, and
all calls find something to act on. In the others values from the edge are mixed in, few or many: empty, huge, negative,
not text, deeply nested, enums that do not exist, times that can not be; and some are damaged as bytes. `Fuzzer` sends
them, several at a time, through the server's handlers. Every call must end with an answer or a refusal that blames the
caller; INTERNAL and the like are defects. Everything follows from a seed.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, NoReturn

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from perdure.api import messages as m
from perdure.api.errors import StatusCode
from perdure.api.rpcs import RPCS, Rpc
from perdure.engine import Engine
from perdure.engine.service.table import is_served
from perdure.server.handlers import Handlers

__all__ = ["Defect", "Fuzzer"]

DEPTH = 7
"""Messages inside messages."""
TOGETHER = 8
"""Calls at a time."""
KEPT = 50
"""Ids and tokens remembered of each kind."""
POLL_S = 0.01
EDGES = (0.0, 0.0, 0.0, 0.02, 0.02, 0.3)
"""How many of a request's values come from the edge; one of these is chosen for each request."""
INTEGERS = (0, 1, 2, 3, 5, 10, 1000, -1, 2**31 - 1, -(2**31), 2**53, 2**62, 2**63 - 1, -(2**63))
TEXTS = (
    "", "a", "default", "other", "x" * 1001, "x" * 70_000, "\0", "a\nb", "../../etc", "%s%n{}", "NaN", "-1",
    "\N{SNOWMAN}", "\N{GRINNING FACE}" * 300, "'; DROP TABLE run; --", "WorkflowId = 'a'", "((((((((((", "nowhere",
    "0 0 31 2 *", "@every 1s", "CRON_TZ=Nowhere 1 1 1 1 1", "(" * 5000, "a = 'b' AND " * 1000 + "c = 'd'",
    "GROUP BY ExecutionStatus", "StartTime > 'yesterday'", "ORDER BY", "CustomKeywordField", "__temporal_x",
)  # fmt: skip
DATA = (b"", b"\xff", b"null", b"NaN", b'"text"', b"[" * 10_000, b"{}", b"1e999", b"\0" * 100, b"x" * 70_000)
USUAL: dict[str, tuple[str, ...]] = {
    "namespace": ("default",) * 12 + ("other",),
    "name": ("queue",) * 6 + ("flow", "sticky"),
    "workflow_id": ("a", "b", "c", "d"),
    "first_execution_run_id": ("",),
    "run_id": ("",),
    "cron_schedule": ("",) * 8 + ("* * * * *", "@every 1s"),
    "identity": ("me", "you"),
    "worker_instance_key": ("",) * 8 + ("w1",),
    "type": ("Broken",),
    "task_queue": ("queue",),
    "endpoint": ("queue",) * 6 + ("nowhere",),
    "url": ("temporal://system",) * 3 + ("http://nowhere/",),
    "query": (
        "",
        "WorkflowId = 'a'",
        "ExecutionStatus = 'Running' ORDER BY StartTime DESC",
        "WorkflowType IN ('flow', 'x') OR NOT CloseTime IS NULL",
    ),
}
"""What sound requests have in fields of a name; others get a short text of their own."""
NEEDED = frozenset((
    "namespace", "execution", "workflow_execution", "workflow_id", "workflow_type", "activity_type", "task_queue",
    "name", "query_type", "task_token", "signal_name", "request_id", "activity_id", "timer_id",
    "start_to_close_timeout", "start_to_fire_timeout", "marker_name", "commands", "request", "input", "meta",
    "update_id", "operations", "job_id", "reason", "operation", "first_workflow_task", "failure",
    "application_failure_info", "message", "query", "workflow_task_finish_event_id", "update_ref", "identity",
    "search_attributes", "start_workflow", "update_workflow", "spec", "target", "endpoint", "service", "nexus", "url",
    "response", "start_operation", "completion_callbacks", "header", "error", "operation_token", "scheduled_event_id",
))  # fmt: skip
"""Fields that sound requests have; each other one comes now and then."""
FRESH = frozenset({"request_id", "activity_id", "timer_id", "job_id", "update_id"})
"""Fields that mostly hold something new."""

_BLAMELESS = frozenset({StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DATA_LOSS, StatusCode.UNAVAILABLE})
_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_SMALL = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32)
_UNSIGNED = (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)


class Defect(AssertionError):
    """The server did what it must not do."""


def _kind_of(rpc: Rpc) -> str:
    """Whose tokens a call takes or gives."""
    if "query_task" in rpc.method:
        return "query"
    return next((kind for kind in ("activity_task", "workflow_task", "nexus_task") if kind in rpc.method), rpc.method)


class Messages:
    """Makes messages up.

    Args:
        rng: where chance comes from.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.seen: dict[str, list[Any]] = {}
        """Ids and tokens that answers held, by the name of their field and, of tokens, whose they are."""
        self._callbacks: list[dict[str, str]] = []
        """Headers of callbacks that handlers got."""
        self._edge = 0.0
        self._kind = ""
        self._count = 0

    def learn(self, rpc: Rpc, answer: Message) -> None:
        """Remember the ids and tokens of an answer."""
        kind = _kind_of(rpc)
        if isinstance(answer, m.PollWorkflowTaskQueueResponse) and answer.HasField("query"):
            kind = "query"
        if isinstance(answer, m.PollNexusTaskQueueResponse) and answer.request.start_operation.callback_header:
            self._callbacks = [*self._callbacks[-KEPT:], dict(answer.request.start_operation.callback_header)]
        self._learn(kind, answer, 0)

    def _learn(self, kind: str, message: Message, depth: int) -> None:
        for field, value in message.ListFields():
            if field.message_type is not None:
                is_map = field.message_type.GetOptions().map_entry
                for part in (list(value)[:3] if field.is_repeated else [value]) if not is_map else ():
                    if depth < DEPTH:
                        self._learn(kind, part, depth + 1)
            elif field.name.endswith(("id", "token")) and not field.is_repeated and value:
                place = f"{field.name} of {kind}" if field.name.endswith("token") else field.name
                kept = self.seen.setdefault(place, [])
                kept.append(value)
                del kept[:-KEPT]

    def request(self, rpc: Rpc) -> bytes:
        """The bytes of a request, sound or not."""
        self._edge = self.rng.choice(EDGES)
        self._kind = _kind_of(rpc)
        message = self._message(rpc.request.DESCRIPTOR, rpc.request(), 0)
        if rpc.method in ("deprecate_namespace", "delete_namespace", "update_namespace"):
            message.namespace = "other"
        data = message.SerializeToString()
        return self._damaged(data) if self.rng.random() < 0.05 else data

    def completion(self, task: m.PollWorkflowTaskQueueResponse) -> bytes:
        """What a worker might answer a workflow task with: its updates accepted, and some commands."""
        self._edge = self.rng.choice(EDGES) / 2
        self._kind = "workflow_task"
        done = m.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token, identity="me")
        for command in range(self.rng.choice((0, 1, 1, 2, 3))):
            self._message(m.Command.DESCRIPTOR, done.commands.add(), command)
        for asked in task.messages:
            request = m.Request()
            if not asked.body.Unpack(request):
                continue
            accepted = m.Acceptance(accepted_request_message_id=asked.id, accepted_request=request)
            outcome = m.Outcome(success=m.Payloads(payloads=[m.Payload(data=b"1")]))
            answers = (accepted, m.Response(meta=request.meta, outcome=outcome))
            for number, answer in enumerate(answers[: self.rng.choice((0, 1, 2, 2))]):
                sent = done.messages.add(id=f"{asked.id}/{number}", protocol_instance_id=asked.protocol_instance_id)
                sent.body.Pack(answer)
                command = done.commands.add(command_type=m.CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE)
                command.protocol_message_command_attributes.message_id = sent.id
        return done.SerializeToString()

    def _message(self, of: Descriptor, message: Any, depth: int) -> Any:
        """Fill a message."""
        chosen = {self.rng.choice(each.fields).name: each for each in of.oneofs}
        for field in of.fields:
            if field.containing_oneof is not None and field.name not in chosen:
                continue
            share = max(self._edge, 0.15, 0.97 if field.name in NEEDED or field.name.endswith("token") else 0)
            if field.containing_oneof is not None and len(field.containing_oneof.fields) > 1:
                share = 0.95
            if self.rng.random() < share:
                self._fill(field, message, depth)
        if of.full_name == "temporal.api.command.v1.Command" and self.rng.random() >= self._edge:
            set_field = message.WhichOneof("attributes")
            if set_field is not None:
                name = set_field.removesuffix("_command_attributes").upper()
                message.command_type = m.CommandType.Value(f"COMMAND_TYPE_{name}")
        return message

    def _fill(self, field: FieldDescriptor, message: Any, depth: int) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if isinstance(message, m.Callback.Nexus) and self._callbacks and self.rng.random() < 0.9:
                message.header.update(self.rng.choice(self._callbacks))
                return
            key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
            for _ in range(self.rng.choice((0, 1, 3))):
                if value.message_type is None:
                    getattr(message, field.name)[self._scalar(key)] = self._scalar(value)
                elif depth < DEPTH:
                    self._message(value.message_type, getattr(message, field.name)[self._scalar(key)], depth + 1)
        elif field.message_type is not None:
            if depth < DEPTH:
                self._fill_message(field, message, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend(self._scalar(field) for _ in range(self.rng.choice((0, 1, 1, 5))))
        else:
            setattr(message, field.name, self._scalar(field))

    def _fill_message(self, field: FieldDescriptor, message: Any, depth: int) -> None:
        inner = field.message_type
        parts = [getattr(message, field.name)]
        if field.is_repeated:
            parts = [getattr(message, field.name).add() for _ in range(self.rng.choice((0, 1, 1, 2, 4)))]
        for part in parts:
            part.SetInParent()
            if inner.full_name == "google.protobuf.Any":
                known = self.rng.choice([m.Request, m.Response, m.Acceptance, m.Rejection])
                part.Pack(self._message(known.DESCRIPTOR, known(), depth + 1))
            elif inner.full_name == "temporal.api.failure.v1.Failure" and self.rng.random() < self._edge:
                for _ in range(90):
                    part.message = "deep"
                    part = part.cause
            elif inner.full_name == "google.protobuf.Duration" and self.rng.random() >= self._edge:
                part.seconds = self.rng.choice((0, 1, 5, 60))
            else:
                self._message(inner, part, depth + 1)

    def _scalar(self, field: FieldDescriptor) -> Any:
        rng = self.rng
        if rng.random() < self._edge:
            return self._edge_value(field)
        place = f"{field.name} of {self._kind}" if field.name.endswith("token") else field.name
        known = self.seen.get(place)
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                if field.name.endswith("token"):
                    # Most tokens are good for one call.
                    return known.pop() if known and rng.random() < 0.9 else b""
                return rng.choice((b"", b"1", b'"text"', b"json/plain"))
            case FieldDescriptor.CPPTYPE_STRING:
                if known and field.name != "request_id" and rng.random() < 0.3:
                    return rng.choice(known)
                if field.name in USUAL:
                    return rng.choice(USUAL[field.name])
                self._count += field.name in FRESH
                return f"{field.name}-{self._count if field.name in FRESH else rng.randrange(3)}"
            case FieldDescriptor.CPPTYPE_BOOL:
                return rng.random() < 0.3
            case FieldDescriptor.CPPTYPE_ENUM:
                return rng.choice([value.number for value in field.enum_type.values])
            case kind if kind in _FLOATS:
                return rng.choice((0.0, 1.0, 2.0, 0.5))
            case _:
                return rng.choice(known) if known and rng.random() < 0.5 else rng.randrange(12)

    def _edge_value(self, field: FieldDescriptor) -> Any:
        rng = self.rng
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                tokens = [each for values in self.seen.values() for each in values[-3:] if isinstance(each, bytes)]
                return (
                    self._damaged(rng.choice(tokens)) if tokens and rng.random() < 0.3 else rng.choice((*DATA, *tokens))
                )
            case FieldDescriptor.CPPTYPE_STRING:
                return rng.choice(TEXTS)
            case FieldDescriptor.CPPTYPE_BOOL:
                return True
            case FieldDescriptor.CPPTYPE_ENUM:
                return rng.choice((0, 99, -1, 2**31 - 1))
            case kind if kind in _FLOATS:
                return rng.choice((-1.0, 1e30, float("inf"), float("nan")))
            case kind:
                value = rng.choice(INTEGERS)
                if kind in _UNSIGNED:
                    value = abs(value)
                return max(-(2**31), min(value, 2**31 - 1)) if kind in _SMALL else value

    def _damaged(self, data: bytes) -> bytes:
        rng = self.rng
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(damaged) + 1)
            match rng.randrange(4):
                case 0:
                    damaged[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    del damaged[at : at + rng.randrange(1, 9)]
                case 2:
                    damaged[at:at] = rng.randbytes(rng.randrange(1, 9))
                case _:
                    damaged[at:at] = damaged[: rng.randrange(1, 30)]
        return bytes(damaged)


class _Aborted(Exception):
    """What ends a handler that refuses."""


class _Context:
    """The side of gRPC that a handler sees."""

    def __init__(self) -> None:
        self.code = StatusCode.OK
        self.details = ""

    def time_remaining(self) -> float:
        return POLL_S

    def peer(self) -> str:
        return "fuzzer"

    async def abort(self, code: Any, details: str, trailers: Any) -> NoReturn:
        self.code = StatusCode(code.value[0])
        self.details = details
        raise _Aborted


class _Details:
    """What gRPC tells of a call before it is received."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


class Fuzzer:
    """Sends made-up requests.

    Args:
        engine: started.
        seed: of everything that follows.
    """

    def __init__(self, engine: Engine, seed: int) -> None:
        self.calls = 0
        self.answered: dict[str, int] = {}
        """Calls that were not refused, by method."""
        self._engine = engine
        self._rng = random.Random(seed)
        self._seed = seed
        self._messages = Messages(self._rng)
        self._handlers = Handlers(engine.service(in_process=False))
        self._tasks: list[m.PollWorkflowTaskQueueResponse] = []
        """Handed out, and not answered yet."""
        self._rpcs = [rpc for rpc in RPCS.values() if is_served(rpc)]
        # What makes work for the others comes more often.
        usual = ("start_workflow_execution", "poll_workflow_task_queue", "update_workflow_execution")
        self._rpcs += [RPCS[method] for method in usual] * 8
        self._rpcs += [RPCS["poll_activity_task_queue"], RPCS["respond_activity_task_completed"]] * 4

    async def run(self, rounds: int) -> None:
        """So many rounds of calls.

        Raises:
            Defect: the server failed; the message says how to see it again.
        """
        for _ in range(rounds):
            await asyncio.gather(*(self._call(*self._next()) for _ in range(TOGETHER)))
            if self._engine.stopping:
                raise Defect(f"seed {self._seed}: the engine stopped")

    def _next(self) -> tuple[Rpc, bytes]:
        """A call: an answer to a workflow task, or any other."""
        if self._tasks and self._rng.random() < 0.5:
            task = self._tasks.pop(self._rng.randrange(len(self._tasks)))
            return RPCS["respond_workflow_task_completed"], self._messages.completion(task)
        rpc = self._rng.choice(self._rpcs)
        return rpc, self._messages.request(rpc)

    async def _call(self, rpc: Rpc, data: bytes) -> None:
        self.calls += 1
        handler: Any = self._handlers.service(_Details(rpc.path))  # type: ignore[arg-type]
        context = _Context()
        try:
            answer = await asyncio.wait_for(handler.unary_unary(data, context), 60)
        except _Aborted:
            if context.code in _BLAMELESS:
                raise Defect(
                    f"seed {self._seed}, call {self.calls}: {rpc.name} was answered with {context.code.name}: "
                    f"{context.details}; its request was {data!r}"
                ) from None
        else:
            self.answered[rpc.method] = self.answered.get(rpc.method, 0) + 1
            response = rpc.response.FromString(answer)
            self._messages.learn(rpc, response)
            if isinstance(response, m.PollWorkflowTaskQueueResponse) and response.task_token:
                if not response.HasField("query") and self._rng.random() < 0.9:
                    self._tasks.append(response)
