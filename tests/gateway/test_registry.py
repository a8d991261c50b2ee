"""Tools registered, resolved and removed."""

import dataclasses
import time

import pytest

from gateway.errors import InvalidRequest, InvalidToolId, ToolNotFound
from gateway.providers.function import function_tool
from gateway.tools.model import Tool, ToolId
from gateway.tools.registry import ToolRegistry


def answer() -> int:
    """The answer."""
    return 42


def tool(text: str) -> Tool:
    return dataclasses.replace(function_tool(answer), id=ToolId.parse(text))


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


def test_registering_thousands_one_by_one_is_quick() -> None:
    tools = ToolRegistry()
    made = function_tool(answer)
    started = time.monotonic()
    for number in range(3000):
        tools.register(dataclasses.replace(made, id=ToolId(f"t{number}", "ns", "1.0.0")))
    assert time.monotonic() - started < 3
    assert tools.resolve("ns:t2999").address == "ns:t2999"
