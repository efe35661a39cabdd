"""Short forms of schedule calls, for tests."""

from __future__ import annotations

from typing import Any

from perdure.api import messages as m
from tests.service.support import NAMESPACE, QUEUE, Driver

__all__ = ["HOUR_MS", "MINUTE_MS", "OVERLAP", "Scheduling", "schedule"]

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
OVERLAP = {name.removeprefix("SCHEDULE_OVERLAP_POLICY_"): number for name, number in m.ScheduleOverlapPolicy.items()}


def schedule(*, cron: str = "", every_s: int = 0, overlap: str = "SKIP", **state: Any) -> m.Schedule:
    """A schedule that starts the workflow "wf"."""
    wanted = m.Schedule(state=m.ScheduleState(**state))
    if cron:
        wanted.spec.cron_string.append(cron)
    if every_s:
        wanted.spec.interval.add().interval.seconds = every_s
    action = wanted.action.start_workflow
    action.workflow_id = "wf"
    action.workflow_type.name = "flow"
    action.task_queue.name = QUEUE
    wanted.policies.overlap_policy = m.ScheduleOverlapPolicy.ValueType(OVERLAP[overlap])
    return wanted


class Scheduling:
    """Schedule calls of a driver, about one schedule unless another is named."""

    def __init__(self, driver: Driver, schedule_id: str = "s") -> None:
        self.driver = driver
        self.schedule_id = schedule_id

    async def create(self, wanted: m.Schedule, **fields: Any) -> m.CreateScheduleResponse:
        fields.setdefault("request_id", f"create-{self.schedule_id}")
        request = m.CreateScheduleRequest(
            namespace=NAMESPACE, schedule_id=self.schedule_id, schedule=wanted, identity="client", **fields
        )
        return await self.driver.service.create_schedule(request)

    async def describe(self) -> m.DescribeScheduleResponse:
        request = m.DescribeScheduleRequest(namespace=NAMESPACE, schedule_id=self.schedule_id)
        return await self.driver.service.describe_schedule(request)

    async def info(self) -> m.ScheduleInfo:
        return (await self.describe()).info

    async def update(self, wanted: m.Schedule, **fields: Any) -> None:
        request = m.UpdateScheduleRequest(namespace=NAMESPACE, schedule_id=self.schedule_id, schedule=wanted, **fields)
        await self.driver.service.update_schedule(request)

    async def patch(self, request_id: str = "", **fields: Any) -> None:
        request = m.PatchScheduleRequest(namespace=NAMESPACE, schedule_id=self.schedule_id, request_id=request_id)
        request.patch.CopyFrom(m.SchedulePatch(**fields))
        await self.driver.service.patch_schedule(request)

    async def trigger(self, overlap: str = "UNSPECIFIED", request_id: str = "") -> None:
        policy = m.ScheduleOverlapPolicy.ValueType(OVERLAP[overlap])
        await self.patch(request_id, trigger_immediately=m.TriggerImmediatelyRequest(overlap_policy=policy))

    async def backfill(self, start_ms: int, end_ms: int, overlap: str = "UNSPECIFIED") -> None:
        request = m.BackfillRequest(overlap_policy=m.ScheduleOverlapPolicy.ValueType(OVERLAP[overlap]))
        request.start_time.FromMilliseconds(start_ms)
        request.end_time.FromMilliseconds(end_ms)
        await self.patch(backfill_request=[request])

    async def delete(self) -> None:
        request = m.DeleteScheduleRequest(namespace=NAMESPACE, schedule_id=self.schedule_id)
        await self.driver.service.delete_schedule(request)

    async def listed(self, query: str = "", **fields: Any) -> m.ListSchedulesResponse:
        request = m.ListSchedulesRequest(namespace=NAMESPACE, query=query, **fields)
        return await self.driver.service.list_schedules(request)

    async def ids(self, query: str = "") -> list[str]:
        return [each.schedule_id for each in (await self.listed(query)).schedules]

    async def pass_time(self, span_ms: int) -> None:
        """Let time pass, deadline by deadline, and the engine act on each."""
        until_ms = self.driver.clock.now_ms() + span_ms
        await self.driver.rest()
        while (next_ms := self.driver.clock.next_deadline_ms()) is not None and next_ms <= until_ms:
            self.driver.clock.advance_to(next_ms)
            await self.driver.rest()
        self.driver.clock.advance_to(until_ms)
        await self.driver.rest()
