"""Tools registered, resolved and removed."""

import dataclasses
import gc
import logging
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidCursor, InvalidInput, InvalidRequest, InvalidToolId, ToolNotFound
from gateway.providers.function import function_tool
from gateway.tools.changes import Change
from gateway.tools.docs import describe
from gateway.tools.export import mcp_tool
from gateway.tools.model import Tool, ToolId
from gateway.tools.registry import RegisteredTool, ToolRegistry


def answer() -> int:
    """The answer."""
    return 42


MADE = function_tool(answer)


def tool(text: str, **more: Any) -> Tool:
    return dataclasses.replace(MADE, id=ToolId.parse(text), **more)


def registry(*ids: str) -> ToolRegistry:
    return ToolRegistry(tool(text) for text in ids)


def test_the_newest_version_answers_to_the_short_id() -> None:
    tools = registry("crm:lookup:1.9.0", "crm:lookup:1.10.0", "crm:lookup:1.10.0-rc.1", "crm:lookup:old")
    assert tools.resolve("crm:lookup").id == "crm:lookup:1.10.0"
    assert tools.resolve("crm:lookup:1.9.0").id == "crm:lookup:1.9.0"
    assert tools.resolve("crm:lookup:1.10.0").address == "crm:lookup"
    tools.unregister("crm:lookup")
    assert tools.resolve("crm:lookup").id == "crm:lookup:1.10.0-rc.1"
    tools.register(tool("crm:lookup"))
    assert tools.resolve("crm:lookup").id == "crm:lookup"
    for _ in range(4):
        tools.unregister("crm:lookup")
    with pytest.raises(ToolNotFound):
        tools.resolve("crm:lookup")
    assert (len(tools), tools.namespaces()) == (0, ())


def test_a_taken_id_is_refused() -> None:
    tools = registry("crm:lookup")
    with pytest.raises(InvalidRequest, match="registered already"):
        tools.register(tool("crm:lookup"))


def test_registering_many_is_all_or_nothing() -> None:
    tools = registry("crm:lookup")
    version = tools.version
    for bad in ("crm:lookup", "crm:new", "crm", "x:run_tool"):
        with pytest.raises((InvalidRequest, InvalidToolId)):
            tools.register_all([tool("crm:new"), tool(bad)])
        assert [found.id for found in tools.tools()] == ["crm:lookup"]
        assert tools.version == version


@pytest.mark.parametrize("ids", [("crm", "crm:lookup"), ("crm:lookup", "crm")])
def test_a_name_is_a_tool_or_a_namespace(ids: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="rename"):
        registry(*ids)
    tools = registry(ids[0])
    with pytest.raises(InvalidRequest, match="rename"):
        tools.register(tool(ids[1]))
    tools.unregister(ids[0])
    tools.register(tool(ids[1]))


def test_an_unknown_tool_is_answered_with_near_ones() -> None:
    tools = registry("crm:lookup", "billing:lookup", "crm:delete", "echo")
    with pytest.raises(ToolNotFound, match="did you mean crm:lookup") as caught:
        tools.resolve("crm:lookpu")
    assert caught.value.details["near"][0] == "crm:lookup"
    with pytest.raises(ToolNotFound) as caught:
        tools.resolve("lookup")
    assert set(caught.value.details["near"][:2]) == {"billing:lookup", "crm:lookup"}
    with pytest.raises(ToolNotFound, match="search_tools"):
        tools.resolve("zzzzzz")


def test_a_malformed_id_is_not_merely_unknown() -> None:
    with pytest.raises(InvalidToolId):
        registry("echo").resolve("no such tool")


def test_a_bad_schema_names_its_tool() -> None:
    wrong: list[Any] = [True, None, [], "x"]
    for schema in wrong:
        with pytest.raises(InvalidRequest, match="input_schema of crm:lookup must be an object, not"):
            dataclasses.replace(tool("crm:lookup"), input_schema=schema)
    bad = dataclasses.replace(tool("crm:lookup"), input_schema={"type": "array"})
    with pytest.raises(InvalidRequest, match=r"crm:lookup.*object"):
        ToolRegistry([bad])
    with pytest.raises(InvalidRequest, match=r"crm:lookup.*invalid schema"):
        ToolRegistry([dataclasses.replace(bad, input_schema={}, output_schema={"type": "nope"})])


def test_tools_and_namespaces_are_sorted_and_versions_move_on() -> None:
    tools = registry("b:x", "a", "b:a:2", "b:a:1")
    assert [found.id for found in tools.tools()] == ["a", "b:a:1", "b:a:2", "b:x"]
    assert tools.namespaces() == ("", "b")
    before = tools.version
    tools.register(tool("c:x"))
    tools.unregister("a")
    assert tools.version != before
    assert tools.namespaces() == ("b", "c")


def test_what_one_registration_takes_does_not_grow_with_the_registry() -> None:
    tools, seconds = ToolRegistry(), list[float]()
    for block in range(6):
        some = [tool(f"ns{block}:t{number}:1.0.0") for number in range(500)]
        gc.disable()  # what that takes depends on all the other tests
        started = time.process_time()
        for one in some:
            tools.register(one)
        seconds.append(time.process_time() - started)
        gc.enable()
    assert seconds[-1] < 5 * seconds[0] + 0.1, seconds
    assert tools.resolve("ns5:t499").address == "ns5:t499"
    at_once = ToolRegistry(found.tool for found in tools.tools())
    assert [found.address for found in at_once.tools()] == [found.address for found in tools.tools()]


class Heard:
    """Everything a registry tells."""

    def __init__(self, tools: ToolRegistry) -> None:
        self.changes: list[Change] = []
        self.unsubscribe = tools.subscribe(self.changes.append)

    def drain(self) -> list[tuple[str, str]]:
        told: list[tuple[str, str]] = [(change.kind, change.tool_id) for change in self.changes]
        self.changes.clear()
        return told


def test_every_change_is_told_after_it_was_made() -> None:
    tools = registry("a:x")
    heard = Heard(tools)
    found: list[int] = []
    tools.subscribe(lambda change: found.append(len(tools)))
    tools.register_all([tool("a:y"), tool("a:z")])
    assert found == [3, 3]
    assert [change.version for change in heard.changes] == [tools.version] * 2
    tools.disable("a:y")
    tools.enable("a:y")
    tools.unregister("a:z")
    assert heard.drain() == [
        ("registered", "a:y"),
        ("registered", "a:z"),
        ("disabled", "a:y"),
        ("enabled", "a:y"),
        ("removed", "a:z"),
    ]


def test_what_changed_nothing_is_not_told() -> None:
    tools = registry("a:x", "a:y")
    tools.disable("a:x")
    heard, version = Heard(tools), tools.version
    tools.disable("a:x")
    tools.enable("a:y")
    tools.register_all([])
    with pytest.raises(InvalidRequest):
        tools.register_all([tool("a:new"), tool("a:y")])
    with pytest.raises(ToolNotFound):
        tools.unregister("a:none")
    assert (heard.drain(), tools.version) == ([], version)


def test_whoever_unsubscribes_hears_nothing_more() -> None:
    tools = registry()
    heard = Heard(tools)
    heard.unsubscribe()
    heard.unsubscribe()
    tools.register(tool("a"))
    assert heard.changes == []
    # Also when another listener ends it in the middle of a change.
    second: list[Change] = []
    tools.subscribe(lambda _: unsubscribe())
    unsubscribe = tools.subscribe(second.append)
    tools.register(tool("b"))
    assert second == []


def test_a_listener_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    tools = registry()

    def fails(_: Change) -> None:
        raise ValueError("no room")

    tools.subscribe(fails)
    heard = Heard(tools)
    with caplog.at_level(logging.ERROR):
        tools.register(tool("a:x"))
    assert heard.drain() == [("registered", "a:x")]
    assert "a listener failed on registered of tool a:x" in caplog.text
    assert "no room" in caplog.text


def test_a_listener_may_change_the_registry_and_the_order_stays() -> None:
    tools = registry()
    tools.subscribe(lambda change: tools.disable("a") if change.kind == "registered" else None)
    heard = Heard(tools)
    tools.register(tool("a"))
    assert heard.drain() == [("registered", "a"), ("disabled", "a")]


def test_a_disabled_tool_reads_as_not_found() -> None:
    tools = registry("crm:lookup", "crm:delete", "solo:only")
    tools.disable("crm:lookup")
    tools.disable("solo:only")
    assert tools.find("crm:lookup") is None
    with pytest.raises(ToolNotFound) as caught:
        tools.resolve("crm:lookup")
    assert "crm:lookup" not in caught.value.details["near"]
    assert [found.id for found in tools.tools()] == ["crm:delete"]
    assert [found.id for found in tools.page(10).items] == ["crm:delete"]
    assert (len(tools), tools.namespaces()) == (1, ("crm",))
    assert tools.disabled() == {"crm:lookup", "solo:only"}
    tools.enable("crm:lookup")
    assert tools.resolve("crm:lookup").id == "crm:lookup"
    # Its id is still taken, and it can be removed without being enabled.
    with pytest.raises(InvalidRequest, match="registered already"):
        tools.register(tool("solo:only"))
    with pytest.raises(InvalidRequest, match="rename"):
        tools.register(tool("solo"))
    tools.unregister("solo:only")
    tools.register(tool("solo"))
    assert tools.disabled() == frozenset()


def test_versions_are_disabled_one_by_one() -> None:
    tools = registry("crm:lookup:1.0.0", "crm:lookup:2.0.0")
    with pytest.raises(ToolNotFound):
        tools.disable("crm:lookup")  # done twice it would hide two versions
    tools.disable("crm:lookup:2.0.0")
    assert tools.resolve("crm:lookup").id == "crm:lookup:1.0.0"
    assert tools.find("crm:lookup:2.0.0") is None
    tools.enable("crm:lookup:2.0.0")
    assert tools.resolve("crm:lookup").id == "crm:lookup:2.0.0"
    assert tools.resolve("crm:lookup:1.0.0").address == "crm:lookup:1.0.0"


@pytest.mark.parametrize(("bad", "error"), [("none", ToolNotFound), ("a:none", ToolNotFound), ("a b", InvalidToolId)])
def test_what_is_not_there_can_be_neither_enabled_nor_disabled(bad: str, error: type[Exception]) -> None:
    tools = registry("a:x")
    for change in (tools.enable, tools.disable, tools.unregister):
        with pytest.raises(error):
            change(bad)


def test_the_tools_of_a_source_are_replaced_in_one_step() -> None:
    tools = registry("own:x")
    tools.replace_all("server", [tool("s:a"), tool("s:b"), tool("s:c")])
    tools.disable("s:b")
    heard, before = Heard(tools), tools.resolve("s:a")
    tools.replace_all("server", [tool("s:a"), tool("s:b", description="better"), tool("s:d")])
    assert heard.changes[0].version == heard.changes[-1].version == tools.version
    assert heard.drain() == [("removed", "s:c"), ("updated", "s:b"), ("registered", "s:d")]
    assert tools.resolve("s:a") is before, "what is as it was stays as it was"
    assert [found.id for found in tools.tools()] == ["own:x", "s:a", "s:d"]
    tools.enable("s:b")
    assert tools.resolve("s:b").tool.description == "better"
    heard.drain()
    version = tools.version
    tools.replace_all("server", [found.tool for found in tools.tools() if found.tool.id.namespace == "s"])
    assert (heard.drain(), tools.version) == ([], version)
    tools.replace_all("server", [])
    assert [found.id for found in tools.tools()] == ["own:x"]


def test_a_replacement_that_is_refused_changes_nothing() -> None:
    tools = registry("own:x")
    tools.replace_all("one", [tool("one:a")])
    tools.replace_all("two", [tool("two:a")])
    heard = Heard(tools)
    bad = tool("two:new", input_schema={"type": "nope"})
    refused = (
        [tool("own:x")],
        [tool("one:a")],
        [tool("two:b"), tool("two:b")],
        [tool("one")],
        [tool("x:run_tool")],
        [bad],
    )
    for given_tools in refused:
        with pytest.raises((InvalidRequest, InvalidToolId)):
            tools.replace_all("two", [tool("two:new-one"), *given_tools])
    assert heard.drain() == []
    assert [found.id for found in tools.tools()] == ["one:a", "own:x", "two:a"]
    # What it gives up in the same step is free again.
    tools.replace_all("two", [tool("two")])
    assert tools.namespaces() == ("", "one", "own")


def test_what_was_unregistered_belongs_to_no_source() -> None:
    tools = ToolRegistry()
    tools.replace_all("server", [tool("s:a")])
    tools.unregister("s:a")
    tools.register(tool("s:a"))
    tools.replace_all("server", [])
    assert tools.find("s:a") is not None


def ids(tools: ToolRegistry, limit: int, **filters: Any) -> list[str]:
    """All pages."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = tools.page(limit, cursor, **filters)
        assert len(page.items) <= limit
        found += [item.id for item in page.items]
        if page.cursor is None:
            return found
        assert page.items, "a cursor after nothing"
        cursor = page.cursor


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
def test_pages_are_complete_and_in_order(limit: int) -> None:
    tools = registry("b:x", "a", "b:y", "c:z")
    assert ids(tools, limit) == ["a", "b:x", "b:y", "c:z"]
    assert ids(ToolRegistry(), limit) == []


def test_pages_are_filtered() -> None:
    tools = ToolRegistry(
        [
            tool("crm:a", tags=("read only", "Beta")),
            tool("crm:b", tags=("beta",)),
            tool("ops:c", tags=("read-only", "beta")),
            tool("d", tags=("read-only",)),
        ]
    )
    assert ids(tools, 1, namespace="crm") == ["crm:a", "crm:b"]
    assert ids(tools, 1, namespace="") == ["d"]
    assert ids(tools, 1, namespace="none") == []
    assert ids(tools, 1, tags=["Read Only"]) == ["crm:a", "d", "ops:c"]
    assert ids(tools, 1, tags=["beta", "read-only"]) == ["crm:a", "ops:c"]
    assert ids(tools, 1, tags=["!"]) == []  # a tag that no tool can have
    assert ids(tools, 1, permits=lambda found: found.tool.id.name in "bd") == ["crm:b", "d"]


def test_a_cursor_survives_what_happens_elsewhere() -> None:
    tools = registry("b", "d", "f", "h")
    cursor = tools.page(2).cursor
    tools.register_all([tool("a"), tool("c"), tool("e")])
    tools.unregister("b")
    assert [found.id for found in tools.page(9, cursor).items] == ["e", "f", "h"]
    tools.unregister("d")  # the very one that the cursor stands at
    tools.disable("f")
    assert [found.id for found in tools.page(9, cursor).items] == ["e", "h"]
    tools.replace_all("x", [tool("g")])
    assert [found.id for found in tools.page(9, cursor).items] == ["e", "g", "h"]


def test_a_cursor_is_refused_where_it_does_not_belong() -> None:
    tools = registry("a:1", "a:2", "a:3")
    cursor = tools.page(1, namespace="a", tags=()).cursor
    for filters in ({}, {"namespace": "b"}, {"namespace": "a", "tags": ["x"]}):
        with pytest.raises(InvalidCursor):
            tools.page(1, cursor, **filters)
    with pytest.raises(InvalidCursor):
        tools.page(1, "a:1")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_of_nothing_is_refused(limit: int) -> None:
    with pytest.raises(InvalidInput, match="limit"):
        registry("a").page(limit)


NAMES = st.sampled_from([f"{namespace}{name}" for namespace in ("", "n:", "m:") for name in "abcdef"])


@settings(max_examples=50, deadline=None)
@given(first=st.sets(NAMES), later=st.lists(NAMES, max_size=12), limit=st.integers(1, 4))
def test_paging_while_tools_come_and_go_misses_and_repeats_nothing(
    first: set[str], later: list[str], limit: int
) -> None:
    """Every tool that is there all the time is seen exactly once."""
    tools = registry(*first)
    untouched, seen = first - set(later), list[str]()
    cursor: str | None = None
    while True:
        page = tools.page(limit, cursor)
        seen += [item.id for item in page.items]
        if page.cursor is None:
            break
        cursor = page.cursor
        if later:
            name = later.pop()
            if tools.find(name):
                tools.unregister(name)
            else:
                tools.register(tool(name))
    assert [name for name in seen if name in untouched] == sorted(untouched)
    assert len(seen) == len(set(seen))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers())
def test_whatever_happens_the_registry_agrees_with_a_plain_set(seed: int) -> None:
    rng = random.Random(seed)
    names = ["a:x", "a:x:1", "a:x:2", "b:y", "b:y:1", "c"]
    tools, known, hidden = ToolRegistry(), set[str](), set[str]()
    heard = Heard(tools)
    for _ in range(30):
        name = rng.choice(names)
        if name not in known:
            tools.register(tool(name))
            known.add(name)
        elif rng.random() < 0.5:
            (tools.enable if name in hidden else tools.disable)(name)
            hidden ^= {name}
        elif name in hidden or tools.resolve(name).id == name:
            tools.unregister(name)
            known.discard(name)
            hidden.discard(name)
        assert [found.id for found in tools.tools()] == sorted(known - hidden)
        assert len(tools) == len(known - hidden)
        for found in tools.tools():
            assert tools.resolve(found.address) is tools.resolve(found.id) is found
    followed = set[str]()
    for change in heard.changes:
        (followed.discard if change.kind in ("removed", "disabled") else followed.add)(change.tool_id)
    assert followed == known - hidden


def test_fits_compares_normal_tags() -> None:
    found: RegisteredTool = registry("a:x").resolve("a:x")
    assert found.fits(None, frozenset())
    assert not found.fits("b", frozenset())


def test_a_schema_is_compiled_once_whatever_happens_around_it() -> None:
    tools = ToolRegistry([tool("a:x", input_schema={"properties": {"n": {"type": "integer"}}}, output_schema={})])
    first = tools.resolve("a:x")
    tools.register(tool("a:y"))
    tools.disable("a:y")
    tools.unregister("a:y")
    for _ in range(3):
        found = tools.resolve("a:x")
        found.input.validate_input({"n": 1})
        assert found.input is first.input
        assert found.output is first.output


def test_a_tool_without_namespace_has_one_version_which_is_kept() -> None:
    versioned = dataclasses.replace(tool("lookup"), id=ToolId("lookup", version="1.0.0"))
    tools = ToolRegistry([versioned])
    found = tools.resolve("lookup")
    assert (found.id, found.address, found.tool.id.version) == ("lookup", "lookup", "1.0.0")
    assert describe(found, "summary")["version"] == "1.0.0"
    assert mcp_tool(found.tool)["_meta"]["toolexec/version"] == "1.0.0"
    with pytest.raises(InvalidRequest, match="versions side by side need a namespace"):
        tools.register(dataclasses.replace(versioned, id=ToolId("lookup", version="2.0.0")))
    with pytest.raises(ToolNotFound):
        tools.resolve("lookup:1.0.0")  # which is the name 1.0.0 in a namespace
