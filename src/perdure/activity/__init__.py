"""Activities: the functions through which a workflow touches the outside world.

Example::

    @activity.defn(start_to_close_timeout=timedelta(seconds=10))
    async def charge(order: Order) -> Receipt: ...

In workflow code ``await charge(order)`` schedules it: a worker runs it, retries it when it fails, and its result is
recorded. Everywhere else the call runs the function. Plain (not async) functions run on threads, or in processes with
``executor="process"``.

Cancellation reaches an async activity as `asyncio.CancelledError`. A plain function on a thread gets
`perdure.exceptions.CancelledError` raised in it between two steps of its Python code, unless it stands in
`shield_thread_cancel_exception` or its decorator says ``no_thread_cancel_exception=True``; then, and in a process,
`heartbeat` raises it and `is_cancelled` tells it.
"""

from perdure.activity.context import (
    ActivityCancellationDetails,
    Info,
    cancellation_details,
    heartbeat,
    heartbeat_details,
    in_activity,
    info,
    is_cancelled,
    is_worker_shutdown,
    logger,
    payload_converter,
    raise_complete_async,
    shield_thread_cancel_exception,
    wait_for_cancelled,
    wait_for_cancelled_sync,
    wait_for_worker_shutdown,
)
from perdure.activity.definition import Activity, Executor, defn

__all__ = [
    "Activity",
    "ActivityCancellationDetails",
    "Executor",
    "Info",
    "cancellation_details",
    "defn",
    "heartbeat",
    "heartbeat_details",
    "in_activity",
    "info",
    "is_cancelled",
    "is_worker_shutdown",
    "logger",
    "payload_converter",
    "raise_complete_async",
    "shield_thread_cancel_exception",
    "wait_for_cancelled",
    "wait_for_cancelled_sync",
    "wait_for_worker_shutdown",
]
