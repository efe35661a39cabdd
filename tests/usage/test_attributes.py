"""Memo and search attributes: given at the start, changed by the workflow, shown by describe and list."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import perdure
from perdure import workflow
from perdure.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from perdure.exceptions import DefinitionError

CUSTOMER = SearchAttributeKey.for_keyword("Customer")
DUE = SearchAttributeKey.for_datetime("Due")
BILLS = SearchAttributeKey.for_int("Bills")
DAY = datetime(2026, 1, 1, tzinfo=UTC)


@workflow.defn
async def billed() -> tuple[str, int, int]:
    customer = workflow.search_attributes()[CUSTOMER]
    workflow.upsert_search_attributes([BILLS.value_set(4), CUSTOMER.value_unset()])
    workflow.upsert_memo({"colour": "red", "old": None})
    await workflow.sleep(0.001)
    return customer, workflow.search_attributes()[BILLS], len(workflow.memo())


async def test_from_the_start_to_the_list() -> None:
    async with perdure.open("memory:", workflows=[billed], activities=[]) as app:
        handle = await app.start(
            billed,
            memo={"number": 1, "old": 2},
            search_attributes=TypedSearchAttributes(
                [SearchAttributePair(CUSTOMER, "c-1"), SearchAttributePair(DUE, DAY)]
            ),
        )
        assert await handle.result() == ("c-1", 4, 2)
        described = await handle.describe()
        (listed,) = [found async for found in app.client.list_workflows()]
        for found in (described, listed):
            attributes = found.typed_search_attributes
            assert attributes[BILLS] == 4
            assert attributes[DUE] == DAY
            assert CUSTOMER not in attributes
            assert await found.memo() == {"number": 1, "colour": "red"}
            assert await found.memo_value("number", type_hint=int) == 1


async def test_lists_of_values_by_name() -> None:
    async with perdure.open("memory:", workflows=[billed], activities=[]) as app:
        handle = await app.start(billed, search_attributes={"Customer": ["c-2"], "Tags": ["a", "b"], "Due": [DAY]})
        await handle.result()
        attributes = (await handle.describe()).typed_search_attributes
        assert attributes[SearchAttributeKey.for_keyword_list("Tags")] == ["a", "b"]
        assert attributes[DUE] == DAY
        with pytest.raises(DefinitionError, match="search attribute 'Customer': give a list of values"):
            await app.start(billed, search_attributes={"Customer": "c-2"})
