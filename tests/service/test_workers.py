"""Workers that report: described, listed, counted, and forgotten when they fall silent."""

from __future__ import annotations

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine.workers import Workers
from tests.service.support import Driver, refusal

Status = m.WorkerStatus


def report(key: str, **fields: object) -> m.WorkerHeartbeat:
    found = m.WorkerHeartbeat(worker_instance_key=key, worker_identity=f"{key}@host", status=1, **fields)  # type: ignore[arg-type]
    found.host_info.host_name = "host"
    found.host_info.process_id = "7"
    return found


async def record(driver: Driver, *reports: m.WorkerHeartbeat, namespace: str = "default") -> None:
    request = m.RecordWorkerHeartbeatRequest(namespace=namespace, worker_heartbeat=reports)
    await driver.service.record_worker_heartbeat(request)


async def listed(driver: Driver, query: str = "") -> list[str]:
    response = await driver.service.list_workers(m.ListWorkersRequest(namespace="default", query=query))
    assert [each.worker_heartbeat.worker_instance_key for each in response.workers_info] == [
        each.worker_instance_key for each in response.workers
    ]
    count = await driver.service.count_workers(m.CountWorkersRequest(namespace="default", query=query))
    assert count.count == len(response.workers)
    return [each.worker_instance_key for each in response.workers]


async def test_a_worker_is_what_it_said_last(driver: Driver) -> None:
    await record(driver, report("a", task_queue="q"))
    await record(driver, report("a", task_queue="r"), m.WorkerHeartbeat(task_queue="nameless"))
    request = m.DescribeWorkerRequest(namespace="default", worker_instance_key="a")
    assert (await driver.service.describe_worker(request)).worker_info.worker_heartbeat.task_queue == "r"
    (line,) = (await driver.service.list_workers(m.ListWorkersRequest(namespace="default"))).workers
    assert (line.worker_identity, line.task_queue, line.host_name, line.process_id) == ("a@host", "r", "host", "7")
    leaving = m.ShutdownWorkerRequest(namespace="default", worker_instance_key="a")
    leaving.worker_heartbeat.CopyFrom(report("a"))
    leaving.worker_heartbeat.status = Status.WORKER_STATUS_SHUTTING_DOWN
    await driver.service.shutdown_worker(leaving)
    described = await driver.service.describe_worker(request)
    assert described.worker_info.worker_heartbeat.status == Status.WORKER_STATUS_SHUTTING_DOWN


async def test_workers_are_found_by_what_they_say(driver: Driver) -> None:
    first = report("a", task_queue="q", sdk_name="python", sdk_version="1.2")
    first.deployment_version.build_id = "b1"
    first.start_time.FromMilliseconds(driver.clock.now_ms())
    second = report("b", task_queue="r", sdk_name="go")
    second.status = Status.WORKER_STATUS_SHUTTING_DOWN
    await record(driver, first, second)
    assert await listed(driver) == ["a", "b"]
    assert await listed(driver, "TaskQueue = 'q' AND SdkName = 'python'") == ["a"]
    assert await listed(driver, "WorkerInstanceKey = 'b' OR BuildId = 'b1'") == ["a", "b"]
    assert await listed(driver, "Status = 'ShuttingDown'") == ["b"]
    assert await listed(driver, "WorkerIdentity STARTS_WITH 'a' AND HostName != 'elsewhere'") == ["a"]
    assert await listed(driver, "StartTime > '2020-01-01T00:00:00Z'") == ["a"]
    bad = m.ListWorkersRequest(namespace="default", query="TaskQueue =")
    assert (await refusal(driver.service.list_workers(bad))).code is StatusCode.INVALID_ARGUMENT


async def test_lists_are_paged(driver: Driver) -> None:
    await record(driver, *(report(f"w{number}") for number in range(5)))
    found: list[str] = []
    request = m.ListWorkersRequest(namespace="default", page_size=2)
    for _ in range(3):
        page = await driver.service.list_workers(request)
        found += [each.worker_instance_key for each in page.workers]
        request.next_page_token = page.next_page_token
    assert found == [f"w{number}" for number in range(5)]
    assert not page.next_page_token
    await driver.service.register_namespace(m.RegisterNamespaceRequest(namespace="other"))
    token = (await driver.service.list_workers(m.ListWorkersRequest(namespace="default", page_size=2))).next_page_token
    swapped = m.ListWorkersRequest(namespace="other", next_page_token=token)
    assert (await refusal(driver.service.list_workers(swapped))).code is StatusCode.INVALID_ARGUMENT


async def test_the_silent_are_forgotten_and_namespaces_kept_apart(driver: Driver) -> None:
    await driver.service.register_namespace(m.RegisterNamespaceRequest(namespace="other"))
    await record(driver, report("a"))
    await record(driver, report("b"), namespace="other")
    assert await listed(driver) == ["a"]
    request = m.DescribeWorkerRequest(namespace="default", worker_instance_key="b")
    assert (await refusal(driver.service.describe_worker(request))).code is StatusCode.NOT_FOUND
    driver.clock.advance_by(6 * 60_000)
    assert await listed(driver) == []
    huge = report("c", sdk_name="x" * 100_000)
    request = m.RecordWorkerHeartbeatRequest(namespace="default", worker_heartbeat=[report("d"), huge])
    assert (await refusal(driver.service.record_worker_heartbeat(request))).code is StatusCode.INVALID_ARGUMENT
    assert await listed(driver) == [], "all of a call or nothing"


@pytest.mark.in_process("it asks no service")
def test_the_latest_ten_thousand_are_kept() -> None:
    workers = Workers()
    for number in range(10_050):
        workers.record("n", (report(f"{number:06}"),), number)
    kept = workers.of("n", 10_050)
    assert (len(kept), kept[0].worker_instance_key) == (10_000, "000050")
