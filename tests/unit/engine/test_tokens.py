"""Tokens: they say what they were made of, to the namespace they were made for, and nothing else opens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api import RpcError
from perdure.engine.ids import RandomIds, SeededIds
from perdure.engine.tokens import ActivityToken, HistoryToken, ListToken, TaskToken, Tokens

TOKENS = Tokens(b"k" * 32)
number = st.integers(0, 2**63)
name = st.text(min_size=1, max_size=20)


@given(namespace=name, key=number, count=number, attempt=st.integers(1, 2**31))
def test_what_is_sealed_is_what_is_opened(namespace: str, key: int, count: int, attempt: int) -> None:
    assert TOKENS.open_task(namespace, TOKENS.workflow_task(namespace, key, count)) == TaskToken(False, key, count)
    assert TOKENS.open_task(namespace, TOKENS.query(namespace, key, count)) == TaskToken(True, key, count)
    sealed = TOKENS.activity(namespace, key, count, attempt)
    assert TOKENS.open_activity(namespace, sealed) == ActivityToken(key, count, attempt)
    for reverse in (False, True):
        token = HistoryToken(key, count, 7, True, 9)
        assert (
            TOKENS.open_history(namespace, TOKENS.history(namespace, token, reverse=reverse), reverse=reverse) == token
        )
    page = ListToken((-5, None, namespace, key), b"12345678")
    assert TOKENS.open_list_page(namespace, TOKENS.list_page(namespace, page)) == page
    assert TOKENS.open_names_page(TOKENS.names_page(namespace)) == namespace


OPENERS: list[Callable[[str, bytes], object]] = [
    TOKENS.open_task,
    TOKENS.open_activity,
    TOKENS.open_history,
    lambda namespace, token: TOKENS.open_history(namespace, token, reverse=True),
    TOKENS.open_list_page,
    lambda _namespace, token: TOKENS.open_names_page(token),
]


@given(junk=st.binary(max_size=80))
@pytest.mark.parametrize("opener", OPENERS)
def test_junk_opens_nothing(opener: Callable[[str, bytes], object], junk: bytes) -> None:
    with pytest.raises(RpcError):
        opener("default", junk)


@given(at=st.integers(0, 32), bit=st.integers(0, 7))
def test_one_changed_bit_is_noticed(at: int, bit: int) -> None:
    token = bytearray(TOKENS.workflow_task("default", 1, 2))
    token[at] ^= 1 << bit
    with pytest.raises(RpcError):
        TOKENS.open_task("default", bytes(token))


@given(mine=name, other=name)
def test_another_namespace_does_not_open_it(mine: str, other: str) -> None:
    token = TOKENS.activity(mine, 1, 2, 3)
    if mine != other:
        with pytest.raises(RpcError):
            TOKENS.open_activity(other, token)


def test_each_kind_opens_its_own_only() -> None:
    sealed = [
        TOKENS.workflow_task("default", 1, 2),
        TOKENS.activity("default", 1, 2, 3),
        TOKENS.history("default", HistoryToken(1, 2)),
        TOKENS.history("default", HistoryToken(1, 2), reverse=True),
        TOKENS.list_page("default", ListToken((1, 2), b"12345678")),
    ]
    for index, token in enumerate(sealed):
        for other, opener in enumerate(OPENERS[:5]):
            if index == other:
                opener("default", token)
            else:
                with pytest.raises(RpcError):
                    opener("default", token)


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(RpcError):
        Tokens(b"x" * 32).open_task("default", TOKENS.workflow_task("default", 1, 2))


def test_ids() -> None:
    ids = RandomIds()
    made = [ids.new_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(len(each) == 36 and each[14] == "4" and each[19] in "89ab" for each in made)
    assert len(ids.new_bytes(10_000)) == 10_000
    assert [SeededIds(7).new_id() for _ in range(2)] == [SeededIds(7).new_id() for _ in range(2)]
    assert SeededIds(7).new_id() != SeededIds(8).new_id()
