"""API keys: made, kept as hashes, recognised."""

from __future__ import annotations

from hashlib import sha256

import pytest

from perdure.api import RpcError, StatusCode
from perdure.engine.ids import SeededIds
from perdure.server.keys import ApiKey, ApiKeys, KeyFileError, Role, make_key


def made(seed: int = 1, **options: object) -> tuple[str, ApiKey]:
    return make_key(SeededIds(seed), **({"role": Role.WRITER, "namespaces": ["*"]} | options))  # type: ignore[arg-type]


def test_a_key_is_found_by_its_header() -> None:
    text, key = made()
    assert ApiKeys([key]).find(f"Bearer {text}") is key
    assert ApiKeys([key]).find(f"bearer {text}") is key


def test_what_is_kept_tells_no_key() -> None:
    text, key = made(name="Ada")
    assert key.digest == sha256(text.encode()).digest()
    assert text not in key.line() and text.rpartition("_")[2] not in key.line()


def test_the_file_holds_what_was_made() -> None:
    keys = [made(seed, role=role, namespaces=["a", "b"], name="Ada L")[1] for seed, role in enumerate(Role)]
    text = "# keys\n\n" + "".join(f"{key.line()}\n" for key in keys)
    parsed = ApiKeys.parse(text, "keys")
    assert [parsed._by_id[key.id] for key in keys] == keys


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text,
        lambda text: f"Basic {text}",
        lambda text: "Bearer ",
        lambda text: f"Bearer {text[:-1]}",
        lambda text: f"Bearer {text}x",
        lambda text: f"Bearer {text[:-1]}\N{SNOWMAN}",
        lambda text: "Bearer perdure_000000_abc",
        lambda text: f"Bearer {text.replace('perdure', 'other')}",
    ],
)
def test_anything_else_is_unauthenticated(change: object) -> None:
    text, key = made()
    with pytest.raises(RpcError) as refused:
        ApiKeys([key]).find(change(text))  # type: ignore[operator]
    assert refused.value.code is StatusCode.UNAUTHENTICATED


def test_another_keys_secret_does_not_open() -> None:
    (first, _), (second, key) = made(1), made(2)
    forged = f"perdure_{key.id}_{first.rpartition('_')[2]}"
    with pytest.raises(RpcError):
        ApiKeys([key, made(1)[1]]).find(f"Bearer {forged}")
    assert ApiKeys([key]).find(f"Bearer {second}") is key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ("# only a comment\n", "holds no key"),
        ("nonsense\n", "line 1"),
        (made()[1].line().replace("writer", "owner"), "line 1"),
        (made()[1].line().replace("sha256:", "md5:"), "line 1"),
        (f"{made()[1].line()}\n{made()[1].line()}\n", "line 2: the key .* twice"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(KeyFileError, match=said):
        ApiKeys.parse(text, "keys.txt")
