"""Search attributes as workflow code writes and reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from perdure.api import messages as m
from perdure.common import SearchAttributeKey, SearchAttributePair, SearchAttributeUpdate, TypedSearchAttributes
from perdure.exceptions import DefinitionError
from perdure.replay import context
from perdure.replay.ports import PayloadConverter

__all__ = ["SearchAttributes", "encode_search_attributes", "search_attributes", "upsert_search_attributes"]

SearchAttributes: TypeAlias = TypedSearchAttributes | Mapping[str, Sequence[Any]]


def _payload(converter: PayloadConverter, metadata_type: str, value: Any) -> m.Payload:
    payload = m.Payload()
    payload.CopyFrom(converter.to_payload(value.isoformat() if isinstance(value, datetime) else value))
    payload.metadata["type"] = metadata_type.encode()
    return payload


def _guess(name: str, values: Sequence[Any]) -> SearchAttributeKey[Any]:
    if isinstance(values, str) or not values:
        raise DefinitionError(f"search attribute {name!r}: give a list of values, or use SearchAttributeKey")
    first = values[0]
    if len(values) > 1:
        return SearchAttributeKey.for_keyword_list(name)
    for kind, make in (
        (bool, SearchAttributeKey.for_bool),
        (int, SearchAttributeKey.for_int),
        (float, SearchAttributeKey.for_float),
        (datetime, SearchAttributeKey.for_datetime),
    ):
        if isinstance(first, kind):
            return make(name)
    return SearchAttributeKey.for_keyword(name)


def encode_search_attributes(converter: PayloadConverter, attributes: SearchAttributes) -> dict[str, m.Payload]:
    """Search attributes as payloads, each with its type."""
    if isinstance(attributes, TypedSearchAttributes):
        pairs = [(pair.key, pair.value) for pair in attributes]
    else:
        pairs = [
            (key, list(values) if key.metadata_type == "KeywordList" else values[0])
            for key, values in ((_guess(name, values), values) for name, values in attributes.items())
        ]
    return {key.name: _payload(converter, key.metadata_type, value) for key, value in pairs}


def upsert_search_attributes(
    attributes: Sequence[SearchAttributeUpdate[Any]] | Mapping[str, Sequence[Any]],
) -> None:
    """Change the values this workflow can be found by.

        workflow.upsert_search_attributes([CUSTOMER.value_set("c-17"), STATE.value_unset()])

    Args:
        attributes: updates made with `SearchAttributeKey.value_set` and `value_unset`; or lists of values by name.
    """
    runtime = context.must_be()
    if isinstance(attributes, Mapping):
        runtime.upsert_search_attributes(encode_search_attributes(runtime.converter, attributes), ())
        return
    fields = {
        update.key.name: _payload(runtime.converter, update.key.metadata_type, update.value) for update in attributes
    }
    runtime.upsert_search_attributes(fields, [update.key.name for update in attributes if update.value is None])


def search_attributes() -> TypedSearchAttributes:
    """The search attributes this workflow has now."""
    runtime = context.must_be()
    pairs: list[SearchAttributePair[Any]] = []
    for name, payload in runtime.raw_search_attributes().items():
        key = SearchAttributeKey[Any](name, payload.metadata["type"].decode() or "Keyword")
        value = runtime.converter.from_payload(payload)
        pairs.append(
            SearchAttributePair(key, datetime.fromisoformat(value) if key.metadata_type == "Datetime" else value)
        )
    return TypedSearchAttributes(pairs)
