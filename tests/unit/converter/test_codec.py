"""Payload codecs reach every payload, and the engine sees none in clear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from perdure.api import WorkflowService
from perdure.api import messages as m
from perdure.converter import CodecService, decode_message, default, encode_message

SECRET = b"canary"


class Mask:
    """Flips every bit."""

    async def encode(self, payloads: Sequence[m.Payload]) -> list[m.Payload]:
        return [
            m.Payload(metadata={"encoding": b"masked"}, data=bytes(255 - byte for byte in payload.SerializeToString()))
            for payload in payloads
        ]

    async def decode(self, payloads: Sequence[m.Payload]) -> list[m.Payload]:
        return [
            m.Payload.FromString(bytes(255 - byte for byte in payload.data))
            if payload.metadata.get("encoding") == b"masked"
            else payload
            for payload in payloads
        ]


def secret() -> m.Payload:
    return default().to_payload(SECRET)


def a_start() -> m.StartWorkflowExecutionRequest:
    request = m.StartWorkflowExecutionRequest(workflow_id="w")
    request.input.payloads.append(secret())
    request.memo.fields["a"].CopyFrom(secret())
    request.header.fields["h"].CopyFrom(secret())
    request.user_metadata.summary.CopyFrom(secret())
    request.search_attributes.indexed_fields["s"].CopyFrom(default().to_payload("open"))
    return request


def a_completion() -> m.RespondWorkflowTaskCompletedRequest:
    request = m.RespondWorkflowTaskCompletedRequest()
    schedule = request.commands.add().schedule_activity_task_command_attributes
    schedule.input.payloads.append(secret())
    failure = request.commands.add().fail_workflow_execution_command_attributes.failure
    for _ in range(5):
        failure.application_failure_info.details.payloads.append(secret())
        failure.encoded_attributes.CopyFrom(secret())
        failure = failure.cause
    request.query_results["q"].answer.payloads.append(secret())
    request.commands.add().record_marker_command_attributes.details["d"].payloads.append(secret())
    asked = m.Request(input=m.Input(name="u", args=m.Payloads(payloads=[secret()])))
    failed = m.Failure(encoded_attributes=secret())
    for body in (
        m.Acceptance(accepted_request=asked),
        m.Rejection(rejected_request=asked, failure=failed),
        m.Response(outcome=m.Outcome(success=m.Payloads(payloads=[secret()]))),
    ):
        request.messages.add().body.Pack(body)
    return request


@pytest.mark.parametrize("make", [a_start, a_completion])
async def test_every_payload_is_masked_and_comes_back(
    make: type[m.StartWorkflowExecutionRequest] | type[m.RespondWorkflowTaskCompletedRequest],
) -> None:
    message = make()
    masked = await encode_message(Mask(), message)
    assert SECRET not in masked.SerializeToString()
    assert message == make(), "the message handed over is not changed"
    assert await decode_message(Mask(), masked) == message


async def test_search_attributes_stay_readable() -> None:
    masked = await encode_message(Mask(), a_start())
    assert masked.search_attributes.indexed_fields["s"].data == b'"open"'


async def test_marks_for_the_engine_stay_readable() -> None:
    request = m.RecordActivityTaskHeartbeatRequest(details=m.Payloads(payloads=[secret()]))
    request.details.payloads[0].metadata["perdure-completes-async"] = b"true"
    masked = await encode_message(Mask(), request)
    assert masked.details.payloads[0].metadata["perdure-completes-async"] == b"true"
    assert SECRET not in masked.SerializeToString()
    assert (await decode_message(Mask(), masked)).details.payloads[0].data == SECRET


class Recorder:
    """A service that remembers what it was sent and answers with the same."""

    def __init__(self) -> None:
        self.requests: list[m.QueryWorkflowRequest] = []

    async def query_workflow(self, request: m.QueryWorkflowRequest) -> m.QueryWorkflowResponse:
        self.requests.append(request)
        return m.QueryWorkflowResponse(query_result=request.query.query_args)


async def test_the_service_sees_masked_payloads_only() -> None:
    recorder = Recorder()
    service = CodecService.around(cast("WorkflowService", recorder), Mask())
    request = m.QueryWorkflowRequest(query=m.WorkflowQuery(query_args=m.Payloads(payloads=[secret()])))
    response = await service.query_workflow(request)
    assert SECRET not in recorder.requests[0].SerializeToString()
    assert response.query_result.payloads[0].data == SECRET


class Short(Mask):
    async def encode(self, payloads: Sequence[m.Payload]) -> list[m.Payload]:
        return []


async def test_a_codec_that_loses_payloads_is_refused() -> None:
    with pytest.raises(ValueError, match="returned 0 payloads for"):
        await encode_message(Short(), a_start())
