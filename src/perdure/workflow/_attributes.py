"""Search attributes as workflow code writes and reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perdure.common import SearchAttributeUpdate, TypedSearchAttributes
from perdure.converter.attributes import (
    attribute_payload,
    decode_search_attributes,
    encode_search_attributes,
)
from perdure.replay import context

__all__ = ["search_attributes", "upsert_search_attributes"]


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
        update.key.name: attribute_payload(runtime.converter, update.key.metadata_type, update.value)
        for update in attributes
    }
    runtime.upsert_search_attributes(fields, [update.key.name for update in attributes if update.value is None])


def search_attributes() -> TypedSearchAttributes:
    """The search attributes this workflow has now."""
    runtime = context.must_be()
    return decode_search_attributes(runtime.converter, runtime.raw_search_attributes())
