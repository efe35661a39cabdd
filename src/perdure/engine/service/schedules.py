"""Schedules: creating, changing, asking and listing them.

What is listed is what memory holds, which is all there is; a schedule whose creation is not durable yet is left out.
Filters are those of workflow lists, asked about a schedule: its search attributes, ``ScheduleId``,
``TemporalSchedulePaused`` and ``StartTime``, when it was created.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Final

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import set_timestamp_ms, timestamp_ms
from perdure.engine.schedules import Schedule, stepping
from perdure.engine.schedules.definition import backfills_of, define, set_state, typer
from perdure.engine.schedules.describing import conflict_token, describe, list_entry
from perdure.engine.schedules.state import State
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.service.visibility import GROUPS, group_value
from perdure.engine.tokens import ListToken
from perdure.engine.visibility.attributes import KEYWORD
from perdure.engine.visibility.expressions import Attribute, Value, matches
from perdure.engine.visibility.literals import STATUS_NAMES
from perdure.engine.visibility.parsing import ListFilter, parse
from perdure.engine.visibility.values import stored

__all__ = ["ScheduleTopic"]

MATCHING_TIMES: Final = 1000
"""Instants in one answer."""
_SHOWN_A_TURN: Final = 20
"""Schedules described in one turn of the event loop."""
_LOOKED_AT_A_TURN: Final = 500
_RUNNING: Final = next(status for status, name in STATUS_NAMES.items() if name == "Running")
_SYSTEM_ID: Final = "temporal-sys-scheduler:"
"""What Temporal puts before a schedule's id to make the workflow id of it."""
_OWN: Final = {"ScheduleId": KEYWORD}
"""Names that filters of schedules may use besides those of workflows."""


class ScheduleTopic(ServiceTopic):
    """Workflows started by the calendar."""

    async def create_schedule(self, request: m.CreateScheduleRequest) -> m.CreateScheduleResponse:
        """Returns when it is durable.

        Raises:
            RpcError: NOT_FOUND (namespace); INVALID_ARGUMENT; ALREADY_EXISTS with
                ``WorkflowExecutionAlreadyStartedFailure``; RESOURCE_EXHAUSTED, there are too many.
        """
        self.check(request.namespace)
        namespace = self.namespaces.to_start_in(request.namespace)
        definition = define(request, self.limits, typer(namespace.name, namespace.attributes, self.limits))
        backfills = backfills_of(request.initial_patch)
        schedules = self.shard.schedules
        key = request.namespace, request.schedule_id
        known = schedules.known.get(key)
        if known is not None:
            await self._settle(known)
            if request.request_id and known.state.create_request_id == request.request_id:
                return m.CreateScheduleResponse(conflict_token=conflict_token(known.state))
            raise RpcError(
                StatusCode.ALREADY_EXISTS,
                f"schedule {request.schedule_id!r} is already registered",
                m.WorkflowExecutionAlreadyStartedFailure(start_request_id=known.state.create_request_id),
            )
        now_ms = self.clock.now_ms()
        state = State(self.shard.ids.new_id(), now_ms, now_ms, request.request_id)
        set_state(state, request.schedule.state)
        stepping.apply_patch(state, request.initial_patch, backfills, definition.times, now_ms)
        state.version = 1
        token = conflict_token(state)
        schedule = schedules.add(key, definition, state)
        await self._settle(schedule)
        return m.CreateScheduleResponse(conflict_token=token)

    async def describe_schedule(self, request: m.DescribeScheduleRequest) -> m.DescribeScheduleResponse:
        """Raises RpcError NOT_FOUND; DATA_LOSS, its rows are damaged."""
        schedule = self._schedule(request.namespace, request.schedule_id)
        described = describe(schedule.definition, schedule.state, self.clock.now_ms())
        await self._settle(schedule)
        return described

    async def update_schedule(self, request: m.UpdateScheduleRequest) -> m.UpdateScheduleResponse:
        """Replace what a schedule was asked to be.

        Raises:
            RpcError: NOT_FOUND; INVALID_ARGUMENT; FAILED_PRECONDITION, it has changed meanwhile.
        """
        schedule = self._schedule(request.namespace, request.schedule_id)
        state = schedule.state
        if request.request_id and request.request_id in state.request_ids:
            await self._settle(schedule)
            return m.UpdateScheduleResponse()
        if request.conflict_token and request.conflict_token != conflict_token(state):
            await self._settle(schedule)
            raise RpcError(StatusCode.FAILED_PRECONDITION, "mismatched conflict token")
        if not request.HasField("schedule"):
            raise invalid("the schedule is not set: an update replaces all of it")
        before = schedule.definition.message
        wanted = m.CreateScheduleRequest(
            namespace=request.namespace,
            schedule_id=request.schedule_id,
            schedule=request.schedule,
            identity=request.identity,
            request_id=request.request_id,
        )
        wanted.memo.CopyFrom(request.memo if request.HasField("memo") else before.memo)
        given = request.search_attributes if request.HasField("search_attributes") else before.search_attributes
        wanted.search_attributes.CopyFrom(given)
        namespace = self.namespaces.get(request.namespace)
        definition = define(wanted, self.limits, typer(namespace.name, namespace.attributes, self.limits))
        set_state(state, request.schedule.state)
        stepping.remember(state, request.request_id)
        now_ms = self.clock.now_ms()
        state.updated_ms = now_ms
        state.cursor_ms = max(state.cursor_ms, now_ms)
        state.version += 1
        schedule.definition = definition
        self.shard.schedules.changed(schedule)
        await self._settle(schedule)
        return m.UpdateScheduleResponse()

    async def patch_schedule(self, request: m.PatchScheduleRequest) -> m.PatchScheduleResponse:
        """Trigger, backfill, pause or unpause. Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        schedule = self._schedule(request.namespace, request.schedule_id)
        if not request.HasField("patch"):
            raise invalid("the patch is not set: say what to do")
        backfills = backfills_of(request.patch)
        times = schedule.definition.times
        state = schedule.state
        if len(state.backfills) + len(backfills) > stepping.BACKFILLS_MAX:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED, f"{stepping.BACKFILLS_MAX} backfills wait; wait until some are done"
            )
        if stepping.remember(state, request.request_id):
            stepping.apply_patch(state, request.patch, backfills, times, self.clock.now_ms())
            self.shard.schedules.changed(schedule)
        await self._settle(schedule)
        return m.PatchScheduleResponse()

    async def delete_schedule(self, request: m.DeleteScheduleRequest) -> m.DeleteScheduleResponse:
        """Forget a schedule; workflows it has started go on. Raises RpcError NOT_FOUND."""
        schedule = self._schedule(request.namespace, request.schedule_id)
        await self.shard.schedules.remove(schedule)
        return m.DeleteScheduleResponse()

    async def list_schedule_matching_times(
        self, request: m.ListScheduleMatchingTimesRequest
    ) -> m.ListScheduleMatchingTimesResponse:
        """When a schedule acts after one instant and up to another. Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        schedule = self._schedule(request.namespace, request.schedule_id)
        if not request.HasField("start_time") or not request.HasField("end_time"):
            raise invalid("say from when to when: the start time and the end time are needed")
        end_ms = timestamp_ms(request.end_time)
        response = m.ListScheduleMatchingTimesResponse()
        for moment in schedule.definition.times.acting_after(timestamp_ms(request.start_time), MATCHING_TIMES):
            if moment.actual_ms > end_ms:
                break
            set_timestamp_ms(response.start_time.add(), moment.actual_ms)
        return response

    # -- lists -----------------------------------------------------------------------------------------------------

    async def list_schedules(self, request: m.ListSchedulesRequest) -> m.ListSchedulesResponse:
        """A page of schedules, newest first. Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        digest = hashlib.blake2b(f"schedules\0{request.query}".encode(), digest_size=8).digest()
        before: tuple[int, str] | None = None
        if request.next_page_token:
            opened = self.tokens.open_list_page(request.namespace, request.next_page_token)
            if opened.filter_digest != digest:
                raise invalid("the page token belongs to a list with another filter")
            created_ms, schedule_id = opened.place
            before = int(created_ms or 0), str(schedule_id)
        asked = self._parse_filter(request.namespace, request.query)
        if asked.group_by is not None:
            raise invalid("invalid list filter: a list can't be grouped; count can")
        if asked.order:
            raise invalid("invalid list filter: schedules are listed newest first; ORDER BY is not supported for them")
        fitting = await self._fitting(request.namespace, asked)
        found = [each for each in fitting if before is None or _place(each) < before]
        found.sort(key=_place, reverse=True)
        wanted = request.maximum_page_size
        size = min(wanted, self.config.list_page) if wanted > 0 else self.config.list_page
        now_ms = self.clock.now_ms()
        response = m.ListSchedulesResponse()
        for at, schedule in enumerate(found[:size]):
            if at % _SHOWN_A_TURN == 0:
                await asyncio.sleep(0)
            try:
                response.schedules.append(list_entry(schedule.definition, schedule.state, now_ms))
            except RpcError as error:
                damaged = response.schedules.add(schedule_id=schedule.key[1])
                damaged.info.notes = error.message
        if len(found) > size:
            token = ListToken(_place(found[size - 1]), digest)
            response.next_page_token = self.tokens.list_page(request.namespace, token)
        return response

    async def count_schedules(self, request: m.CountSchedulesRequest) -> m.CountSchedulesResponse:
        """How many schedules match, in all or by group. Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        asked = self._parse_filter(request.namespace, request.query)
        found = await self._fitting(request.namespace, asked)
        by = asked.group_by
        if by is None:
            return m.CountSchedulesResponse(count=len(found))
        counts: dict[Value, int] = {}
        for schedule in found:
            for value in _values(schedule, by):
                counts[value] = counts.get(value, 0) + 1
        if len(counts) > GROUPS:
            raise invalid(f"the schedules are of more than {GROUPS} groups; narrow the filter")
        response = m.CountSchedulesResponse(count=sum(counts.values()))
        for value, count in sorted(counts.items(), key=lambda entry: str(entry[0])):
            response.groups.add(count=count, group_values=[group_value(by, value)])
        return response

    def _parse_filter(self, namespace: str, text: str) -> ListFilter:
        return parse(text, {**self.namespaces.get(namespace).attributes, **_OWN}, self.clock.now_ms())

    async def _fitting(self, namespace: str, asked: ListFilter) -> list[Schedule]:
        schedules = self.shard.schedules
        found: list[Schedule] = []
        for at, (key, schedule) in enumerate(list(schedules.known.items())):
            if at % _LOOKED_AT_A_TURN == 0:
                await asyncio.sleep(0)
            if key[0] != namespace or not schedules.is_durable(key):
                continue
            if matches(asked.where, partial(_values, schedule)):
                found.append(schedule)
        return found

    # -- what they share -------------------------------------------------------------------------------------------

    def _schedule(self, namespace: str, schedule_id: str) -> Schedule:
        self.check(namespace)
        if not schedule_id:
            raise invalid("ScheduleId is not set")
        return self.shard.schedules.get(namespace, schedule_id)

    async def _settle(self, schedule: Schedule) -> None:
        """Until everything a schedule has decided so far is durable."""
        if schedule.group is not None:
            await schedule.group.durable()


def _place(schedule: Schedule) -> tuple[int, str]:
    """Where a schedule stands in the list."""
    return schedule.state.created_ms, schedule.key[1]


def _values(schedule: Schedule, attribute: Attribute) -> Sequence[Value]:
    """A schedule's values of a search attribute."""
    state = schedule.state
    match attribute.name:
        case "ScheduleId":
            return (schedule.key[1],)
        case "WorkflowId":
            return (_SYSTEM_ID + schedule.key[1],)
        case "TemporalSchedulePaused":
            return (int(state.paused),)
        case "ExecutionStatus":
            return (_RUNNING,)
        case "StartTime" | "ExecutionTime":
            return (state.created_ms,)
        case _:
            try:
                own = schedule.definition.message.search_attributes
            except RpcError:
                return ()
            found = stored(own, m.WorkflowExecution(), m.WorkflowExecution())
            return [value for name, kind, value in found if name == attribute.name and kind == attribute.type]
