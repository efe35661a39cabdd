"""Namespaces change, are deprecated, and register search attributes; and what of it survives a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine.store import Store, StoreFullError
from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.sqlite import SqliteStore
from tests.service.support import Driver, complete_workflow, refusal

REGISTERED = m.NamespaceState.NAMESPACE_STATE_REGISTERED
DEPRECATED = m.NamespaceState.NAMESPACE_STATE_DEPRECATED
DELETED = m.NamespaceState.NAMESPACE_STATE_DELETED
DAY_S = 24 * 3600


async def described(driver: Driver, name: str = "default") -> m.DescribeNamespaceResponse:
    return await driver.service.describe_namespace(m.DescribeNamespaceRequest(namespace=name))


async def registered(driver: Driver, name: str, **fields: object) -> None:
    await driver.service.register_namespace(m.RegisterNamespaceRequest(namespace=name, **fields))  # type: ignore[arg-type]


async def add(driver: Driver, namespace: str = "default", **types: int) -> None:
    request = m.AddSearchAttributesRequest(
        namespace=namespace,
        search_attributes={name: m.IndexedValueType.ValueType(number) for name, number in types.items()},
    )
    await driver.service.add_search_attributes(request)


async def remove(driver: Driver, *names: str) -> None:
    request = m.RemoveSearchAttributesRequest(namespace="default", search_attributes=names)
    await driver.service.remove_search_attributes(request)


async def custom(driver: Driver, namespace: str = "default") -> dict[str, int]:
    request = m.ListSearchAttributesRequest(namespace=namespace)
    return dict((await driver.service.list_search_attributes(request)).custom_attributes)


async def test_an_update_changes_what_it_gives_and_nothing_else(driver: Driver) -> None:
    await registered(driver, "other", description="first", owner_email="a@b.c", data={"a": "1", "b": "2"})
    request = m.UpdateNamespaceRequest(
        namespace="other", update_info=m.UpdateNamespaceInfo(description="second", data={"b": "3", "c": "4"})
    )
    request.config.workflow_execution_retention_ttl.seconds = 7 * DAY_S
    answer = await driver.service.update_namespace(request)
    found = await described(driver, "other")
    assert answer.namespace_info == found.namespace_info
    assert answer.config == found.config
    assert found.namespace_info.description == "second"
    assert found.namespace_info.owner_email == "a@b.c"
    assert dict(found.namespace_info.data) == {"a": "1", "b": "3", "c": "4"}
    assert found.namespace_info.state == REGISTERED
    assert found.config.workflow_execution_retention_ttl.seconds == 7 * DAY_S


async def test_updates_that_are_refused_change_nothing(driver: Driver) -> None:
    before = await described(driver)
    short = m.UpdateNamespaceRequest(namespace="default", update_info=m.UpdateNamespaceInfo(description="x"))
    short.config.workflow_execution_retention_ttl.seconds = 1
    deleted = m.UpdateNamespaceRequest(namespace="default", update_info=m.UpdateNamespaceInfo(state=DELETED))
    promoted = m.UpdateNamespaceRequest(namespace="default", promote_namespace=True)
    archived = m.UpdateNamespaceRequest(namespace="default")
    archived.config.history_archival_state = m.ArchivalState.ARCHIVAL_STATE_ENABLED
    unknown = m.UpdateNamespaceRequest(namespace="default", delete_bad_binary="abc")
    for request in (short, deleted, promoted, archived, unknown):
        error = await refusal(driver.service.update_namespace(request))
        assert error.code is StatusCode.INVALID_ARGUMENT, request
    error = await refusal(driver.service.update_namespace(m.UpdateNamespaceRequest(namespace="absent")))
    assert error.code is StatusCode.NOT_FOUND
    assert await described(driver) == before


async def test_closed_runs_stay_as_long_as_the_namespace_says_when_they_close(driver: Driver) -> None:
    await driver.start("early")
    request = m.UpdateNamespaceRequest(namespace="default")
    request.config.workflow_execution_retention_ttl.seconds = 7 * DAY_S
    await driver.service.update_namespace(request)
    await driver.step(complete_workflow())
    driver.clock.advance_by(6 * DAY_S * 1000)
    await driver.rest()
    assert await driver.status("early") == "COMPLETED"
    driver.clock.advance_by(DAY_S * 1000 + 1)
    await driver.rest()
    assert (await refusal(driver.describe("early"))).code is StatusCode.NOT_FOUND


async def test_a_deprecated_namespace_starts_nothing_and_ends_what_runs(driver: Driver) -> None:
    await driver.start("running")
    await driver.service.deprecate_namespace(m.DeprecateNamespaceRequest(namespace="default"))
    error = await refusal(driver.start("late"))
    assert error.code is StatusCode.FAILED_PRECONDITION
    (failure,) = error.details
    assert isinstance(failure, m.NamespaceInvalidStateFailure)
    assert failure.state == DEPRECATED
    signal = m.SignalWithStartWorkflowExecutionRequest(namespace="default", workflow_id="late", signal_name="go")
    signal.workflow_type.name, signal.task_queue.name = "flow", "queue"
    error = await refusal(driver.service.signal_with_start_workflow_execution(signal))
    assert error.code is StatusCode.FAILED_PRECONDITION
    await driver.signal("running")
    await driver.step(complete_workflow())
    assert await driver.status("running") == "COMPLETED"
    assert (await described(driver)).namespace_info.state == DEPRECATED


async def test_capabilities_are_what_is_served(driver: Driver) -> None:
    capabilities = (await described(driver)).namespace_info.capabilities
    assert capabilities.sync_update == hasattr(driver.service, "update_workflow_execution")
    assert capabilities.worker_heartbeats == hasattr(driver.service, "record_worker_heartbeat")
    assert capabilities.standalone_activities == hasattr(driver.service, "start_activity_execution")
    assert not capabilities.standalone_activity_batch_operations


async def test_attributes_of_every_type_are_registered_listed_and_removed(driver: Driver) -> None:
    types = {f"A{number}": number for number in range(1, 8)}
    await add(driver, **types)
    assert await custom(driver) == types
    await registered(driver, "other")
    assert await custom(driver, "other") == {}
    keys = (await driver.service.get_search_attributes(m.GetSearchAttributesRequest())).keys
    assert types.items() <= dict(keys).items()
    assert keys["WorkflowId"] == m.IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    system = (await driver.service.list_search_attributes(m.ListSearchAttributesRequest())).system_attributes
    assert {"StartTime", "ExecutionStatus", "TemporalChangeVersion", "BuildIds"} <= set(system)
    await remove(driver, "A1", "A7")
    assert await custom(driver) == {name: number for name, number in types.items() if name not in ("A1", "A7")}


async def test_a_registration_may_be_repeated_but_not_contradicted(driver: Driver) -> None:
    await add(driver, Colour=2)
    await add(driver, Colour=2, Size=3)
    error = await refusal(add(driver, Colour=3, Weight=4))
    assert error.code is StatusCode.ALREADY_EXISTS
    assert "Keyword" in error.message
    assert await custom(driver) == {"Colour": 2, "Size": 3}
    await remove(driver, "Colour")
    await add(driver, Colour=3)
    assert await custom(driver) == {"Colour": 3, "Size": 3}


@pytest.mark.parametrize("name", ["WorkflowId", "TemporalMine", "BuildIds", "Memo", "", "a`b", "x" * 256, "a\0"])
async def test_names_that_can_not_be_registered(driver: Driver, name: str) -> None:
    assert (await refusal(add(driver, **{name: 2}))).code is StatusCode.INVALID_ARGUMENT
    assert await custom(driver) == {}


async def test_other_refusals_of_registrations(driver: Driver) -> None:
    for number in (0, 8, 99):
        assert (await refusal(add(driver, A=number))).code is StatusCode.INVALID_ARGUMENT
    assert (await refusal(add(driver))).code is StatusCode.INVALID_ARGUMENT
    assert (await refusal(add(driver, "absent", A=2))).code is StatusCode.NOT_FOUND
    assert (await refusal(remove(driver))).code is StatusCode.INVALID_ARGUMENT
    assert (await refusal(remove(driver, "A"))).code is StatusCode.NOT_FOUND
    assert (await refusal(remove(driver, "WorkflowId"))).code is StatusCode.INVALID_ARGUMENT


async def test_there_may_be_so_many_attributes_of_a_type(driver: Driver) -> None:
    await add(driver, **{f"A{number:03}": 2 for number in range(100)})
    error = await refusal(add(driver, One=2))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert "cannot have more than 100 search attribute of type Keyword" in error.message
    await add(driver, One=7)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_namespaces_outlive_the_engine(kind: str, tmp_path: Path) -> None:
    memory = MemoryStore()

    def store() -> Store:
        return MemoryStore(memory.state) if kind == "memory" else SqliteStore(tmp_path / "test.db")

    async with Driver(store()) as driver:
        await registered(driver, "other", description="kept")
        await add(driver, "other", Colour=2, Words=1)
        await driver.service.deprecate_namespace(m.DeprecateNamespaceRequest(namespace="other"))
        before = await described(driver, "other")
    async with Driver(store(), seed=2) as driver:
        assert await described(driver, "other") == before
        assert await custom(driver, "other") == {"Colour": 2, "Words": 1}
        assert (await refusal(driver.start(namespace="other"))).code is StatusCode.FAILED_PRECONDITION


async def test_a_change_that_is_not_written_is_taken_back() -> None:
    full = False

    def refuse(number: int, batch: object) -> None:
        if full:
            raise StoreFullError("no space")

    async with Driver(MemoryStore(before_commit=refuse)) as driver:
        await registered(driver, "other", description="kept")
        before = await described(driver, "other")
        full = True
        assert (await refusal(add(driver, "other", Colour=2))).code is StatusCode.RESOURCE_EXHAUSTED
        assert (await refusal(registered(driver, "third"))).code is StatusCode.RESOURCE_EXHAUSTED
        full = False
        assert await described(driver, "other") == before
        assert (await refusal(described(driver, "third"))).code is StatusCode.NOT_FOUND
        await add(driver, "other", Colour=2)
        await registered(driver, "third")


# -- deletion ----------------------------------------------------------------------------------------------------------


async def deleted(driver: Driver, name: str = "other") -> str:
    response = await driver.service.delete_namespace(m.DeleteNamespaceRequest(namespace=name))
    return response.deleted_namespace


async def names(driver: Driver, *, include_deleted: bool = False) -> list[str]:
    request = m.ListNamespacesRequest(namespace_filter=m.NamespaceFilter(include_deleted=include_deleted))
    response = await driver.service.list_namespaces(request)
    return [each.namespace_info.name for each in response.namespaces]


async def test_a_deleted_namespace_is_gone_with_its_workflows_and_its_name_is_free(driver: Driver) -> None:
    await registered(driver, "other")
    await add(driver, "other", Colour=2)
    for number in range(5):
        await driver.start(f"wf{number}", namespace="other")
    await driver.start("mine")
    assert (await deleted(driver)).startswith("other-deleted-")
    assert await names(driver) == await names(driver, include_deleted=True) == ["default"]
    for call in (described(driver, "other"), driver.start(namespace="other"), deleted(driver), custom(driver, "other")):
        assert (await refusal(call)).code is StatusCode.NOT_FOUND
    await registered(driver, "other")
    assert await custom(driver, "other") == {}
    count = m.CountWorkflowExecutionsRequest(namespace="other")
    assert (await driver.service.count_workflow_executions(count)).count == 0
    run_id = await driver.start("wf1", namespace="other")
    assert run_id
    assert await driver.status("mine") == "RUNNING"


async def test_a_namespace_is_deleted_by_its_id(driver: Driver) -> None:
    await registered(driver, "other")
    namespace_id = (await described(driver, "other")).namespace_info.id
    wrong = m.DeleteNamespaceRequest(namespace="default", namespace_id=namespace_id)
    assert (await refusal(driver.service.delete_namespace(wrong))).code is StatusCode.INVALID_ARGUMENT
    empty = m.DeleteNamespaceRequest()
    assert (await refusal(driver.service.delete_namespace(empty))).code is StatusCode.INVALID_ARGUMENT
    await driver.service.delete_namespace(m.DeleteNamespaceRequest(namespace_id=namespace_id))
    assert await names(driver) == ["default"]


async def test_work_that_is_handed_out_does_not_keep_a_namespace(driver: Driver) -> None:
    await registered(driver, "other")
    await driver.start(namespace="other")
    request = m.PollWorkflowTaskQueueRequest(namespace="other")
    request.task_queue.name = "queue"
    task = await driver.service.poll_workflow_task_queue(request)
    await deleted(driver)
    assert await names(driver, include_deleted=True) == ["default"]
    late = m.RespondWorkflowTaskCompletedRequest(namespace="other", task_token=task.task_token)
    assert (await refusal(driver.service.respond_workflow_task_completed(late))).code is StatusCode.NOT_FOUND


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_deletion_goes_on_after_a_crash(kind: str, tmp_path: Path) -> None:
    memory = MemoryStore()

    def store() -> Store:
        return MemoryStore(memory.state) if kind == "memory" else SqliteStore(tmp_path / "test.db")

    async with Driver(store()) as driver:
        await registered(driver, "other")
        for number in range(3):
            await driver.start(f"wf{number}", namespace="other")
        namespace = driver.engine.shard.namespaces.set_state("other", DELETED)
        await driver.engine.write_namespace(namespace)
        assert await names(driver, include_deleted=True) == ["default", "other"]
        error = await refusal(registered(driver, "other"))
        assert error.code is StatusCode.ALREADY_EXISTS
        assert "being deleted" in error.message
    async with Driver(store(), seed=2) as driver:
        await driver.rest()
        assert await names(driver, include_deleted=True) == ["default"]
        await registered(driver, "other")
        count = m.CountWorkflowExecutionsRequest(namespace="other")
        assert (await driver.service.count_workflow_executions(count)).count == 0


async def test_a_deletion_goes_on_when_space_returns() -> None:
    commits_to_refuse = 0

    def refuse(number: int, batch: object) -> None:
        nonlocal commits_to_refuse
        if commits_to_refuse:
            commits_to_refuse -= 1
            raise StoreFullError("no space")

    async with Driver(MemoryStore(before_commit=refuse)) as driver:
        await registered(driver, "other")
        await driver.start(namespace="other")
        commits_to_refuse = 1
        assert (await refusal(deleted(driver))).code is StatusCode.RESOURCE_EXHAUSTED
        assert await names(driver) == ["default", "other"]
        namespace = driver.engine.shard.namespaces.set_state("other", DELETED)
        await driver.engine.write_namespace(namespace)
        commits_to_refuse = 2
        end = driver.engine.emptying.begin("other")
        while not end.done():
            await driver.rest()
            driver.engine.advance()
        assert await names(driver, include_deleted=True) == ["default"]


async def test_more_runs_than_a_page_are_erased(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.engine.emptying._PAGE", 3)
    await registered(driver, "other")
    for number in range(10):
        await driver.start(f"wf{number}", namespace="other")
    await deleted(driver)
    await driver.settle()
    assert await names(driver, include_deleted=True) == ["default"]


async def test_the_default_namespace_may_be_deleted_and_is_there_again_after_a_restart() -> None:
    memory = MemoryStore()
    async with Driver(memory) as driver:
        await driver.start()
        await deleted(driver, "default")
        assert await names(driver) == []
        await driver.service.get_cluster_info(m.GetClusterInfoRequest())
    async with Driver(MemoryStore(memory.state), seed=2) as driver:
        assert await names(driver) == ["default"]
        assert (await refusal(driver.describe())).code is StatusCode.NOT_FOUND
