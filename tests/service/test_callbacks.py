"""Completion callbacks that leave the server: a workflow's end is posted to whoever listens."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import EngineConfig
from perdure.engine.callouts import call_out_of, check_url, post
from perdure.engine.config import Address
from perdure.engine.history import Completion
from perdure.engine.store.memory import MemoryStore
from tests.service.support import Driver, complete_workflow, fail_workflow, payloads, refusal

ANYWHERE = (Address(pattern="*", allow_insecure=True),)


class Heard(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class Listener:
    """Listens to callbacks, and answers with the statuses it is given, then with 200."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.heard: list[Heard] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                listener.heard.append(Heard(self.path, headers, body))
                self.send_response(listener.statuses.pop(0) if listener.statuses else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/done?a=1"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def callback(url: str, **header: str) -> m.Callback:
    made = m.Callback()
    made.nexus.url = url
    made.nexus.header.update(header)
    return made


def driver_on(store: MemoryStore, **fields: Any) -> Driver:
    return Driver(store, config=EngineConfig(callback_addresses=ANYWHERE), **fields)


async def told(driver: Driver) -> m.CallbackInfo:
    await driver.wait_idle(but_held=True)
    (info,) = (await driver.describe()).callbacks
    return info


async def test_a_result_is_posted(listener: Listener) -> None:
    async with driver_on(MemoryStore()) as driver:
        await driver.start(completion_callbacks=[callback(listener.url, Token="t")])
        await driver.step(complete_workflow("out"))
        assert (await told(driver)).state == m.CallbackState.CALLBACK_STATE_SUCCEEDED
        (heard,) = listener.heard
        assert heard.path == "/done?a=1" and heard.body == payloads("out").payloads[0].data
        assert heard.headers["token"] == "t" and heard.headers["nexus-operation-state"] == "succeeded"
        assert heard.headers["content-type"] == "application/json"
        await driver.settle()


async def test_a_failure_is_posted(listener: Listener) -> None:
    async with driver_on(MemoryStore()) as driver:
        await driver.start(completion_callbacks=[callback(listener.url)])
        await driver.step(fail_workflow("broken"))
        await told(driver)
        (heard,) = listener.heard
        assert heard.headers["nexus-operation-state"] == "failed"
        failure = json.loads(heard.body)
        assert failure["message"] == "broken" and "applicationFailureInfo" in failure["details"]


async def test_one_who_is_not_there_is_called_again(listener: Listener) -> None:
    listener.statuses += [500, 503]
    async with driver_on(MemoryStore()) as driver:
        await driver.start(completion_callbacks=[callback(listener.url)])
        await driver.step(complete_workflow())
        info = await told(driver)
        assert info.state == m.CallbackState.CALLBACK_STATE_BACKING_OFF and info.attempt == 1
        assert "500" in info.last_attempt_failure.message and info.HasField("next_attempt_schedule_time")
        for _ in range(2):
            assert driver.engine.advance()
            info = await told(driver)
        assert info.state == m.CallbackState.CALLBACK_STATE_SUCCEEDED and info.attempt == 3


async def test_one_who_refuses_is_left_alone(listener: Listener) -> None:
    listener.statuses += [404]
    async with driver_on(MemoryStore()) as driver:
        await driver.start(completion_callbacks=[callback(listener.url)])
        await driver.step(complete_workflow())
        info = await told(driver)
        assert info.state == m.CallbackState.CALLBACK_STATE_FAILED and "404" in info.last_attempt_failure.message
        assert len(listener.heard) == 1


async def test_it_is_tried_for_as_long_as_the_workflow_is_kept(listener: Listener) -> None:
    async with driver_on(MemoryStore()) as driver:
        await driver.start(completion_callbacks=[callback("http://127.0.0.1:1/")])
        await driver.step(complete_workflow())
        for _ in range(200):
            if (info := await told(driver)).state == m.CallbackState.CALLBACK_STATE_FAILED:
                break
            assert driver.engine.advance()
        assert info.state == m.CallbackState.CALLBACK_STATE_FAILED and 50 < info.attempt < 100


async def test_nobody_listens(listener: Listener) -> None:
    async with driver_on(MemoryStore()) as driver:
        await driver.start(completion_callbacks=[callback("http://127.0.0.1:1/")])
        await driver.step(complete_workflow())
        assert (await told(driver)).state == m.CallbackState.CALLBACK_STATE_BACKING_OFF


@pytest.mark.in_process("it crashes the engine")
async def test_the_next_engine_calls_who_was_not_reached(listener: Listener) -> None:
    listener.statuses += [500]
    store = MemoryStore()
    async with driver_on(store) as driver:
        await driver.start(completion_callbacks=[callback(listener.url)])
        await driver.step(complete_workflow())
        assert (await told(driver)).attempt == 1
        state = store.state.copy()
    async with driver_on(MemoryStore(state), clock=driver.clock, seed=2) as driver:
        info = await told(driver)
        assert info.state == m.CallbackState.CALLBACK_STATE_SUCCEEDED and info.attempt == 2


async def test_without_a_list_nobody_outside_is_called(listener: Listener) -> None:
    async with Driver(MemoryStore()) as driver:
        error = await refusal(driver.start(completion_callbacks=[callback(listener.url)]))
        assert error.code is StatusCode.INVALID_ARGUMENT and "allowedAddresses" in error.message


@pytest.mark.in_process("it makes no call")
@pytest.mark.parametrize(
    ("url", "pattern", "insecure", "allowed"),
    [
        ("https://a.example.com/x", "*.example.com", False, True),
        ("https://a.example.com:8443/x", "*.example.com", False, True),
        ("https://a.example.com:8443/x", "a.example.com:8443", False, True),
        ("https://a.example.com:8444/x", "a.example.com:8443", False, False),
        ("http://a.example.com/x", "*.example.com", False, False),
        ("http://a.example.com/x", "*.example.com", True, True),
        ("https://example.org/", "*.example.com", True, False),
        ("ftp://a.example.com/", "*", True, False),
        ("https:///x", "*", True, False),
        ("https://a b/", "*", True, False),
        ("https://a:x/", "*", True, False),
    ],
)
def test_where_callbacks_may_go(url: str, pattern: str, insecure: bool, allowed: bool) -> None:
    addresses = (Address(pattern=pattern, allow_insecure=insecure),)
    if allowed:
        assert check_url(url, addresses) is addresses[0]
    else:
        with pytest.raises(RpcError):
            check_url(url, addresses)


@pytest.mark.in_process("it makes no call")
@pytest.mark.parametrize(
    ("metadata", "content_type", "whole"),
    [
        ({"encoding": b"json/plain"}, "application/json", False),
        ({"encoding": b"binary/plain"}, "application/octet-stream", False),
        (
            {"encoding": b"json/protobuf", "messageType": b"a.B"},
            'application/json; format=protobuf; message-type="a.B"',
            False,
        ),
        (
            {"encoding": b"binary/protobuf", "messageType": b"a.B"},
            'application/x-protobuf; message-type="a.B"',
            False,
        ),
        ({"encoding": b"mine", "key": b"1"}, "application/x-temporal-payload", True),
        ({"encoding": b"binary/null"}, None, False),
    ],
)
def test_what_a_result_is_posted_as(metadata: dict[str, bytes], content_type: str | None, whole: bool) -> None:
    payload = m.Payload(metadata=metadata, data=b"1")
    made = callback("https://a/", x="1", bad="line\r\nbreak")
    call = call_out_of(made.nexus, Completion(result=payload), ANYWHERE, {})
    assert call.headers.get("content-type") == content_type
    assert (m.Payload.FromString(call.body) == payload) if whole else (call.body == b"1")
    assert "bad" not in call.headers and call.headers["x"] == "1"
    canceled = m.Failure()
    canceled.canceled_failure_info.SetInParent()
    call = call_out_of(made.nexus, Completion(failure=canceled), ANYWHERE, {})
    assert call.headers["nexus-operation-state"] == "canceled"
    assert call_out_of(made.nexus, Completion(), ANYWHERE, {}).body == b""


async def test_private_addresses_are_for_those_who_say_so(listener: Listener) -> None:
    addresses = (Address(pattern="127.0.0.1"),)
    secure = callback(listener.url.replace("http:", "https:"))
    call = call_out_of(secure.nexus, Completion(), addresses, {})
    plain = call._replace(url=listener.url)
    failure, again = await post(plain)
    assert "private address" in failure and not again and not listener.heard
