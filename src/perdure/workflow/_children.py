"""Child workflows, other workflows, and the next run of this one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Generic, NoReturn, TypedDict, TypeVar, Unpack, cast, overload

from perdure.common import ParentClosePolicy, Priority, RetryPolicy, WorkflowIDReusePolicy
from perdure.converter.attributes import SearchAttributes, encode_search_attributes
from perdure.exceptions import DefinitionError
from perdure.replay import context
from perdure.replay.calls import ChildHandle, ChildWorkflowCancellationType
from perdure.replay.checks import check_name, check_options
from perdure.replay.definition import UNSET, HandlerDefinition, Signature, WorkflowDefinition, arguments

__all__ = [
    "ChildWorkflowConfig",
    "ExternalWorkflowHandle",
    "continue_as_new",
    "execute_child_workflow",
    "get_external_workflow_handle",
    "get_external_workflow_handle_for",
    "start_child_workflow",
]

_P = TypeVar("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")


class ChildWorkflowConfig(TypedDict, total=False):
    """Options of `start_child_workflow` and `execute_child_workflow`.

    Keys:
        id: the child's workflow id; made from this run's id and a number when left out.
        task_queue: where its workers listen; this workflow's own when left out.
        cancellation_type: what happens when the code waiting for the child is cancelled.
        parent_close_policy: what happens to the child when this workflow closes first.
        execution_timeout: longest time in all.
        run_timeout: longest time of one run.
        task_timeout: longest time of one workflow task.
        id_reuse_policy: what happens if a closed workflow has this id.
        retry_policy: retries of the whole child.
        cron_schedule: run it again and again.
        memo: values shown by list and describe.
        search_attributes: values to find it by.
        static_summary: one line for people.
        static_details: several lines for people.
        priority: which of several waiting tasks goes first; this workflow's own when left out.
    """

    id: str | None
    task_queue: str | None
    cancellation_type: ChildWorkflowCancellationType
    parent_close_policy: ParentClosePolicy
    execution_timeout: timedelta | None
    run_timeout: timedelta | None
    task_timeout: timedelta | None
    id_reuse_policy: WorkflowIDReusePolicy
    retry_policy: RetryPolicy | None
    cron_schedule: str
    memo: Mapping[str, Any] | None
    search_attributes: SearchAttributes | None
    static_summary: str | None
    static_details: str | None
    priority: Priority | None


_CHILD_OPTIONS = frozenset(ChildWorkflowConfig.__annotations__)


class ExternalWorkflowHandle(Generic[_S]):
    """Another workflow, to be signalled or cancelled.

    Attributes:
        id: its workflow id.
        run_id: one certain run of it; None = whichever is running.
    """

    __slots__ = ("id", "run_id")

    def __init__(self, id: str, run_id: str | None = None) -> None:
        self.id = id
        self.run_id = run_id

    @overload
    async def signal(self, signal: Callable[[Any], Any]) -> None: ...

    @overload
    async def signal(self, signal: Callable[[Any, _P], Any], arg: _P) -> None: ...

    @overload
    async def signal(self, signal: str, arg: Any = ...) -> None: ...

    @overload
    async def signal(self, signal: str | Callable[..., Any], *, args: Sequence[Any]) -> None: ...

    async def signal(
        self, signal: str | Callable[..., Any], arg: Any = UNSET, *, args: Sequence[Any] | None = None
    ) -> None:
        """Signal it; returns once the signal has been delivered.

        Raises:
            ApplicationError: of type "ExternalWorkflowNotFound" if no such workflow runs.
        """
        given = arguments(arg, args)
        name, arg_types = HandlerDefinition.signal(signal, given)
        await context.must_be().signal_external(self.id, self.run_id or "", name, given, arg_types=arg_types)

    async def cancel(self) -> None:
        """Ask it to cancel; returns once the request has been delivered.

        Raises:
            ApplicationError: of type "ExternalWorkflowNotFound" if no such workflow runs.
        """
        await context.must_be().cancel_external(self.id, self.run_id or "")


def get_external_workflow_handle(workflow_id: str, *, run_id: str | None = None) -> ExternalWorkflowHandle[Any]:
    """A handle for another workflow, which need not exist yet."""
    context.must_be()
    check_name(workflow_id, "the workflow id")
    return ExternalWorkflowHandle(workflow_id, run_id)


def get_external_workflow_handle_for(
    workflow: Callable[..., Awaitable[Any]], workflow_id: str, *, run_id: str | None = None
) -> ExternalWorkflowHandle[Any]:
    """As `get_external_workflow_handle`; `workflow` is for the reader."""
    del workflow
    return get_external_workflow_handle(workflow_id, run_id=run_id)


def _target(workflow: Any, args: Sequence[Any]) -> tuple[str, Signature | None]:
    if isinstance(workflow, str):
        check_name(workflow, "the workflow's name")
        return workflow, None
    definition = WorkflowDefinition.must_be(workflow)
    if definition.name is None:
        raise DefinitionError(f"{definition.location} is a dynamic workflow: give the name to run it under")
    definition.signature.check(args, f"workflow {definition.name}")
    return definition.name, definition.signature


def _start_child(
    workflow: Any, args: Sequence[Any], result_type: Any, options: ChildWorkflowConfig
) -> ChildHandle[Any]:
    runtime = context.must_be()
    name, signature = _target(workflow, args)
    given = cast("dict[str, Any]", dict(options))
    unknown = given.keys() - _CHILD_OPTIONS
    if unknown:
        raise TypeError(f"a child has no option {min(unknown)!r}; there are {', '.join(sorted(_CHILD_OPTIONS))}")
    check_options(given)
    attributes = given.pop("search_attributes", None)
    summary, details = given.pop("static_summary", None), given.pop("static_details", None)
    return runtime.start_child(
        name,
        args,
        arg_types=signature.arg_types if signature is not None else None,
        result_type=result_type if result_type is not None or signature is None else signature.return_type,
        id=given.pop("id", None),
        task_queue=given.pop("task_queue", None),
        cancellation_type=given.pop("cancellation_type", ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED),
        memo=given.pop("memo", None),
        search_attributes=encode_search_attributes(runtime.converter, attributes) if attributes else None,
        parent_close_policy=int(given.pop("parent_close_policy", ParentClosePolicy.TERMINATE)),
        summary=runtime.converter.to_payload(summary) if summary is not None else None,
        details=runtime.converter.to_payload(details) if details is not None else None,
        id_reuse_policy=int(given.pop("id_reuse_policy", WorkflowIDReusePolicy.ALLOW_DUPLICATE)),
        **{"execution_timeout": None, "run_timeout": None, "task_timeout": None, **_REST, **given},
    )


_REST: dict[str, Any] = {"retry_policy": None, "cron_schedule": "", "priority": None}


@overload
async def start_child_workflow(
    workflow: Callable[[Any], Awaitable[_R]], **options: Unpack[ChildWorkflowConfig]
) -> ChildHandle[_R]: ...


@overload
async def start_child_workflow(
    workflow: Callable[[], Awaitable[_R]], **options: Unpack[ChildWorkflowConfig]
) -> ChildHandle[_R]: ...


@overload
async def start_child_workflow(
    workflow: Callable[[Any, _P], Awaitable[_R]], arg: _P, **options: Unpack[ChildWorkflowConfig]
) -> ChildHandle[_R]: ...


@overload
async def start_child_workflow(
    workflow: Callable[[_P], Awaitable[_R]], arg: _P, **options: Unpack[ChildWorkflowConfig]
) -> ChildHandle[_R]: ...


@overload
async def start_child_workflow(
    workflow: Callable[..., Awaitable[_R]], *, args: Sequence[Any], **options: Unpack[ChildWorkflowConfig]
) -> ChildHandle[_R]: ...


@overload
async def start_child_workflow(
    workflow: str | type[Any],
    arg: Any = ...,
    *,
    args: Sequence[Any] | None = None,
    result_type: type[_R],
    **options: Unpack[ChildWorkflowConfig],
) -> ChildHandle[_R]: ...


@overload
async def start_child_workflow(
    workflow: str | type[Any],
    arg: Any = ...,
    *,
    args: Sequence[Any] | None = None,
    **options: Unpack[ChildWorkflowConfig],
) -> ChildHandle[Any]: ...


async def start_child_workflow(
    workflow: Any,
    arg: Any = UNSET,
    *,
    args: Sequence[Any] | None = None,
    result_type: Any = None,
    **options: Unpack[ChildWorkflowConfig],
) -> ChildHandle[Any]:
    """Start a child workflow and wait until it has started.

    Args:
        workflow: a workflow function, the run method of a workflow class, or a name.
        arg: its only argument.
        args: its arguments, if there are several.
        result_type: what the result is, when the workflow is given by name.
        options: see `ChildWorkflowConfig`.

    Returns:
        A handle; awaiting it gives the child's result or raises ChildWorkflowError.

    Raises:
        WorkflowAlreadyStartedError: a workflow with this id is running.
        ConversionError: an argument cannot be serialised or is of the wrong type.
    """
    child = _start_child(workflow, arguments(arg, args), result_type, options)
    await child.started
    return child


@overload
async def execute_child_workflow(
    workflow: Callable[[Any], Awaitable[_R]], **options: Unpack[ChildWorkflowConfig]
) -> _R: ...


@overload
async def execute_child_workflow(
    workflow: Callable[[], Awaitable[_R]], **options: Unpack[ChildWorkflowConfig]
) -> _R: ...


@overload
async def execute_child_workflow(
    workflow: Callable[[Any, _P], Awaitable[_R]], arg: _P, **options: Unpack[ChildWorkflowConfig]
) -> _R: ...


@overload
async def execute_child_workflow(
    workflow: Callable[[_P], Awaitable[_R]], arg: _P, **options: Unpack[ChildWorkflowConfig]
) -> _R: ...


@overload
async def execute_child_workflow(
    workflow: Callable[..., Awaitable[_R]], *, args: Sequence[Any], **options: Unpack[ChildWorkflowConfig]
) -> _R: ...


@overload
async def execute_child_workflow(
    workflow: str | type[Any],
    arg: Any = ...,
    *,
    args: Sequence[Any] | None = None,
    result_type: type[_R],
    **options: Unpack[ChildWorkflowConfig],
) -> _R: ...


@overload
async def execute_child_workflow(
    workflow: str | type[Any],
    arg: Any = ...,
    *,
    args: Sequence[Any] | None = None,
    **options: Unpack[ChildWorkflowConfig],
) -> Any: ...


async def execute_child_workflow(
    workflow: Any,
    arg: Any = UNSET,
    *,
    args: Sequence[Any] | None = None,
    result_type: Any = None,
    **options: Unpack[ChildWorkflowConfig],
) -> Any:
    """Start a child workflow and wait for its result; see `start_child_workflow`.

    Raises:
        ChildWorkflowError: it did not complete; the reason is the error's ``cause``.
    """
    child = _start_child(workflow, arguments(arg, args), result_type, options)
    await child.started
    return await child


def continue_as_new(
    arg: Any = UNSET,
    *,
    args: Sequence[Any] | None = None,
    workflow: str | Callable[..., Awaitable[Any]] | None = None,
    task_queue: str | None = None,
    run_timeout: timedelta | None = None,
    task_timeout: timedelta | None = None,
    backoff_start_interval: timedelta | None = None,
    retry_policy: RetryPolicy | None = None,
    memo: Mapping[str, Any] | None = None,
    search_attributes: SearchAttributes | None = None,
) -> NoReturn:
    """Close this run and start the next, with a fresh history and the same workflow id.

    It raises `ContinueAsNewError`, which must reach the end of the workflow's code.

    Args:
        arg: the next run's only argument.
        args: its arguments, if there are several.
        workflow: another workflow than this one.
        task_queue: another task queue.
        run_timeout: longest time of the next run.
        task_timeout: longest time of one of its workflow tasks.
        backoff_start_interval: wait before its first workflow task.
        retry_policy: its retries.
        memo: its memo; this run's when None.
        search_attributes: its search attributes; this run's when None.
    """
    runtime = context.must_be()
    check_options(
        {
            "task_queue": task_queue,
            "run_timeout": run_timeout,
            "task_timeout": task_timeout,
            "backoff_start_interval": backoff_start_interval,
        }
    )
    given = arguments(arg, args)
    target: Any = workflow if workflow is not None else runtime.definition.target
    if isinstance(target, str) or WorkflowDefinition.must_be(target).name is None:
        name, signature = (target if isinstance(target, str) else None), None
    else:
        name, signature = _target(target, given)
    runtime.continue_as_new(
        given,
        arg_types=signature.arg_types if signature is not None else None,
        options={
            "workflow_type": name,
            "task_queue": task_queue,
            "run_timeout": run_timeout,
            "task_timeout": task_timeout,
            "backoff_start_interval": backoff_start_interval,
            "retry_policy": retry_policy,
            "memo": memo,
            "search_attributes": encode_search_attributes(runtime.converter, search_attributes)
            if search_attributes is not None
            else None,
        },
    )
