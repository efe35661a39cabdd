"""Spans and instants of the API that can not be."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from perdure.api.durations import LATEST_MS, LONGEST_MS, duration_ms, timestamp_ms


@pytest.mark.parametrize(
    ("span", "ms"),
    [
        (Duration(), 0),
        (Duration(nanos=1), 1),
        (Duration(seconds=5, nanos=999_000_001), 6000),
        (Duration(seconds=-5), -5000),
        (Duration(seconds=LONGEST_MS // 1000), LONGEST_MS),
        (Duration(seconds=LONGEST_MS // 1000 + 1), LONGEST_MS),
        (Duration(seconds=2**62), LONGEST_MS),
        (Duration(seconds=-(2**63)), -LONGEST_MS),
    ],
)
def test_a_span_is_rounded_up_and_bounded(span: Duration, ms: int) -> None:
    assert duration_ms(span) == ms


@pytest.mark.parametrize(
    ("instant", "ms"),
    [
        (Timestamp(), 0),
        (Timestamp(seconds=1, nanos=1_999_999), 1001),
        (Timestamp(seconds=2**62), LATEST_MS),
        (Timestamp(seconds=-(2**62)), -LATEST_MS),
    ],
)
def test_an_instant_is_bounded(instant: Timestamp, ms: int) -> None:
    assert timestamp_ms(instant) == ms
