"""Frames: cut from any stream of bytes, and refused when they are not what they should be."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.transport import frames
from perdure.transport.frames import Call, Frame, FrameError, FrameReader, Kind

FRAMES = st.lists(
    st.builds(Frame, st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=300)), max_size=20
)


@given(FRAMES, st.lists(st.integers(1, 400), max_size=60))
def test_any_cut_of_the_stream_gives_the_same_frames(sent: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(pack(">IIB", len(each.content), each.call, each.kind) + each.content for each in sent)
    reader = FrameReader()
    received: list[Frame] = []
    for size in cuts:
        received += reader.feed(stream[:size])
        stream = stream[size:]
    received += reader.feed(stream)
    assert received == sent


@given(st.integers(0, 2**32 - 1), st.text("abcXYZ", min_size=1, max_size=60), st.binary(), st.floats(0.001, 1e6))
def test_calls(number: int, method: str, request: bytes, timeout_s: float) -> None:
    (received,) = FrameReader().feed(frames.call(number, method.encode(), request, timeout_s))
    assert received[:2] == (Kind.CALL, number)
    call = Call.of(received.content)
    assert (call.method, call.request) == (method, request)
    assert call.timeout_s == pytest.approx(timeout_s, abs=0.001)


def test_a_call_that_may_take_as_long_as_it_takes() -> None:
    (received,) = FrameReader().feed(frames.call(1, b"X", b"", None))
    assert Call.of(received.content).timeout_s is None


def test_greetings() -> None:
    (received,) = FrameReader().feed(frames.greeting(pid=7))
    assert frames.read_greeting(received) == {"version": frames.VERSION, "pid": 7}


@pytest.mark.parametrize(
    ("received", "said"),
    [
        (Frame(Kind.CALL, 1, b""), "does not greet"),
        (Frame(Kind.GREETING, 0, b"\xff"), "cannot be read"),
        (Frame(Kind.GREETING, 0, b"[]"), "cannot be read"),
        (Frame(Kind.GREETING, 0, b'{"version": 2}'), "another version"),
    ],
)
def test_greetings_that_are_none(received: Frame, said: str) -> None:
    with pytest.raises(FrameError, match=said):
        frames.read_greeting(received)


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b"\0\0\0\0\x05abc", b"\0\0\0\0\x02\xff\xff"])
def test_calls_that_are_none(content: bytes) -> None:
    with pytest.raises(FrameError):
        Call.of(content)


def test_a_frame_that_is_too_long_is_not_waited_for() -> None:
    with pytest.raises(FrameError, match="longer than"):
        FrameReader().feed(pack(">IIB", frames.MAX_CONTENT_BYTES + 1, 1, Kind.CALL))


def test_a_long_frame_in_small_pieces_costs_no_more_than_its_length() -> None:
    content = bytes(1_000_000)
    stream = frames.frame(Kind.ANSWER, 1, content)
    reader = FrameReader()
    received: list[Frame] = []
    for at in range(0, len(stream), 1000):
        received += reader.feed(stream[at : at + 1000])
        assert len(reader._parts) <= 1002
    assert received == [Frame(Kind.ANSWER, 1, content)]
