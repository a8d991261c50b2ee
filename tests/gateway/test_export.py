"""Tools as MCP and model providers list them."""

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.providers.function import function_tool
from gateway.tools.export import export, mcp_tool
from gateway.tools.model import Tool, ToolExample, ToolId
from gateway.tools.registry import ToolRegistry


def lookup(name: str) -> dict[str, int]:
    """Look somebody up."""
    return {name: 1}


def tool(text: str, **more: Any) -> Tool:
    return dataclasses.replace(function_tool(lookup), id=ToolId.parse(text), **more)


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}


def test_each_format_has_its_shape() -> None:
    tools = ToolRegistry([tool("crm:lookup:1.0.0", read_only=True, destructive=False, title="Look up", tags=("a",))])
    openai = export(tools.tools(), "openai")
    assert openai.tools == (
        {
            "type": "function",
            "function": {"name": "crm__lookup", "description": "Look somebody up.", "parameters": SCHEMA},
        },
    )
    assert openai.ids == {"crm__lookup": "crm:lookup:1.0.0"}
    assert export(tools.tools(), "anthropic").tools == (
        {"name": "crm__lookup", "description": "Look somebody up.", "input_schema": SCHEMA},
    )
    assert export(tools.tools(), "mcp").tools == (
        {
            "name": "crm__lookup",
            "title": "Look up",
            "description": "Look somebody up.",
            "inputSchema": SCHEMA,
            "outputSchema": {"type": "object", "additionalProperties": {"type": "integer"}},
            "annotations": {"readOnlyHint": True, "destructiveHint": False},
            "_meta": {"toolexec/id": "crm:lookup:1.0.0", "toolexec/tags": ["a"]},
        },
    )


def test_mcp_knows_results_that_are_objects_only() -> None:
    found = mcp_tool(tool("crm:lookup", output_schema={"type": "string"}))
    assert "outputSchema" not in found
    assert found["name"] == "lookup"
    assert found["_meta"]["toolexec/outputSchema"] == {"type": "string"}
    plain = mcp_tool(tool("a", output_schema=None, input_schema={}, description=""))
    assert plain == {"name": "a", "inputSchema": {"type": "object"}, "_meta": {"toolexec/id": "a", "toolexec/tags": []}}


def test_only_what_a_role_may_use_is_exported() -> None:
    tools = ToolRegistry([tool("a", roles=frozenset({"coach"})), tool("b"), tool("c", roles=frozenset({"system"}))])

    def visible(role: str) -> set[str]:
        page = tools.page(100, permits=lambda found: not found.tool.roles or role in found.tool.roles)
        return set(export(page.items, "openai").ids.values())

    assert visible("coach") == {"a", "b"}
    assert visible("") == {"b"}
    tools.disable("b")
    assert visible("system") == {"c"}


def test_names_that_would_meet_are_kept_apart() -> None:
    tools = ToolRegistry([tool("a:b"), tool("a__b"), tool("a:b:0.1"), tool("a.x:b.c"), tool("a:" + "long" * 30)])
    exported = export(tools.tools(), "openai")
    assert sorted(exported.ids.values()) == [found.id for found in tools.tools()]
    assert export(tools.tools(), "openai").ids == exported.ids, "the same every time"
    assert max(map(len, exported.ids)) == 64


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="mcp, openai, anthropic, gemini, a2a"):
        export((), "fax")  # type: ignore[arg-type]  # what the test is about


PART = st.text("aB1_.-", min_size=1, max_size=40)


@settings(deadline=None)
@given(st.lists(st.tuples(PART, PART, st.none() | PART), max_size=6, unique=True))
def test_every_name_is_legal_and_leads_back(parts: list[tuple[str, str, str | None]]) -> None:
    ids = [ToolId("n" + name, "5" + namespace, version or "") for namespace, name, version in parts]
    tools = ToolRegistry(dataclasses.replace(function_tool(lookup), id=tool_id) for tool_id in ids)
    exported = export(tools.tools(), "openai")
    assert sorted(exported.ids.values()) == sorted(map(str, ids))
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", name) for name in exported.ids)
    assert [found["function"]["name"] for found in exported.tools] == list(exported.ids)


def test_a_name_never_comes_to_stand_for_another_tool() -> None:
    tools = ToolRegistry([tool("a:b__c")])
    before = export(tools.tools(), "mcp").ids
    tools.register(tool("a__b:c"))
    after = export(tools.tools(), "mcp").ids
    assert before == {"a__b__c": "a:b__c"}
    assert sorted(after.values()) == ["a:b__c", "a__b:c"]
    assert "a__b__c" not in after


RICH = tool(
    "crm:lookup",
    title="Look up",
    tags=("people",),
    notes="Slow on Mondays.",
    read_only=True,
    examples=(ToolExample("Find Ada", {"name": "Ada"}), ToolExample("Nobody")),
    input_schema={
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[A-Z]", "description": "first name", "minLength": 1},
            "ages": {"type": "array", "items": {"type": "integer", "multipleOf": 5, "maximum": 120}, "maxItems": 3},
            "kind": {"anyOf": [{"const": "person"}, {"$ref": "#/$defs/firm"}]},
            "pattern": {"type": "boolean"},
        },
        "$defs": {"firm": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 9}}},
        "required": ["name"],
        "additionalProperties": False,
    },
    output_schema={"type": "array", "items": {"type": "string"}, "uniqueItems": True},
)


def test_gemini_gets_the_keywords_that_it_knows() -> None:
    exported = export(ToolRegistry([RICH]).tools(), "gemini")
    assert exported.tools == (
        {
            "name": "crm__lookup",
            "description": "Look somebody up.",
            "parametersJsonSchema": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "first name"},
                    "ages": {"type": "array", "items": {"type": "integer", "maximum": 120}, "maxItems": 3},
                    "kind": {"anyOf": [{"enum": ["person"]}, {"$ref": "#/$defs/firm"}]},
                    "pattern": {"type": "boolean"},
                },
                "$defs": {"firm": {"type": "object", "additionalProperties": {"type": "string"}}},
                "required": ["name"],
                "additionalProperties": False,
            },
            "responseJsonSchema": {"type": "array", "items": {"type": "string"}},
        },
    )
    assert set(exported.lost["crm__lookup"]) == {
        *("title", "tags", "examples", "notes", "read_only", "output_schema.uniqueItems"),
        "input_schema.properties.name.pattern",
        "input_schema.properties.name.minLength",
        "input_schema.properties.ages.items.multipleOf",
        "input_schema.$defs.firm.additionalProperties.maxLength",
    }


def test_gemini_gets_nothing_beside_a_reference_and_no_enum_of_others() -> None:
    schema = {
        "properties": {
            "firm": {"$ref": "#/$defs/firm", "description": "who pays", "minProperties": 1, "deprecated": True},
            "sure": {"enum": [True, None]},
            "size": {"enum": ["s", 2, 2.5]},
            "exact": {"const": False},
        },
        "$defs": {"firm": {"type": "object"}},
    }
    exported = export(ToolRegistry([tool("a", input_schema=schema, output_schema=None)]).tools(), "gemini")
    assert exported.tools[0]["parametersJsonSchema"] == {
        "type": "object",
        "properties": {"firm": {"$ref": "#/$defs/firm"}, "sure": {}, "size": {"enum": ["s", 2, 2.5]}, "exact": {}},
        "$defs": {"firm": {"type": "object"}},
    }
    assert exported.lost["a"] == (
        "input_schema.properties.firm.description",
        "input_schema.properties.firm.minProperties",
        "input_schema.properties.sure.enum",
        "input_schema.properties.exact.enum",
    )


def test_a2a_gets_a_skill() -> None:
    exported = export(ToolRegistry([RICH]).tools(), "a2a")
    assert exported.tools == (
        {
            "id": "crm__lookup",
            "name": "Look up",
            "description": "Look somebody up.",
            "tags": ["people"],
            "examples": ["Find Ada", "Nobody"],
            "inputModes": ["application/json"],
            "outputModes": ["application/json"],
        },
    )
    assert exported.lost["crm__lookup"] == (
        *("input_schema", "output_schema", "notes", "read_only", "examples[0].arguments"),
    )


@pytest.mark.parametrize(
    ("form", "lost"),
    [
        ("mcp", {"examples", "notes"}),
        ("openai", {"title", "output_schema", "tags", "examples", "notes", "read_only"}),
        ("anthropic", {"title", "output_schema", "tags", "examples", "notes", "read_only"}),
    ],
)
def test_what_a_format_loses_is_told(form: Any, lost: set[str]) -> None:
    assert set(export(ToolRegistry([RICH]).tools(), form).lost["crm__lookup"]) == lost
    plain = tool("a", description="Words.", output_schema=None)
    assert export(ToolRegistry([plain]).tools(), form).lost == {}


def test_the_tool_itself_stays_as_it_is() -> None:
    tools = ToolRegistry([RICH])
    export(tools.tools(), "gemini")
    assert tools.resolve("crm:lookup").tool.input_schema["properties"]["name"]["pattern"] == "^[A-Z]"
