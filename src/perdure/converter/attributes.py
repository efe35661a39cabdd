"""Search attributes as payloads: values that the service indexes, each with the name of its type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from perdure.api import messages as m
from perdure.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from perdure.exceptions import DefinitionError
from perdure.replay.ports import PayloadConverter

__all__ = ["SearchAttributes", "attribute_payload", "decode_search_attributes", "encode_search_attributes"]

SearchAttributes: TypeAlias = TypedSearchAttributes | Mapping[str, Sequence[Any]]


def attribute_payload(converter: PayloadConverter, metadata_type: str, value: Any) -> m.Payload:
    """One value with the name of its type.

    Raises:
        ConversionError: it does not convert.
    """
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
    """Search attributes as payloads, each with its type.

    Raises:
        ConversionError: a value does not convert.
        DefinitionError: an untyped one is not a list of values.
    """
    if isinstance(attributes, TypedSearchAttributes):
        pairs = [(pair.key, pair.value) for pair in attributes]
    else:
        pairs = [
            (key, list(values) if key.metadata_type == "KeywordList" else values[0])
            for key, values in ((_guess(name, values), values) for name, values in attributes.items())
        ]
    return {key.name: attribute_payload(converter, key.metadata_type, value) for key, value in pairs}


def decode_search_attributes(converter: PayloadConverter, payloads: Mapping[str, m.Payload]) -> TypedSearchAttributes:
    """The search attributes that payloads hold."""
    pairs: list[SearchAttributePair[Any]] = []
    for name, payload in payloads.items():
        key = SearchAttributeKey[Any](name, payload.metadata["type"].decode() or "Keyword")
        value = converter.from_payload(payload)
        if key.metadata_type == "Datetime":
            value = datetime.fromisoformat(value)
        pairs.append(SearchAttributePair(key, value))
    return TypedSearchAttributes(pairs)
