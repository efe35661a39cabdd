"""Memo and search attributes: given at the start, changed by the workflow, shown by describe and list."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import perdure
from perdure import workflow
from perdure.client.errors import InvalidRequestError
from perdure.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from perdure.exceptions import DefinitionError

CUSTOMER = SearchAttributeKey.for_keyword("Customer")
DUE = SearchAttributeKey.for_datetime("Due")
BILLS = SearchAttributeKey.for_int("Bills")
TAGS = SearchAttributeKey.for_keyword_list("Tags")
NOTE = SearchAttributeKey.for_text("Note")
KEYS = [CUSTOMER, DUE, BILLS, TAGS, NOTE]
DAY = datetime(2026, 1, 1, tzinfo=UTC)


@workflow.defn
async def billed() -> tuple[str, int, int]:
    customer = workflow.search_attributes()[CUSTOMER]
    workflow.upsert_search_attributes([BILLS.value_set(4), CUSTOMER.value_unset()])
    workflow.upsert_memo({"colour": "red", "old": None})
    await workflow.sleep(0.001)
    return customer, workflow.search_attributes()[BILLS], len(workflow.memo())


async def test_from_the_start_to_the_list() -> None:
    async with perdure.open("memory:", workflows=[billed], activities=[], search_attributes=KEYS) as app:
        handle = await app.start(
            billed,
            memo={"number": 1, "old": 2},
            search_attributes=TypedSearchAttributes(
                [SearchAttributePair(CUSTOMER, "c-1"), SearchAttributePair(DUE, DAY)]
            ),
        )
        assert await handle.result() == ("c-1", 4, 2)
        described = await handle.describe()
        (listed,) = [found async for found in app.client.list_workflows("Bills = 4 AND Due > '2025-12-31T00:00:00Z'")]
        for found in (described, listed):
            attributes = found.typed_search_attributes
            assert attributes[BILLS] == 4
            assert attributes[DUE] == DAY
            assert CUSTOMER not in attributes
            assert await found.memo() == {"number": 1, "colour": "red"}
            assert await found.memo_value("number", type_hint=int) == 1


async def test_lists_of_values_by_name() -> None:
    async with perdure.open("memory:", workflows=[billed], activities=[], search_attributes=KEYS) as app:
        handle = await app.start(billed, search_attributes={"Customer": ["c-2"], "Tags": ["a", "b"], "Due": [DAY]})
        await handle.result()
        attributes = (await handle.describe()).typed_search_attributes
        assert attributes[TAGS] == ["a", "b"]
        assert attributes[DUE] == DAY
        with pytest.raises(DefinitionError, match="search attribute 'Customer': give a list of values"):
            await app.start(billed, search_attributes={"Customer": "c-2"})


async def test_attributes_are_registered_before_they_are_used() -> None:
    async with perdure.open("memory:", workflows=[billed], activities=[]) as app:
        with pytest.raises(InvalidRequestError, match="no mapping defined for search attribute Customer"):
            await app.start(billed, search_attributes={"Customer": ["c-2"]})
        with pytest.raises(InvalidRequestError, match="position 1: invalid search attribute: Customer"):
            await app.client.count_workflows("Customer = 'c-2'")
        await app.client.add_search_attributes(*KEYS)
        await app.client.add_search_attributes(CUSTOMER)
        with pytest.raises(InvalidRequestError, match="already exists"):
            await app.client.add_search_attributes(SearchAttributeKey.for_int("Customer"))
        handle = await app.start(billed, search_attributes={"Customer": ["c-2"]})
        await handle.result()
        assert (await app.client.count_workflows("Bills = 4")).count == 1


async def test_texts_are_found_by_their_words() -> None:
    async with perdure.open("memory:", workflows=[billed], activities=[], search_attributes=KEYS) as app:
        pairs = [SearchAttributePair(CUSTOMER, "c"), SearchAttributePair(NOTE, "Blue, and late!")]
        await (await app.start(billed, search_attributes=TypedSearchAttributes(pairs))).result()
        for query, count in (
            ("Note = 'late'", 1),
            ("Note = 'lat'", 0),
            ("Note = 'green BLUE'", 1),
            ("Note != 'red'", 1),
        ):
            assert (await app.client.count_workflows(query)).count == count, query
