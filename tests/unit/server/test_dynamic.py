"""Dynamic configuration by Temporal's keys."""

from __future__ import annotations

import pytest

from perdure.engine import EngineConfig
from perdure.engine.config import Address
from perdure.server.dynamic import KNOWN_KEYS, SettingError, configure


def test_bounds_of_runs_are_set() -> None:
    limits = configure(["limit.blobSize.error=100", "limit.historyCount.suggestContinueAsNew=50"]).config.limits
    assert (limits.blob_bytes, limits.history_events_suggest) == (100, 50)
    assert limits.memo_bytes == EngineConfig().limits.memo_bytes


def test_keys_are_understood_in_any_case_and_the_last_counts() -> None:
    config = configure(["LIMIT.maxidlength=10", "limit.maxIDLength=20"]).config
    assert config.limits.id_length == 20


@pytest.mark.parametrize(
    ("text", "ms"), [("10s", 10_000), ('"1m30s"', 90_000), ("500ms", 500), ("1h", 3_600_000), ("1.5s", 1_500)]
)
def test_spans_are_written_as_go_does(text: str, ms: int) -> None:
    assert configure([f"matching.stickyPollerUnavailableWindow={text}"]).config.sticky_alive_ms == ms
    assert configure([f"matching.longPollExpirationInterval={text}"]).config.poll_timeout_s == ms / 1000


def test_where_callbacks_may_go() -> None:
    text = '[{"Pattern": "*.example.com"}, {"pattern": "*", "allowInsecure": true}]'
    found = configure([f"component.callbacks.allowedAddresses={text}"]).config.callback_addresses
    assert found == (Address(pattern="*.example.com"), Address(pattern="*", allow_insecure=True))


def test_other_keys_are_named() -> None:
    configured = configure(["frontend.enableUpdateWorkflowExecution=true", "limit.blobSize.warn=1"])
    assert configured.ignored == ("frontend.enableUpdateWorkflowExecution", "limit.blobSize.warn")
    assert configured.config == EngineConfig(limits=configured.config.limits)


@pytest.mark.parametrize(
    "pair",
    [
        "limit.blobSize.error",
        "limit.blobSize.error=",
        "limit.blobSize.error=-1",
        "limit.blobSize.error=true",
        "limit.blobSize.error=1.5",
        "limit.blobSize.error=99999999999999999999",
        f"limit.blobSize.error={'[' * 100_000}",
        "matching.longPollExpirationInterval=10",
        "matching.longPollExpirationInterval=soon",
        "component.callbacks.allowedAddresses=*",
        'component.callbacks.allowedAddresses=["*"]',
        'component.callbacks.allowedAddresses=[{"AllowInsecure": true}]',
    ],
)
def test_a_value_that_can_not_be_is_refused(pair: str) -> None:
    with pytest.raises(SettingError, match=pair.partition("=")[0]):
        configure([pair])


def test_every_known_key_has_a_setting() -> None:
    config = EngineConfig()
    for name in KNOWN_KEYS.values():
        assert hasattr(config, name) or hasattr(config.limits, name)
