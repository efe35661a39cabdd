"""Visibility and namespaces, as an unmodified client and worker see them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio import workflow
from temporalio.api.enums.v1 import IndexedValueType, NamespaceState
from temporalio.api.namespace.v1 import NamespaceConfig, UpdateNamespaceInfo
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    DeleteNamespaceRequest,
    ListSearchAttributesRequest,
    RemoveSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import (
    DeprecateNamespaceRequest,
    DescribeNamespaceRequest,
    GetSearchAttributesRequest,
    ListArchivedWorkflowExecutionsRequest,
    ListClosedWorkflowExecutionsRequest,
    ListNamespacesRequest,
    ListOpenWorkflowExecutionsRequest,
    RegisterNamespaceRequest,
    ScanWorkflowExecutionsRequest,
    UpdateNamespaceRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import RetryPolicy, SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

QUEUE = "visibility"
COLOUR = SearchAttributeKey.for_keyword("Colour")
NOTE = SearchAttributeKey.for_text("Note")
COUNT = SearchAttributeKey.for_int("Count")
RATIO = SearchAttributeKey.for_float("Ratio")
URGENT = SearchAttributeKey.for_bool("Urgent")
DUE = SearchAttributeKey.for_datetime("Due")
TAGS = SearchAttributeKey.for_keyword_list("Tags")
ALL = (COLOUR, NOTE, COUNT, RATIO, URGENT, DUE, TAGS)
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
GIVEN = TypedSearchAttributes(
    [
        SearchAttributePair(COLOUR, "red"),
        SearchAttributePair(NOTE, "Late, and blue"),
        SearchAttributePair(COUNT, 7),
        SearchAttributePair(RATIO, 0.5),
        SearchAttributePair(URGENT, True),
        SearchAttributePair(DUE, NOON),
        SearchAttributePair(TAGS, ["a", "b"]),
    ]
)


@workflow.defn
class Order:
    """Waits for words, and changes what it is found by."""

    def __init__(self) -> None:
        self.words: list[str] = []

    @workflow.run
    async def run(self) -> list[str]:
        seen = [pair.key.name for pair in workflow.info().typed_search_attributes]
        while True:
            await workflow.wait_condition(lambda: bool(self.words))
            match self.words.pop(0):
                case "change":
                    workflow.upsert_search_attributes(
                        [COLOUR.value_set("blue"), COUNT.value_unset(), TAGS.value_set(["c"])]
                    )
                    workflow.upsert_memo({"note": "changed", "old": None})
                    seen.append(workflow.info().typed_search_attributes[COLOUR])
                case "unknown":
                    workflow.upsert_search_attributes([SearchAttributeKey.for_keyword("Unknown").value_set("x")])
                case "again":
                    workflow.continue_as_new()
                case "fail":
                    raise ApplicationError("as asked", non_retryable=True)
                case _:
                    return seen

    @workflow.signal
    def tell(self, word: str) -> None:
        self.words.append(word)

    @workflow.query
    def waits(self) -> bool:
        return not self.words


@workflow.defn
class Parent:
    @workflow.run
    async def run(self, child_id: str) -> None:
        attributes = TypedSearchAttributes([SearchAttributePair(COLOUR, "green")])
        handle = await workflow.start_child_workflow(Order.run, id=child_id, search_attributes=attributes)
        await handle


def worker(client: Client) -> Worker:
    return Worker(client, task_queue=QUEUE, workflows=[Order, Parent], workflow_runner=UnsandboxedWorkflowRunner())


async def register(client: Client, namespace: str = "default", *keys: SearchAttributeKey) -> None:  # type: ignore[type-arg]
    types = {key.name: IndexedValueType.ValueType(key.indexed_value_type) for key in keys or ALL}
    request = AddSearchAttributesRequest(namespace=namespace, search_attributes=types)
    await client.operator_service.add_search_attributes(request)


async def listed(client: Client, query: str | None = None) -> list[str]:
    return [each.id async for each in client.list_workflows(query, page_size=2)]


async def refusal(call: object) -> RPCError:
    with pytest.raises(RPCError) as refused:
        await call  # type: ignore[misc]
    return refused.value


async def test_search_attributes_of_all_types_from_the_start_to_the_list(client: Client) -> None:
    await register(client)
    known = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="default"))
    assert set(known.custom_attributes) == {key.name for key in ALL}
    assert "ExecutionStatus" in known.system_attributes
    async with worker(client):
        handle = await client.start_workflow(
            Order.run, id="o-1", task_queue=QUEUE, search_attributes=GIVEN, memo={"old": 1}
        )
        await client.start_workflow(Order.run, id="o-2", task_queue=QUEUE)
        assert (await handle.describe()).typed_search_attributes == GIVEN
        for query in (
            "Colour = 'red' AND Count BETWEEN 5 AND 7 AND Ratio < 1 AND Urgent = true",
            "Note = 'blue'",
            f"Due = '{NOON.isoformat()}' AND Tags IN ('b', 'x')",
            "Colour STARTS_WITH 're' OR `Count` > 100",
            "Colour IS NOT NULL AND WorkflowType = 'Order' AND ExecutionStatus = 'Running'",
        ):
            assert await listed(client, query) == ["o-1"], query
            assert (await client.count_workflows(query)).count == 1
        assert await listed(client, "Colour IS NULL") == ["o-2"]
        (found,) = [each async for each in client.list_workflows("Colour = 'red'")]
        assert found.typed_search_attributes == GIVEN
        await handle.signal(Order.tell, "change")
        await handle.signal(Order.tell, "done")
        assert await handle.result() == [*sorted(key.name for key in ALL), "blue"]
        assert await listed(client, "Colour = 'blue' AND Tags = 'c' AND Count IS NULL") == ["o-1"]
        described = await handle.describe()
        assert described.typed_search_attributes[COLOUR] == "blue"
        assert COUNT not in described.typed_search_attributes
        assert await described.memo() == {"note": "changed"}


async def test_counts_by_group_and_lists_in_order(client: Client) -> None:
    async with worker(client):
        for number, word in enumerate(["", "done", "fail", "done"]):
            handle = await client.start_workflow(Order.run, id=f"o-{number}", task_queue=QUEUE)
            if word:
                await handle.signal(Order.tell, word)
                if word == "fail":
                    with pytest.raises(WorkflowFailureError):
                        await handle.result()
                else:
                    await handle.result()
        counted = await client.count_workflows("GROUP BY ExecutionStatus")
        assert counted.count == 4
        assert {str(group.group_values[0]): group.count for group in counted.groups} == {
            "Running": 1,
            "Completed": 2,
            "Failed": 1,
        }
        by_type = await client.count_workflows("ExecutionStatus != 'Running' GROUP BY WorkflowType")
        assert [(group.group_values, group.count) for group in by_type.groups] == [(["Order"], 3)]
        assert await listed(client) == ["o-0", "o-3", "o-2", "o-1"]
        assert await listed(client, "ORDER BY StartTime ASC") == ["o-0", "o-1", "o-2", "o-3"]
        statuses = [each.status async for each in client.list_workflows("WorkflowId = 'o-2'")]
        assert statuses == [WorkflowExecutionStatus.FAILED]


async def test_a_child_is_found_by_its_parent_and_a_successor_keeps_what_it_is_found_by(client: Client) -> None:
    await register(client)
    async with worker(client):
        parent = await client.start_workflow(Parent.run, "child", id="parent", task_queue=QUEUE)
        child = client.get_workflow_handle_for(Order.run, "child")
        while await listed(client, "ParentWorkflowId = 'parent'") != ["child"]:
            await asyncio.sleep(0)
        assert await listed(client, "RootWorkflowId = 'parent' ORDER BY StartTime") == ["parent", "child"]
        assert (await child.describe()).typed_search_attributes[COLOUR] == "green"
        first_run_id = (await child.describe()).run_id
        await child.signal(Order.tell, "again")
        while (await child.describe()).run_id == first_run_id:
            await asyncio.sleep(0)
        assert (await child.describe()).typed_search_attributes[COLOUR] == "green"
        assert await listed(client, "Colour = 'green'") == ["child", "child"]
        assert await listed(client, "Colour = 'green' AND ExecutionStatus = 'ContinuedAsNew'") == ["child"]
        await child.signal(Order.tell, "done")
        await parent.result()


async def test_what_is_refused_is_refused_as_the_api_has_it(client: Client) -> None:
    await register(client)
    unknown = TypedSearchAttributes([SearchAttributePair(SearchAttributeKey.for_keyword("Unknown"), "x")])
    start = client.start_workflow(Order.run, id="o-1", task_queue=QUEUE, search_attributes=unknown)
    error = await refusal(start)
    assert error.status is RPCStatusCode.INVALID_ARGUMENT
    assert "Namespace default has no mapping defined for search attribute Unknown" in error.message
    wrong = TypedSearchAttributes([SearchAttributePair(SearchAttributeKey.for_keyword("Count"), "x")])
    error = await refusal(client.start_workflow(Order.run, id="o-1", task_queue=QUEUE, search_attributes=wrong))
    assert "invalid value for search attribute Count of type Int" in error.message
    error = await refusal(listed(client, "Colour = red"))
    assert error.status is RPCStatusCode.INVALID_ARGUMENT
    assert "position 10" in error.message
    error = await refusal(register(client, "default", SearchAttributeKey.for_int("Colour")))
    assert error.status is RPCStatusCode.ALREADY_EXISTS
    archived = ListArchivedWorkflowExecutionsRequest(namespace="default")
    error = await refusal(client.workflow_service.list_archived_workflow_executions(archived))
    assert error.status is RPCStatusCode.UNIMPLEMENTED


async def test_a_workflow_that_sets_an_unknown_attribute_fails_its_task(client: Client) -> None:
    await register(client)
    async with worker(client):
        handle = await client.start_workflow(
            Order.run, id="o-1", task_queue=QUEUE, retry_policy=RetryPolicy(maximum_attempts=1)
        )
        await handle.signal(Order.tell, "unknown")
        message = ""
        while not message:
            async for event in handle.fetch_history_events(wait_new_event=True):
                if event.HasField("workflow_task_failed_event_attributes"):
                    message = event.workflow_task_failed_event_attributes.failure.message
                    break
        assert message == (
            "BadSearchAttributes: Namespace default has no mapping defined for search attribute Unknown."
        )
        await register(client, "default", SearchAttributeKey.for_keyword("Unknown"))
        await handle.signal(Order.tell, "done")
        await handle.result()
        assert await listed(client, "Unknown = 'x'") == ["o-1"]


async def test_the_older_lists(client: Client) -> None:
    async with worker(client):
        await client.start_workflow(Order.run, id="open", task_queue=QUEUE)
        closed = await client.start_workflow(Order.run, id="closed", task_queue=QUEUE)
        await closed.signal(Order.tell, "done")
        await closed.result()
    service = client.workflow_service
    opened = await service.list_open_workflow_executions(ListOpenWorkflowExecutionsRequest(namespace="default"))
    assert [each.execution.workflow_id for each in opened.executions] == ["open"]
    ended = await service.list_closed_workflow_executions(ListClosedWorkflowExecutionsRequest(namespace="default"))
    assert [each.execution.workflow_id for each in ended.executions] == ["closed"]
    scanned = await service.scan_workflow_executions(ScanWorkflowExecutionsRequest(namespace="default"))
    assert [each.execution.workflow_id for each in scanned.executions] == ["closed", "open"]
    assert "WorkflowType" in (await service.get_search_attributes(GetSearchAttributesRequest())).keys


async def test_the_life_of_a_namespace(client: Client) -> None:
    service = client.workflow_service
    await service.register_namespace(
        RegisterNamespaceRequest(
            namespace="other", workflow_execution_retention_period=Duration(seconds=3600), description="first"
        )
    )
    config = NamespaceConfig(workflow_execution_retention_ttl=Duration(seconds=7200))
    update = UpdateNamespaceRequest(
        namespace="other", update_info=UpdateNamespaceInfo(description="second", owner_email="me@here"), config=config
    )
    assert (await service.update_namespace(update)).namespace_info.description == "second"
    described = await service.describe_namespace(DescribeNamespaceRequest(namespace="other"))
    assert described.namespace_info.owner_email == "me@here"
    assert described.config.workflow_execution_retention_ttl.ToTimedelta() == timedelta(hours=2)
    other = await Client.connect(client.service_client.config.target_host, namespace="other")
    await register(other, "other")
    async with worker(other):
        handle = await other.start_workflow(Order.run, id="o-1", task_queue=QUEUE, search_attributes=GIVEN)
        assert await listed(other) == ["o-1"]
        assert await listed(client) == []
        await service.deprecate_namespace(DeprecateNamespaceRequest(namespace="other"))
        error = await refusal(other.start_workflow(Order.run, id="o-2", task_queue=QUEUE))
        assert error.status is RPCStatusCode.FAILED_PRECONDITION
        await handle.signal(Order.tell, "done")
        await handle.result()
    names = await service.list_namespaces(ListNamespacesRequest())
    states = {each.namespace_info.name: each.namespace_info.state for each in names.namespaces}
    assert states == {
        "default": NamespaceState.NAMESPACE_STATE_REGISTERED,
        "other": NamespaceState.NAMESPACE_STATE_DEPRECATED,
    }
    answer = await client.operator_service.delete_namespace(DeleteNamespaceRequest(namespace="other"))
    assert answer.deleted_namespace.startswith("other-deleted-")
    error = await refusal(service.describe_namespace(DescribeNamespaceRequest(namespace="other")))
    assert error.status is RPCStatusCode.NOT_FOUND
    error = await refusal(listed(other))
    assert error.status is RPCStatusCode.NOT_FOUND


async def test_an_attribute_that_is_removed_is_unknown(client: Client) -> None:
    await register(client)
    request = RemoveSearchAttributesRequest(namespace="default", search_attributes=["Colour"])
    await client.operator_service.remove_search_attributes(request)
    assert (await refusal(listed(client, "Colour = 'red'"))).status is RPCStatusCode.INVALID_ARGUMENT
    error = await refusal(client.operator_service.remove_search_attributes(request))
    assert error.status is RPCStatusCode.NOT_FOUND
