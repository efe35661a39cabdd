"""The table of RPCs says what the services' own descriptors say."""

from __future__ import annotations

from temporalio.api.operatorservice.v1 import service_pb2 as operator_service
from temporalio.api.workflowservice.v1 import service_pb2 as workflow_service

from perdure.api.rpcs import RPCS


def test_the_table_holds_every_method_of_the_services() -> None:
    described = {
        f"/{service.full_name}/{method.name}": (method.input_type.full_name, method.output_type.full_name)
        for service in (
            workflow_service.DESCRIPTOR.services_by_name["WorkflowService"],
            operator_service.DESCRIPTOR.services_by_name["OperatorService"],
        )
        for method in service.methods
    }
    listed = {rpc.path: (rpc.request.DESCRIPTOR.full_name, rpc.response.DESCRIPTOR.full_name) for rpc in RPCS.values()}
    assert listed == described
