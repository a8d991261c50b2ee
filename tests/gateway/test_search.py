"""Search over tools."""

import dataclasses
import functools
import threading

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.base import ToolSummary
from gateway.context import Caller
from gateway.errors import InvalidCursor, InvalidInput, InvalidRequest
from gateway.grant import Grant
from gateway.providers.function import function_tool
from gateway.tools.access import permits
from gateway.tools.model import ToolId
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch
from gateway.tools.words import cut, is_argument, summary, words

TOOLS = {
    "files:create_file": ("Write a new text to disk.", ("write",)),
    "files:readFile": ("Get the text of a document.", ("read",)),
    "crm:lookupCustomer": ("Find a person by id.", ("read", "people")),
    "crm:delete-customer": ("Remove a person for good.", ("write",)),
    "weather": ("Forecast for a place. Unlike a file, it changes.", ()),
    "HTTPServer2": ("Listens.", ()),
}


def nothing() -> None: ...


def registry() -> ToolRegistry:
    made = function_tool(nothing)
    return ToolRegistry(
        dataclasses.replace(made, id=ToolId.parse(tool_id), description=text, tags=tags)
        for tool_id, (text, tags) in TOOLS.items()
    )


def ids(found: tuple[ToolSummary, ...]) -> list[str]:
    return [hit.id for hit in found]


@pytest.fixture(scope="module")
def search() -> ToolSearch:
    return ToolSearch(registry())


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("create", "files:create_file"),
        ("file creation create", "files:create_file"),
        ("read file", "files:readFile"),
        ("customer delete", "crm:delete-customer"),
        ("LOOKUP", "crm:lookupCustomer"),
        ("forecasts", "weather"),
        ("forec", "weather"),
        ("http server", "HTTPServer2"),
        ("people", "crm:lookupCustomer"),
    ],
)
async def test_words_find_tools_by_every_part_of_them(search: ToolSearch, query: str, first: str) -> None:
    found = await search.find(query)
    assert found[0].id == first
    assert all(hit.score > 0 for hit in found)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


async def test_a_name_counts_more_than_a_description(search: ToolSearch) -> None:
    found = ids(await search.find("file"))
    assert set(found[:2]) == {"files:create_file", "files:readFile"}
    assert found[2:] == ["weather"]


async def test_a_title_counts_more_than_a_description_and_less_than_a_name() -> None:
    made = function_tool(nothing)
    tools = [
        dataclasses.replace(made, id=ToolId("a"), description="Sends an invoice."),
        dataclasses.replace(made, id=ToolId("b"), title="Send an invoice"),
        dataclasses.replace(made, id=ToolId("invoice")),
        dataclasses.replace(made, id=ToolId("d"), title="Other"),
    ]
    assert ids(await ToolSearch(ToolRegistry(tools)).find("invoices")) == ["invoice", "b", "a"]


async def test_what_fits_alike_is_listed_by_id() -> None:
    made = function_tool(nothing)
    tools = [dataclasses.replace(made, id=ToolId("find", f"n{number}"), tags=("x",)) for number in range(9, 0, -1)]
    found = await ToolSearch(ToolRegistry(tools)).find("find")
    assert len({hit.score for hit in found}) == 1
    assert ids(found) == [f"n{number}:find" for number in range(1, 10)]


async def test_any_of_the_words_is_enough(search: ToolSearch) -> None:
    assert set(ids(await search.find("weather listens"))) == {"weather", "HTTPServer2"}


@pytest.mark.parametrize("query", ["", "   ", "!!! ***", '""', "()"])
async def test_a_query_without_words_lists_by_id(search: ToolSearch, query: str) -> None:
    assert ids(await search.find(query)) == sorted(TOOLS)
    assert len(await search.find(query, 2)) == 2


@pytest.mark.parametrize(
    "query",
    [
        "weather AND listens",
        "weather NOT weather",
        "NEAR(weather place)",
        "name:weather",
        "{name} : weather",
        "^weather",
        '"weather',
        "weather*",
        "weather OR",
        "-weather",
        "(weather",
        "weather'); DROP TABLE tools; --",
        "name MATCH x",
    ],
)
async def test_query_syntax_is_only_words(search: ToolSearch, query: str) -> None:
    assert ("weather" in ids(await search.find(query))) == ("weather" in query)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(query=st.text(max_size=500))
async def test_no_text_breaks_the_search(search: ToolSearch, query: str) -> None:
    for hit in await search.find(query):
        assert hit.score > 0


async def test_a_query_is_cut(search: ToolSearch) -> None:
    assert ids(await search.find("weather " + "x" * 1_000_000)) == ["weather"]
    assert await search.find("y" * 400 + " weather") == ()


async def test_what_is_not_permitted_is_not_found_and_takes_no_place(search: ToolSearch) -> None:
    permitted = {"files:readFile", "weather"}
    assert set(ids(await search.find("file", 2, permits=lambda tool: tool.id in permitted))) == permitted
    assert ids(await search.find("", permits=lambda tool: tool.id in permitted)) == sorted(permitted)


async def test_a_caller_finds_the_tools_of_its_role() -> None:
    tools = registry()
    tools.register(
        dataclasses.replace(function_tool(nothing), id=ToolId("weather_control"), roles=frozenset({"wizard"}))
    )
    search = ToolSearch(tools)
    for role, expected in (("", {"weather"}), ("Wizard", {"weather", "weather_control"})):
        grant = Grant(caller=Caller(role=role))
        found = await search.find("weather", permits=functools.partial(permits, grant))
        assert set(ids(found)) == expected


@pytest.mark.parametrize("query", ["", "file customer weather"])
async def test_filters_by_namespace_and_tags(search: ToolSearch, query: str) -> None:
    assert set(ids(await search.find(query, namespace="crm"))) == {"crm:lookupCustomer", "crm:delete-customer"}
    assert "weather" in ids(await search.find(query, namespace=""))
    assert "files:readFile" not in ids(await search.find(query, namespace=""))
    assert await search.find(query, namespace="nowhere") == ()
    assert set(ids(await search.find(query, tags=["Read"]))) == {"files:readFile", "crm:lookupCustomer"}
    assert ids(await search.find(query, tags=["read", "people"])) == ["crm:lookupCustomer"]
    assert ids(await search.find(query, 1, namespace="files", tags=["read"])) == ["files:readFile"]


@pytest.mark.parametrize("query", ["", "file customer weather text"])
@pytest.mark.parametrize("limit", [1, 2, 5, 100])
async def test_pages_give_every_hit_once_in_the_order_of_one_page(search: ToolSearch, query: str, limit: int) -> None:
    whole = await search.find(query, 100)
    assert len(whole) >= 5
    hits: list[ToolSummary] = []
    cursor = None
    while cursor is not None or not hits:
        page = await search.page(query, limit, cursor)
        assert len(page.items) <= limit
        hits += page.items
        cursor = page.cursor
    assert tuple(hits) == whole


async def test_a_page_goes_on_where_it_was_though_tools_come_and_go() -> None:
    tools = registry()
    search = ToolSearch(tools)
    order = ids(await search.find("file"))
    first = await search.page("file", 1)

    async def rest() -> list[str]:
        return [tool_id for tool_id in ids((await search.page("file", 10, first.cursor)).items) if tool_id in order]

    tools.register(dataclasses.replace(function_tool(nothing), id=ToolId("new_file")))
    assert await rest() == order[1:]
    tools.unregister("new_file")
    tools.unregister(order[0])
    assert await rest() == order[1:]
    tools.unregister(order[1])
    assert set(await rest()) <= set(order[2:])


async def test_a_cursor_of_another_search_is_refused(search: ToolSearch) -> None:
    cursor = (await search.page("file", 1)).cursor
    assert cursor is not None
    listed = registry().page(1).cursor
    for query, filters, given_cursor in [
        ("files", {}, cursor),
        ("file", {"namespace": "files"}, cursor),
        ("file", {"tags": ["read"]}, cursor),
        ("file", {}, cursor[:-4] + "AAAA"),
        ("file", {}, "nonsense"),
        ("", {}, listed),
    ]:
        with pytest.raises(InvalidCursor):
            await search.page(query, 1, given_cursor, **filters)  # type: ignore[arg-type]  # of mixed types


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_below_1_is_refused(search: ToolSearch, limit: int) -> None:
    with pytest.raises(InvalidInput, match="limit must be at least 1"):
        await search.find("file", limit)


async def test_the_index_follows_the_registry() -> None:
    tools = registry()
    search = ToolSearch(tools)
    assert ids(await search.find("weather")) == ["weather"]
    tools.unregister("weather")
    assert await search.find("weather") == ()
    tools.register(dataclasses.replace(function_tool(nothing), id=ToolId("weatherReport")))
    assert ids(await search.find("weather")) == ["weatherReport"]
    tools.disable("weatherReport")
    assert await search.find("weather") == ()
    tools.enable("weatherReport")
    assert ids(await search.find("weather")) == ["weatherReport"]
    search.close()
    search.close()


async def test_a_replaced_tool_is_found_by_its_new_words_only() -> None:
    tools = registry()
    search = ToolSearch(tools)
    made = dataclasses.replace(function_tool(nothing), id=ToolId("x", "source"))
    tools.replace_all("source", [dataclasses.replace(made, description="about ducks", tags=("pond",))])
    assert ids(await search.find("ducks pond")) == ["source:x"]
    tools.replace_all("source", [dataclasses.replace(made, description="about geese", tags=("lake",))])
    assert await search.find("ducks pond") == ()
    assert ids(await search.find("geese")) == ["source:x"]
    assert ids(await search.find("lake")) == ["source:x"]


async def test_scores_are_those_of_an_index_made_at_once() -> None:
    tools = registry()
    search = ToolSearch(tools)
    for number in range(20):
        tools.register(dataclasses.replace(function_tool(nothing), id=ToolId(f"file_{number}", "more")))
        await search.find("file")
    for number in range(0, 20, 2):
        tools.unregister(f"more:file_{number}")
    assert await search.find("file read 3", 100) == await ToolSearch(tools).find("file read 3", 100)


def test_another_thread_may_search() -> None:
    search = ToolSearch(registry())
    found: list[str] = []

    async def look() -> None:
        found.extend(ids(await search.find("weather")))

    thread = threading.Thread(target=anyio.run, args=(look,))
    thread.start()
    thread.join()
    assert found == ["weather"]


async def test_common_words_count_only_when_there_are_no_others(search: ToolSearch) -> None:
    assert ids(await search.find("the listens of a")) == ["HTTPServer2"]
    assert "weather" in ids(await search.find("for a"))


async def test_only_so_many_words_count(search: ToolSearch) -> None:
    many = " ".join(f"w{chr(97 + number)}" for number in range(16))
    assert await search.find(f"{many} weather") == ()
    assert ids(await search.find(f"weather {many}")) == ["weather"]
    assert ids(await search.find(f"{'wa ' * 30} weather")) == ["weather"]


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_is_a_share(alpha: float) -> None:
    with pytest.raises(InvalidRequest, match="alpha must be 0"):
        ToolSearch(registry(), alpha=alpha)


def test_words_split_at_every_border() -> None:
    assert words("get_user-byID.v2 HTTPServer2x café ÉCOLE") == (
        ["get", "user", "by", "id", "v", "2", "http", "server", "2", "x", "café", "école"]
    )


def test_a_summary_is_the_first_paragraph_cut_at_a_word() -> None:
    assert summary("One\ntwo.\n\nThree.") == "One two."
    shown = summary("word " * 100)
    assert len(shown) <= 200
    assert shown.endswith("word…")
    assert len(summary("x" * 1000)) == 200


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("short", 5, "short"),
        ("longer", 5, "long…"),
        ("cafe\u0301s", 5, "caf…"),
        ("ab\U0001f468\u200d\U0001f469\u200d\U0001f467", 5, "ab…"),
        ("e" + "\u0301" * 10, 5, "…"),
        ("\U0001f600" * 6, 5, "\U0001f600" * 4 + "…"),
    ],
)
def test_a_text_is_cut_between_characters(text: str, limit: int, shown: str) -> None:
    assert cut(text, limit) == shown


@given(text=st.text(), limit=st.integers(1, 50))
def test_a_cut_text_is_not_longer_than_its_limit(text: str, limit: int) -> None:
    assert len(cut(text, limit)) <= limit
    assert len(summary(text, limit)) <= limit
    assert "\n" not in summary(text, limit)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("id", "é", "match", "_x")),
        *((name, False) for name in ("class", "a-b", "", "__x", "ﬁle", "None", "2x")),
    ],
)
def test_which_names_can_be_arguments(name: str, expected: bool) -> None:
    assert is_argument(name) is expected
