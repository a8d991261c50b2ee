"""Search over tools."""

import dataclasses
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.base import ToolSummary
from gateway.providers.function import function_tool
from gateway.tools.model import ToolId
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch
from gateway.tools.words import summary, words

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
def test_words_find_tools_by_every_part_of_them(search: ToolSearch, query: str, first: str) -> None:
    found = search.search(query)
    assert found[0].id == first
    assert all(hit.score > 0 for hit in found)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


def test_a_name_counts_more_than_a_description(search: ToolSearch) -> None:
    found = ids(search.search("file"))
    assert set(found[:2]) == {"files:create_file", "files:readFile"}
    assert found[2:] == ["weather"]


def test_any_of_the_words_is_enough(search: ToolSearch) -> None:
    assert set(ids(search.search("weather listens"))) == {"weather", "HTTPServer2"}


@pytest.mark.parametrize("query", ["", "   ", "!!! ***", '""', "()"])
def test_a_query_without_words_lists_by_id(search: ToolSearch, query: str) -> None:
    assert ids(search.search(query)) == sorted(TOOLS)
    assert len(search.search(query, 2)) == 2


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
def test_query_syntax_is_only_words(search: ToolSearch, query: str) -> None:
    assert ("weather" in ids(search.search(query))) == ("weather" in query)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(query=st.text(max_size=500))
def test_no_text_breaks_the_search(search: ToolSearch, query: str) -> None:
    for hit in search.search(query):
        assert hit.score > 0


def test_a_query_is_cut(search: ToolSearch) -> None:
    assert ids(search.search("weather " + "x" * 1_000_000)) == ["weather"]
    assert search.search("y" * 400 + " weather") == ()


def test_what_is_not_permitted_is_not_found_and_takes_no_place(search: ToolSearch) -> None:
    permitted = {"files:readFile", "weather"}
    assert set(ids(search.search("file", 2, permitted.__contains__))) == permitted
    assert ids(search.search("", 10, permitted.__contains__)) == sorted(permitted)


def test_the_index_follows_the_registry() -> None:
    tools = registry()
    search = ToolSearch(tools)
    assert ids(search.search("weather")) == ["weather"]
    tools.unregister("weather")
    assert search.search("weather") == ()
    tools.register(dataclasses.replace(function_tool(nothing), id=ToolId("weatherReport")))
    assert ids(search.search("weather")) == ["weatherReport"]
    search.close()
    search.close()


def test_another_thread_may_search() -> None:
    search = ToolSearch(registry())
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(ids(search.search("weather"))))
    thread.start()
    thread.join()
    assert found == ["weather"]


def test_words_split_at_every_border() -> None:
    assert words("get_user-byID.v2 HTTPServer2x café ÉCOLE") == (
        ["get", "user", "by", "id", "v", "2", "http", "server", "2", "x", "café", "école"]
    )


def test_a_summary_is_the_first_paragraph_cut_at_a_word() -> None:
    assert summary("One\ntwo.\n\nThree.") == "One two."
    cut = summary("word " * 100)
    assert len(cut) <= 201
    assert cut.endswith("word…")
    assert len(summary("x" * 1000)) <= 201
