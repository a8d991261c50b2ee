"""What a model is told about a tool."""

import dataclasses
import enum
import itertools
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from gateway.errors import InvalidInput
from gateway.providers.function import function_tool
from gateway.tools.docs import describe, examples, signature
from gateway.tools.model import Tool, ToolExample, ToolId
from gateway.tools.registry import RegisteredTool, ToolRegistry


class Kind(enum.Enum):
    A = "a"
    B = "b"


class Node(BaseModel):
    value: int
    children: list["Node"] = []


def lookup(id: str, limit: int = 10) -> list[str]:  # noqa: A002
    """Find rows
    by id.

    Slow on Mondays.
    """
    return [id] * limit


def registered(tool: Tool) -> RegisteredTool:
    return ToolRegistry([tool]).tools()[0]


EXAMPLES = tuple(ToolExample(f"case {number}", {"id": "x"}, "a list") for number in range(3))


def test_levels_add_to_each_other() -> None:
    tool = registered(function_tool(lookup, namespace="crm", tags=["db"], examples=EXAMPLES, notes="careful"))
    short = describe(tool, "summary")
    assert short == {
        "id": "crm:lookup",
        "name": "lookup",
        "namespace": "crm",
        "version": "",
        "title": "",
        "description": "Find rows by id.",
        "tags": ["db"],
        "signature": "tools.crm.lookup(id: str, limit: int = 10) -> list[str]",
    }
    middle = describe(tool, "schema")
    schemas = {"input_schema": tool.tool.input_schema, "output_schema": tool.tool.output_schema}
    assert middle == short | schemas | {"hints": {}, "streams": False}
    full = describe(tool, "full")
    assert full["description"] == "Find rows\nby id.\n\nSlow on Mondays."
    assert full["notes"] == "careful"
    assert full["examples"] == [
        {"title": f"case {number}", "arguments": {"id": "x"}, "result_hint": "a list"} for number in range(3)
    ]
    assert set(full) == {*middle, "notes", "examples"}


def test_a_model_is_told_what_a_tool_says_of_its_effects_and_no_more() -> None:
    def rows() -> Iterator[int]:
        yield 1

    told = function_tool(rows, title="All rows", read_only=True, open_world=False)
    found = describe(registered(told), "schema")
    assert found["title"] == describe(registered(told), "summary")["title"] == "All rows"
    assert found["hints"] == {"read_only": True, "open_world": False}
    assert found["streams"] is True


def test_what_is_described_is_a_copy() -> None:
    tool = registered(function_tool(lookup, examples=EXAMPLES))
    describe(tool, "schema")["input_schema"].clear()
    examples(tool, 1)[0]["arguments"].clear()
    assert describe(tool, "schema")["input_schema"]["required"] == ["id"]
    assert examples(tool, 1)[0]["arguments"] == {"id": "x"}


def test_an_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="summary, schema, full"):
        describe(registered(function_tool(lookup)), "everything")


def test_examples_are_limited() -> None:
    tool = registered(function_tool(lookup, examples=EXAMPLES))
    assert [example["title"] for example in examples(tool, 2)] == ["case 0", "case 1"]
    assert len(examples(tool, 100)) == 3


@pytest.mark.parametrize("limit", [0, -1])
def test_no_examples_are_no_examples(limit: int) -> None:
    assert examples(registered(function_tool(lookup, examples=EXAMPLES)), limit) == ()


def test_long_texts_are_cut_between_characters() -> None:
    example = ToolExample("t" * 299 + "e\u0301", {}, "h" * 199 + "e\u0301")
    tool = registered(function_tool(lookup, notes="n" * 2001, examples=[example], description="d" * 5000))
    full = describe(tool, "full")
    assert full["notes"] == "n" * 1999 + "…"
    assert full["examples"] == [{"title": "t" * 299 + "…", "arguments": {}, "result_hint": "h" * 199 + "…"}]
    assert full["description"] == "d" * 5000
    assert describe(tool, "summary")["description"] == "d" * 199 + "…"
    exact = registered(function_tool(lookup, notes="n" * 2000, examples=[ToolExample("t" * 300, {}, "h" * 200)]))
    assert "…" not in str(describe(exact, "full"))


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (nested(5), True),
        (nested(6), False),
        ({"a": [[[[]]]]}, True),
        ({"a": [[[[[]]]]]}, False),
        ({str(number): 1 for number in range(50)}, True),
        ({str(number): 1 for number in range(51)}, False),
        ({"a": list(range(49))}, True),
        ({"a": list(range(50))}, False),
    ],
)
def test_arguments_of_an_example_are_shown_whole_or_not_at_all(arguments: dict[str, Any], *, shown: bool) -> None:
    (example,) = examples(registered(function_tool(lookup, examples=[ToolExample("x", arguments)])), 1)
    assert example["arguments"] == (arguments if shown else None)


def test_signatures_of_all_kinds_of_types() -> None:
    def many(
        a: list[dict[str, int]],
        node: Node,
        b: Kind,
        c: Literal[1, "x"],
        d: float | None = None,
        e: Any = object,
        f: str = "y" * 100,
        **more: bool,
    ) -> dict[str, list[Node]]:
        raise NotImplementedError

    assert signature(registered(function_tool(many))) == (
        "tools.many(a: list[dict[str, int]], node: dict[str, Any], b: Literal['a', 'b'], c: Literal[1, 'x'], "
        "d: float | None = None, e: Any = ..., f: str = ..., **more: bool) -> dict[str, list[dict[str, Any]]]"
    )


def test_a_tool_that_no_attribute_reaches_is_shown_by_its_id() -> None:
    made = function_tool(lookup, namespace="crm")
    for tool_id in ("crm:look-up", "crm:import", "my.crm:lookup", "2fast"):
        tool = dataclasses.replace(made, id=ToolId.parse(tool_id))
        assert signature(registered(tool)) == f'tools.run_tool("{tool_id}", dict[str, Any]) -> list[str]'


def test_an_older_version_is_shown_by_its_full_id() -> None:
    made = function_tool(lookup)
    registry = ToolRegistry(
        dataclasses.replace(made, id=ToolId.parse(text)) for text in ("crm:lookup:1.0.0", "crm:lookup:2.0.0")
    )
    assert signature(registry.resolve("crm:lookup:2.0.0")).startswith("tools.crm.lookup(")
    assert signature(registry.resolve("crm:lookup:1.0.0")).startswith('tools.run_tool("crm:lookup:1.0.0"')


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": {"a": True, "b": {}, "c": {"type": ["string", "null"]}, "d": {"anyOf": [{}]}}},
        {"properties": {"a b": {}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"x": {"const": 1}}}}},
        {"properties": {"a": {"$ref": "#/properties/a"}}},
        {"properties": {"a": {"type": "array", "prefixItems": [{}]}, "b": {"enum": list(range(100))}}},
        {"properties": {"more": {}}, "additionalProperties": True},
        {"properties": {"a": {"enum": [[1], {"b": 1.5}, "c" * 1000]}, "b": {"default": "d" * 1000}}},
    ],
)
def test_foreign_schemas_have_a_signature_too(schema: dict[str, Any]) -> None:
    tool = dataclasses.replace(function_tool(lookup), input_schema=schema)
    assert signature(registered(tool)).startswith("tools.")


@pytest.mark.parametrize("name", ["ﬁle", "__id", "class", "a b"])
def test_arguments_that_python_cannot_pass_by_their_name_are_shown_by_the_id(name: str) -> None:
    tool = dataclasses.replace(function_tool(lookup), input_schema={"properties": {name: {"type": "string"}}})
    assert signature(registered(tool)) == 'tools.run_tool("lookup", dict[str, Any]) -> list[str]'


def test_a_signature_is_short_whatever_the_schema() -> None:
    leaves = itertools.count()

    def wide(levels: int) -> dict[str, Any]:
        return {"oneOf": [wide(levels - 1) for _ in range(6)]} if levels else {"const": next(leaves)}

    schema = {"properties": {"a": wide(4), "b": {"enum": [str(number) for number in range(1000)]}}}
    shown = signature(registered(dataclasses.replace(function_tool(lookup), input_schema=schema)))
    assert len(shown) < 1000
    assert "Literal['0', '1', '2', '3', '4', '5', '6', '7', ...]" in shown
