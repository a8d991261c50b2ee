"""The order of what is found is that of BM25 with weighted fields, not of counted words."""

import dataclasses

import pytest

from gateway.providers.function import function_tool
from gateway.tools.model import ToolId
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch

pytestmark = pytest.mark.anyio


def nothing() -> None: ...


def search(**descriptions: str) -> ToolSearch:
    made = function_tool(nothing)
    return ToolSearch(
        ToolRegistry(
            dataclasses.replace(made, id=ToolId(name), description=text) for name, text in descriptions.items()
        )
    )


FILLERS = {f"filler{chr(97 + n)}": "Moves goods from one place to another place." for n in range(8)}


async def scores(found: ToolSearch, query: str) -> dict[str, float]:
    return {hit.id: hit.score for hit in await found.find(query, 100)}


async def test_a_rare_word_counts_more_than_a_common_one() -> None:
    found = search(rare="Moves a zebra.", common="Moves some goods.", **FILLERS)
    ranked = await scores(found, "zebra goods")
    assert ranked["rare"] > 2 * ranked["common"]


async def test_a_short_text_counts_more_than_a_long_one() -> None:
    found = search(long="A zebra " + "and more and more " * 20, short="A zebra.", **FILLERS)
    ranked = await scores(found, "zebra")
    assert ranked["short"] > ranked["long"]


async def test_repeating_a_word_helps_less_and_less() -> None:
    padded = {f"z{count}": "zebra " * count + "horse " * (16 - count) for count in (1, 2, 4, 16)}
    ranked = await scores(search(**padded, **FILLERS), "zebra")
    assert ranked["z1"] < ranked["z2"] < ranked["z4"] < ranked["z16"]
    assert ranked["z2"] - ranked["z1"] > ranked["z4"] - ranked["z2"]
    assert ranked["z16"] < 3 * ranked["z1"]  # counting would make it 16 times as much


async def test_two_of_the_words_count_more_than_one() -> None:
    found = search(both="A zebra and a giraffe.", one="A zebra and a horse.", **FILLERS)
    assert list(await scores(found, "zebra giraffe")) == ["both", "one"]


async def test_the_name_weighs_most_then_namespace_and_tags_then_the_description() -> None:
    made = function_tool(nothing)
    tools = [
        dataclasses.replace(made, id=ToolId("zebra", "place"), tags=("kind",), description="word"),
        dataclasses.replace(made, id=ToolId("thing", "zebra"), tags=("kind",), description="word"),
        dataclasses.replace(made, id=ToolId("tagged", "place"), tags=("zebra",), description="word"),
        dataclasses.replace(made, id=ToolId("told", "place"), tags=("kind",), description="zebra"),
        *(dataclasses.replace(made, id=ToolId(name, "place"), tags=("kind",), description="word") for name in FILLERS),
    ]
    ranked = await scores(ToolSearch(ToolRegistry(tools)), "zebra")
    assert list(ranked) == ["place:zebra", "place:tagged", "zebra:thing", "place:told"]
    assert ranked["zebra:thing"] == ranked["place:tagged"]
