"""What keys allow: every RPC has a role, and every namespace in a request is looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.rpcs import RPCS
from perdure.engine.ids import SeededIds
from perdure.server.access import MENTIONS, NEEDS, authorise, namespaces_of
from perdure.server.keys import ApiKey, Role, make_key


def key(role: Role = Role.WRITER, *namespaces: str) -> ApiKey:
    return make_key(SeededIds(1), role=role, namespaces=namespaces or ("*",))[1]


def allowed(with_key: ApiKey, method: str, request: object = None) -> bool:
    rpc = RPCS[method]
    try:
        authorise(with_key, rpc, request if request is not None else rpc.request())  # type: ignore[arg-type]
    except RpcError as error:
        assert error.code is StatusCode.PERMISSION_DENIED
        assert isinstance(error.details[0], m.PermissionDeniedFailure)
        return False
    return True


def test_every_rpc_has_a_role() -> None:
    assert set(NEEDS) == set(RPCS)


@pytest.mark.parametrize("method", sorted(RPCS))
def test_a_role_includes_the_ones_before(method: str) -> None:
    assert [allowed(key(role), method) for role in Role] == [role >= NEEDS[method] for role in Role]


def strings_named_namespace(of: Descriptor, above: tuple[str, ...], path: str) -> Iterator[tuple[str, bool]]:
    """Every field called namespace in a message at any depth, and whether it lies in a message that only mentions."""
    for field in of.fields:
        if field.name == "namespace":
            yield f"{path}.{field.name}", bool(MENTIONS & set(above))
        elif field.message_type is not None and field.message_type.full_name not in above:
            inner = field.message_type
            yield from strings_named_namespace(inner, (*above, inner.full_name), f"{path}.{field.name}")


COMPLETED = "RespondWorkflowTaskCompletedRequest.commands"
NESTED = {
    f"{COMPLETED}.request_cancel_external_workflow_execution_command_attributes.namespace",
    f"{COMPLETED}.signal_external_workflow_execution_command_attributes.namespace",
    f"{COMPLETED}.start_child_workflow_execution_command_attributes.namespace",
    "ExecuteMultiOperationRequest.operations.start_workflow.namespace",
    "ExecuteMultiOperationRequest.operations.update_workflow.namespace",
    "CreateNexusEndpointRequest.spec.target.worker.namespace",
    "UpdateNexusEndpointRequest.spec.target.worker.namespace",
}


def test_the_nested_namespaces_of_the_api_are_known() -> None:
    """A new place where a request may hide a namespace is looked at before it is served."""
    found: set[str] = set()
    for rpc in RPCS.values():
        of = rpc.request.DESCRIPTOR
        found |= {path for path, mentioned in strings_named_namespace(of, (of.full_name,), of.name) if not mentioned}
    assert {path for path in found if path.count(".") > 1} == NESTED


def commands() -> m.RespondWorkflowTaskCompletedRequest:
    request = m.RespondWorkflowTaskCompletedRequest(namespace="a")
    request.commands.add().start_child_workflow_execution_command_attributes.namespace = "b"
    request.commands.add().signal_external_workflow_execution_command_attributes.namespace = "c"
    request.commands.add().request_cancel_external_workflow_execution_command_attributes.namespace = "d"
    request.commands.add().start_timer_command_attributes.timer_id = "1"
    request.commands.add().start_child_workflow_execution_command_attributes.workflow_id = "the same namespace"
    return request


def test_namespaces_are_found_in_commands() -> None:
    assert sorted(namespaces_of(commands())) == ["a", "b", "c", "d"]


def test_namespaces_are_found_in_multi_operations() -> None:
    request = m.ExecuteMultiOperationRequest(namespace="a")
    request.operations.add().start_workflow.namespace = "b"
    request.operations.add().update_workflow.namespace = "c"
    assert sorted(namespaces_of(request)) == ["a", "b", "c"]


def test_links_and_failures_mention_namespaces_only() -> None:
    request = m.StartWorkflowExecutionRequest(namespace="a")
    request.links.add().workflow_event.namespace = "elsewhere"
    request.continued_failure.child_workflow_execution_failure_info.namespace = "elsewhere"
    assert list(namespaces_of(request)) == ["a"]


@pytest.mark.parametrize("missing", ["a", "b", "c", "d"])
def test_a_nested_namespace_is_checked_like_the_outer_one(missing: str) -> None:
    for_all = {"a", "b", "c", "d"}
    assert allowed(key(Role.WRITER, *for_all), "respond_workflow_task_completed", commands())
    assert not allowed(key(Role.WRITER, *(for_all - {missing})), "respond_workflow_task_completed", commands())


def test_what_belongs_to_no_namespace_needs_a_key_for_all() -> None:
    assert not allowed(key(Role.ADMIN, "a"), "list_namespaces")
    assert allowed(key(Role.ADMIN), "list_namespaces")
    assert not allowed(key(Role.ADMIN, "a"), "describe_namespace", m.DescribeNamespaceRequest(id="some id"))
    assert allowed(key(Role.ADMIN, "a"), "describe_namespace", m.DescribeNamespaceRequest(namespace="a"))
    assert not allowed(key(Role.ADMIN, "a"), "register_namespace", m.RegisterNamespaceRequest(namespace="b"))


def test_any_key_may_ask_what_the_server_is() -> None:
    assert allowed(key(Role.READER, "a"), "get_system_info")
    assert allowed(key(Role.READER, "a"), "get_cluster_info")
