"""Schedules: workflows that the service starts by the calendar.

    handle = await client.create_schedule(
        "nightly",
        Schedule(
            action=ScheduleActionStartWorkflow(report, "all", id="report", task_queue="reports"),
            spec=ScheduleSpec(cron_expressions=["0 3 * * *"], time_zone_name="Europe/Berlin"),
        ),
    )

The names are those of `temporalio.client`. A description has calendars in place of cron expressions.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import datetime_of_ms, timestamp_ms
from perdure.client.calls import call, repeat
from perdure.client.descriptions import WorkflowExecutionStatus
from perdure.client.errors import ScheduleAlreadyRunningError, ScheduleNotFoundError, ServiceError, translate
from perdure.client.schedule_actions import Schedule
from perdure.client.schedule_specs import (
    ScheduleBackfill,
    ScheduleOverlapPolicy,
    ScheduleSpec,
    moment,
    policy_number,
)
from perdure.common import TypedSearchAttributes
from perdure.converter.attributes import decode_search_attributes, encode_search_attributes
from perdure.replay.checks import check_text

if TYPE_CHECKING:
    from perdure.client.client import Client
    from perdure.converter import DataConverter

__all__ = [
    "ScheduleActionExecutionStartWorkflow",
    "ScheduleActionResult",
    "ScheduleCalls",
    "ScheduleDescription",
    "ScheduleHandle",
    "ScheduleInfo",
    "ScheduleListDescription",
    "ScheduleUpdate",
    "ScheduleUpdateInput",
]

_UPDATE_TRIES = 10
"""How often an update is made anew because the schedule has changed meanwhile."""


# -- what there is to know --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScheduleActionExecutionStartWorkflow:
    """A workflow that a schedule has started."""

    workflow_id: str
    first_execution_run_id: str


@dataclass(frozen=True, slots=True)
class ScheduleActionResult:
    """An action that was taken.

    Attributes:
        scheduled_at: when it was due.
        started_at: when it was taken.
        action: the workflow.
        status: how the workflow stands; None if that is unknown.
    """

    scheduled_at: datetime
    started_at: datetime
    action: ScheduleActionExecutionStartWorkflow
    status: WorkflowExecutionStatus | None

    @classmethod
    def from_proto(cls, proto: m.ScheduleActionResult) -> ScheduleActionResult:
        """Make it from the API's message."""
        known = proto.start_workflow_status in WorkflowExecutionStatus._value2member_map_
        return cls(
            scheduled_at=datetime_of_ms(timestamp_ms(proto.schedule_time)),
            started_at=datetime_of_ms(timestamp_ms(proto.actual_time)),
            action=_execution(proto.start_workflow_result),
            status=WorkflowExecutionStatus(proto.start_workflow_status) if known else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleInfo:
    """What a schedule has done, and will do.

    Attributes:
        num_actions: actions taken.
        num_actions_missed_catchup_window: left out because they could not be taken in time.
        num_actions_skipped_overlap: left out because a workflow ran.
        running_actions: workflows that run.
        recent_actions: the latest ten, oldest first.
        next_action_times: the next ten.
        created_at: when it was created.
        last_updated_at: when it was updated last; None if never.
        num_actions_buffered: actions that wait for a workflow to end.
    """

    num_actions: int
    num_actions_missed_catchup_window: int
    num_actions_skipped_overlap: int
    running_actions: Sequence[ScheduleActionExecutionStartWorkflow]
    recent_actions: Sequence[ScheduleActionResult]
    next_action_times: Sequence[datetime]
    created_at: datetime
    last_updated_at: datetime | None
    num_actions_buffered: int

    @classmethod
    def from_proto(cls, proto: m.ScheduleInfo) -> ScheduleInfo:
        """Make it from the API's message."""
        return cls(
            num_actions=proto.action_count,
            num_actions_missed_catchup_window=proto.missed_catchup_window,
            num_actions_skipped_overlap=proto.overlap_skipped,
            running_actions=[_execution(each) for each in proto.running_workflows],
            recent_actions=[ScheduleActionResult.from_proto(each) for each in proto.recent_actions],
            next_action_times=[datetime_of_ms(timestamp_ms(each)) for each in proto.future_action_times],
            created_at=datetime_of_ms(timestamp_ms(proto.create_time)),
            last_updated_at=moment(proto, "update_time"),
            num_actions_buffered=proto.buffer_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDescription:
    """A schedule, and what is known of it; `raw_description` is the message it was made from."""

    id: str
    schedule: Schedule
    info: ScheduleInfo
    typed_search_attributes: TypedSearchAttributes
    data_converter: DataConverter
    raw_description: m.DescribeScheduleResponse

    async def memo(self) -> Mapping[str, Any]:
        """The memo, as plain values. Raises ConversionError: a value cannot be read."""
        return _memo(self.raw_description.memo, self.data_converter)

    async def memo_value(self, key: str, default: Any = None, *, type_hint: Any = None) -> Any:
        """One value of the memo, typed by `type_hint`; `default` if there is none. Raises ConversionError."""
        fields = self.raw_description.memo.fields
        return self.data_converter.from_payload(fields[key], type_hint) if key in fields else default


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleListDescription:
    """A schedule in a list; `raw_entry` is the message it was made from."""

    id: str
    workflow: str
    """Name of the workflow it starts."""
    spec: ScheduleSpec
    note: str | None
    paused: bool
    recent_actions: Sequence[ScheduleActionResult]
    next_action_times: Sequence[datetime]
    typed_search_attributes: TypedSearchAttributes
    data_converter: DataConverter
    raw_entry: m.ScheduleListEntry

    @classmethod
    def from_proto(cls, proto: m.ScheduleListEntry, converter: DataConverter) -> ScheduleListDescription:
        """Make it from the API's message. Raises ConversionError: a search attribute can't be read."""
        info = proto.info
        return cls(
            id=proto.schedule_id,
            workflow=info.workflow_type.name,
            spec=ScheduleSpec.from_proto(info.spec),
            note=info.notes or None,
            paused=info.paused,
            recent_actions=[ScheduleActionResult.from_proto(each) for each in info.recent_actions],
            next_action_times=[datetime_of_ms(timestamp_ms(each)) for each in info.future_action_times],
            typed_search_attributes=decode_search_attributes(converter, proto.search_attributes.indexed_fields),
            data_converter=converter,
            raw_entry=proto,
        )

    async def memo(self) -> Mapping[str, Any]:
        """The memo, as plain values. Raises ConversionError: a value cannot be read."""
        return _memo(self.raw_entry.memo, self.data_converter)


@dataclass(frozen=True, slots=True)
class ScheduleUpdateInput:
    """What an updater is given."""

    description: ScheduleDescription


@dataclass(frozen=True, slots=True)
class ScheduleUpdate:
    """What an updater asks for."""

    schedule: Schedule
    search_attributes: TypedSearchAttributes | None = None
    """Of the schedule, all of them; they stay as they are when None."""


Updater = Callable[[ScheduleUpdateInput], ScheduleUpdate | Awaitable[ScheduleUpdate | None] | None]


# -- calls -------------------------------------------------------------------------------------------------------------


class ScheduleHandle:
    """A schedule by its id. Every method raises ScheduleNotFoundError if there is none.

    Attributes:
        id: of the schedule.
    """

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self.id = id

    async def describe(self) -> ScheduleDescription:
        """What there is to know."""
        request = m.DescribeScheduleRequest(namespace=self._client.namespace, schedule_id=self.id)
        found = await self._call(self._client.service.describe_schedule, request)
        converter = self._client.data_converter
        return ScheduleDescription(
            id=self.id,
            schedule=Schedule.from_proto(found.schedule, converter),
            info=ScheduleInfo.from_proto(found.info),
            typed_search_attributes=decode_search_attributes(converter, found.search_attributes.indexed_fields),
            data_converter=converter,
            raw_description=found,
        )

    async def trigger(self, *, overlap: ScheduleOverlapPolicy | None = None) -> None:
        """Take an action now, also while the schedule is paused.

        Args:
            overlap: what becomes of it while a workflow runs; the schedule's own policy when None.
        """
        await self._patch(
            m.SchedulePatch(trigger_immediately=m.TriggerImmediatelyRequest(overlap_policy=policy_number(overlap)))
        )

    async def backfill(self, *backfill: ScheduleBackfill) -> None:
        """Take the actions of spans of the past now. Raises ValueError: no span is given."""
        if not backfill:
            raise ValueError("give at least one span to backfill")
        await self._patch(m.SchedulePatch(backfill_request=[each.to_proto() for each in backfill]))

    async def pause(self, *, note: str | None = None) -> None:
        """Take no more actions, until `unpause`."""
        await self._patch(m.SchedulePatch(pause=note or "Paused via Perdure"))

    async def unpause(self, *, note: str | None = None) -> None:
        """Go on; what came meanwhile is not made up for."""
        await self._patch(m.SchedulePatch(unpause=note or "Unpaused via Perdure"))

    async def delete(self) -> None:
        """Forget the schedule; workflows it has started go on."""
        request = m.DeleteScheduleRequest(
            namespace=self._client.namespace, schedule_id=self.id, identity=self._client.identity
        )
        await self._call(self._client.service.delete_schedule, request)

    async def update(self, updater: Updater) -> None:
        """Change the schedule.

            def hourly(given: ScheduleUpdateInput) -> ScheduleUpdate:
                schedule = given.description.schedule
                schedule.spec = ScheduleSpec(cron_expressions=["@hourly"])
                return ScheduleUpdate(schedule)

            await handle.update(hourly)

        Args:
            updater: is given the description, and returns what the schedule is to be; None to leave it. It is asked
                again if the schedule has changed meanwhile. May be async.

        Raises:
            ServiceError: the schedule cannot be so, or it keeps changing.
        """
        for _ in range(_UPDATE_TRIES - 1):
            try:
                return await self._update(updater)
            except ServiceError as error:
                if error.status is not StatusCode.FAILED_PRECONDITION:
                    raise
        await self._update(updater)

    async def _update(self, updater: Updater) -> None:
        description = await self.describe()
        answer = updater(ScheduleUpdateInput(description))
        wanted = await answer if inspect.isawaitable(answer) else answer
        if wanted is None:
            return
        client = self._client
        request = m.UpdateScheduleRequest(
            namespace=client.namespace,
            schedule_id=self.id,
            schedule=wanted.schedule.to_proto(client),
            conflict_token=description.raw_description.conflict_token,
            identity=client.identity,
            request_id=str(uuid.uuid4()),
        )
        if wanted.search_attributes is not None:
            request.search_attributes.SetInParent()
            _put_attributes(request.search_attributes, wanted.search_attributes, client)
        await self._call(client.service.update_schedule, request)

    async def _patch(self, patch: m.SchedulePatch) -> None:
        client = self._client
        request = m.PatchScheduleRequest(
            namespace=client.namespace,
            schedule_id=self.id,
            patch=patch,
            identity=client.identity,
            request_id=str(uuid.uuid4()),
        )
        await self._call(client.service.patch_schedule, request)

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await repeat(method, request)
        except RpcError as error:
            if error.code is StatusCode.NOT_FOUND and not error.details:
                raise ScheduleNotFoundError(
                    f"schedule {self.id!r} not found; check its id and the database or namespace", error.code
                ) from error
            raise translate(error) from error


class ScheduleCalls:
    """The part of `Client` for schedules."""

    async def create_schedule(
        self,
        id: str,
        schedule: Schedule,
        *,
        trigger_immediately: bool = False,
        backfill: Sequence[ScheduleBackfill] = (),
        memo: Mapping[str, Any] | None = None,
        search_attributes: TypedSearchAttributes | None = None,
    ) -> ScheduleHandle:
        """Create a schedule; returns once that is durable.

        Args:
            id: of the schedule.
            schedule: what it does, and when.
            trigger_immediately: take an action now.
            backfill: spans of the past whose actions are taken now.
            memo: values shown by list and describe.
            search_attributes: values to find it by.

        Raises:
            ScheduleAlreadyRunningError: there is one of this id.
            ValueError: actions are limited to none, or their number is given and they are not limited.
            InvalidRequestError: the schedule cannot be so.
            ConversionError: an argument or memo value does not convert.
        """
        client = cast("Client", self)
        check_text(id, "the schedule id")
        if schedule.state.limited_actions != bool(schedule.state.remaining_actions):
            raise ValueError("limited_actions and remaining_actions go together: set both, or neither")
        request = m.CreateScheduleRequest(
            namespace=client.namespace,
            schedule_id=id,
            schedule=schedule.to_proto(client),
            identity=client.identity,
            request_id=str(uuid.uuid4()),
        )
        if trigger_immediately:
            request.initial_patch.trigger_immediately.overlap_policy = policy_number(schedule.policy.overlap)
        request.initial_patch.backfill_request.extend(each.to_proto() for each in backfill)
        for name, value in (memo or {}).items():
            request.memo.fields[name].CopyFrom(client.data_converter.to_payload(value))
        if search_attributes is not None:
            _put_attributes(request.search_attributes, search_attributes, client)
        try:
            await repeat(client.service.create_schedule, request)
        except RpcError as error:
            if error.code is StatusCode.ALREADY_EXISTS:
                raise ScheduleAlreadyRunningError(id) from error
            raise translate(error) from error
        return ScheduleHandle(client, id)

    def get_schedule_handle(self, id: str) -> ScheduleHandle:
        """A handle to a schedule by its id. Asks nobody: whether it exists shows when the handle is used.

        Raises:
            InvalidNameError, TypeError: the id cannot be one.
        """
        check_text(id, "the schedule id")
        return ScheduleHandle(cast("Client", self), id)

    async def list_schedules(
        self, query: str | None = None, *, page_size: int = 1000
    ) -> AsyncIterator[ScheduleListDescription]:
        """Schedules that match a list filter, newest first: ``async for each in client.list_schedules(…)``.

        Args:
            query: e.g. ``"Team = 'red' AND TemporalSchedulePaused = false"``; all when None.
            page_size: how many are fetched at once.

        Raises:
            InvalidRequestError: the filter cannot be read.
        """
        client = cast("Client", self)
        token: bytes | None = b""
        while token is not None:
            request = m.ListSchedulesRequest(
                namespace=client.namespace, maximum_page_size=page_size, next_page_token=token, query=query or ""
            )
            page = await call(client.service.list_schedules, request)
            for each in page.schedules:
                yield ScheduleListDescription.from_proto(each, client.data_converter)
            token = page.next_page_token or None

    async def count_schedules(self, query: str | None = None) -> int:
        """How many schedules match a list filter. Raises InvalidRequestError: the filter cannot be read."""
        client = cast("Client", self)
        request = m.CountSchedulesRequest(namespace=client.namespace, query=query or "")
        return (await call(client.service.count_schedules, request)).count


def _put_attributes(target: m.SearchAttributes, attributes: TypedSearchAttributes, client: Client) -> None:
    for name, payload in encode_search_attributes(client.data_converter, attributes).items():
        target.indexed_fields[name].CopyFrom(payload)


def _memo(memo: m.Memo, converter: DataConverter) -> Mapping[str, Any]:
    return {name: converter.from_payload(payload) for name, payload in memo.fields.items()}


def _execution(execution: m.WorkflowExecution) -> ScheduleActionExecutionStartWorkflow:
    return ScheduleActionExecutionStartWorkflow(execution.workflow_id, execution.run_id)
