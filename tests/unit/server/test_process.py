"""What a server's process does when it is told things."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from perdure.server.process import ServerSettings, serve


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_second_signal_quits_at_once(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    quits: list[int] = []
    lines: list[str] = []
    monkeypatch.setattr("perdure.server.process.os._exit", quits.append)

    def announced(line: str) -> None:
        lines.append(line)
        os.kill(os.getpid(), number)
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)

    await serve(ServerSettings(address="127.0.0.1:0"), announced)
    assert len(lines) == 1 and quits == [130]
