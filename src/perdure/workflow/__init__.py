"""What workflow code is written with; names and arguments follow `temporalio.workflow`.

A workflow is an async function, or a class with a run method, decorated with `defn`. Its code is ordinary asyncio:
`asyncio.sleep`, `gather`, `timeout`, `TaskGroup`, `Queue` and the rest work, and are durable. It is replayed from its
history after every interruption, so it has to do the same again: take the time, chance and ids from here, and leave
the outside world to activities (`perdure.activity`) and to `step`.

    @workflow.defn
    async def order(item: Item) -> Receipt:
        receipt = await charge(item)            # an activity, with the options its decorator holds
        await workflow.sleep(timedelta(days=14))
        return receipt

Cancellation is Python's `asyncio.CancelledError`, and `asyncio.shield` keeps it off.
"""

from perdure.common import ParentClosePolicy
from perdure.exceptions import NondeterminismError, ReadOnlyContextError
from perdure.replay.calls import ActivityHandle, ChildHandle, ChildWorkflowCancellationType
from perdure.replay.endings import ContinueAsNewError
from perdure.replay.info import ParentInfo, RootInfo
from perdure.replay.ports import ActivityCancellationType
from perdure.replay.unfinished import (
    HandlerUnfinishedPolicy,
    UnfinishedSignalHandlersWarning,
    UnfinishedUpdateHandlersWarning,
)
from perdure.replay.updates import UpdateInfo
from perdure.workflow._activities import (
    ActivityConfig,
    execute_activity,
    execute_activity_method,
    start_activity,
    start_activity_method,
)
from perdure.workflow._attributes import (
    search_attributes,
    upsert_search_attributes,
)
from perdure.workflow._children import (
    ChildWorkflowConfig,
    ExternalWorkflowHandle,
    continue_as_new,
    execute_child_workflow,
    get_external_workflow_handle,
    get_external_workflow_handle_for,
    start_child_workflow,
)
from perdure.workflow._context import (
    Info,
    LoggerAdapter,
    all_handlers_finished,
    cancellation_reason,
    deprecate_patch,
    get_current_details,
    get_last_completion_result,
    get_last_failure,
    has_last_completion_result,
    in_workflow,
    info,
    instance,
    logger,
    memo,
    memo_value,
    new_random,
    now,
    patched,
    payload_converter,
    random,
    random_seed,
    set_current_details,
    sleep,
    step,
    time,
    time_ns,
    unsafe,
    upsert_memo,
    uuid4,
    uuid7,
    wait_condition,
)
from perdure.workflow._definition import (
    defn,
    init,
    query,
    run,
    signal,
)
from perdure.workflow._handlers import (
    get_dynamic_query_handler,
    get_dynamic_signal_handler,
    get_query_handler,
    get_signal_handler,
    set_dynamic_query_handler,
    set_dynamic_signal_handler,
    set_query_handler,
    set_signal_handler,
)
from perdure.workflow._updates import (
    UpdateMethod,
    current_update_info,
    get_dynamic_update_handler,
    get_update_handler,
    set_dynamic_update_handler,
    set_update_handler,
    update,
)

ChildWorkflowHandle = ChildHandle
"""A started child workflow: a future of its result."""

__all__ = [
    "ActivityCancellationType",
    "ActivityConfig",
    "ActivityHandle",
    "ChildWorkflowCancellationType",
    "ChildWorkflowConfig",
    "ChildWorkflowHandle",
    "ContinueAsNewError",
    "ExternalWorkflowHandle",
    "HandlerUnfinishedPolicy",
    "Info",
    "LoggerAdapter",
    "NondeterminismError",
    "ParentClosePolicy",
    "ParentInfo",
    "ReadOnlyContextError",
    "RootInfo",
    "UnfinishedSignalHandlersWarning",
    "UnfinishedUpdateHandlersWarning",
    "UpdateInfo",
    "UpdateMethod",
    "all_handlers_finished",
    "cancellation_reason",
    "continue_as_new",
    "current_update_info",
    "defn",
    "deprecate_patch",
    "execute_activity",
    "execute_activity_method",
    "execute_child_workflow",
    "get_current_details",
    "get_dynamic_query_handler",
    "get_dynamic_signal_handler",
    "get_dynamic_update_handler",
    "get_external_workflow_handle",
    "get_external_workflow_handle_for",
    "get_last_completion_result",
    "get_last_failure",
    "get_query_handler",
    "get_signal_handler",
    "get_update_handler",
    "has_last_completion_result",
    "in_workflow",
    "info",
    "init",
    "instance",
    "logger",
    "memo",
    "memo_value",
    "new_random",
    "now",
    "patched",
    "payload_converter",
    "query",
    "random",
    "random_seed",
    "run",
    "search_attributes",
    "set_current_details",
    "set_dynamic_query_handler",
    "set_dynamic_signal_handler",
    "set_dynamic_update_handler",
    "set_query_handler",
    "set_signal_handler",
    "set_update_handler",
    "signal",
    "sleep",
    "start_activity",
    "start_activity_method",
    "start_child_workflow",
    "step",
    "time",
    "time_ns",
    "unsafe",
    "update",
    "upsert_memo",
    "upsert_search_attributes",
    "uuid4",
    "uuid7",
    "wait_condition",
]
