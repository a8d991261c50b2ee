"""The stub text of `tools`: valid Python, whatever the tools are."""

import ast
import dataclasses
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from ty import find_ty_bin

from gateway.providers.function import function_tool
from gateway.tools.model import RESERVED_NAMES, Tool, ToolId
from gateway.tools.registry import RegisteredTool, ToolRegistry
from gateway.tools.stub_text import WORDS
from gateway.tools.stubs import stub_module
from runtimes.guest.tools import AsyncTools, Tools


class Address(BaseModel):
    city: str
    zip: str | None = None


class Person(BaseModel):
    name: str
    address: Address
    friends: list["Person"] = []


def lookup(id: str, limit: int = 10) -> list[Person]:  # noqa: A002
    """Find people by id."""
    raise NotImplementedError


def registered(*tools: Tool) -> tuple[RegisteredTool, ...]:
    return ToolRegistry(tools).tools()


def with_input(tool_id: str, schema: dict[str, Any], **others: Any) -> Tool:
    return dataclasses.replace(function_tool(lookup), id=ToolId.parse(tool_id), input_schema=schema, **others)


def functions(text: str, *path: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    body = ast.parse(text).body
    for name in path:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name)
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def spelt(text: str, *path: str) -> str:
    *within, name = path
    node = functions(text, *within)[name]
    return f"({ast.unparse(node.args)}) -> {ast.unparse(node.returns) if node.returns else None}"


def checked(text: str, folder: Path) -> str:
    """What the type checker says about it."""
    file = folder / "stub.pyi"
    file.write_text(text)
    argv = [find_ty_bin(), "check", "--output-format", "concise", "--python-version", "3.14", str(file)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_tools_are_functions_in_classes_with_twins_to_await() -> None:
    text = stub_module(registered(function_tool(lookup, namespace="crm"), function_tool(lookup, name="top")))
    assert spelt(text, "crm", "lookup") == "(*, id: str, limit: int=10) -> list[_Person]"
    assert spelt(text, "aio", "crm", "lookup") == spelt(text, "crm", "lookup")
    assert isinstance(functions(text, "aio", "crm")["lookup"], ast.AsyncFunctionDef)
    assert spelt(text, "top") == spelt(text, "aio", "top")
    assert ast.get_docstring(functions(text, "crm")["lookup"]) == "Find people by id."


def test_objects_are_typed_dicts_declared_once_and_may_contain_themselves() -> None:
    text = stub_module(registered(function_tool(lookup, namespace="a"), function_tool(lookup, namespace="b")))
    assert text.count("class _Person(TypedDict):") == 1
    assert "    friends: NotRequired[list[_Person]]\n" in text
    assert "    zip: NotRequired[str | None]\n" in text


def test_different_objects_of_one_name_are_told_apart() -> None:
    one = {"type": "object", "properties": {"user": {"$ref": "#/$defs/User"}}}
    tools = registered(
        with_input("a:one", one | {"$defs": {"User": {"properties": {"x": {"type": "string"}}}}}),
        with_input("a:two", one | {"$defs": {"User": {"properties": {"y": {"type": "string"}}}}}),
        with_input("a:three", one | {"$defs": {"User": {"properties": {"x": {"type": "string"}}}}}),
    )
    text = stub_module(tools)
    assert spelt(text, "a", "one") == spelt(text, "a", "three")
    assert {"_User", "_User2"} == {name for name in ("_User", "_User2", "_User3") if f"class {name}(" in text}


def test_every_kind_of_type() -> None:
    schema = {
        "type": "object",
        "required": ["kind"],
        "properties": {
            "kind": {"enum": ["a", "b", 1, True, None]},
            "rate": {"enum": [0.5, 1]},
            "many": {"enum": list(range(60))},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}},
            "open": {
                "type": "object",
                "properties": {"x": {"type": "null"}},
                "additionalProperties": {"type": "string"},
            },
            "odd": {"type": "object", "properties": {"a b": {}, "class": {}}, "required": ["class"]},
            "both": {
                "allOf": [{"properties": {"p": {"type": "string"}}, "required": ["p"]}, {"properties": {"q": {}}}]
            },
            "either": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "boolean"}}]},
        },
        "additionalProperties": {"type": "number"},
    }
    text = stub_module(registered(with_input("all", schema)))
    assert spelt(text, "all") == (
        "(*, kind: Literal['a', 'b', 1, True, None], rate: float | int=..., many: int=..., map: dict[str, int]=..., "
        "open: _AllOpen=..., odd: _AllOdd=..., both: _AllBoth=..., either: str | list[bool]=..., **more: float) "
        "-> list[_Person]"
    )
    assert "class _AllOpen(TypedDict, extra_items=str):\n    x: NotRequired[None]\n" in text
    assert "_AllOdd = TypedDict(\"_AllOdd\", {'a b': NotRequired[Any], 'class': Any})" in text
    assert "class _AllBoth(TypedDict):\n    p: str\n    q: NotRequired[Any]\n" in text


@pytest.mark.parametrize(
    ("tool_id", "schema"),
    [
        ("crm:look-up", {"properties": {"id": {"type": "string"}}}),
        ("my.crm:find", {"properties": {"id": {"type": "string"}}}),
        ("crm:import", {"properties": {"id": {"type": "string"}}}),
        ("crm:find", {"properties": {"a b": {}}}),
        ("crm:find", {"properties": {"class": {}}}),
        ("crm:find", {"properties": {"__id": {}}}),
        ("crm:find", {"properties": {"ﬁle": {}}}),
    ],
)
def test_what_python_cannot_spell_is_an_overload_of_run_tool(tool_id: str, schema: dict[str, Any]) -> None:
    text = stub_module(registered(with_input(tool_id, {"type": "object", **schema})))
    assert f"tool_id: Literal['{tool_id}'], arguments: _" in text
    assert text.count("def run_tool(") == 4
    assert text.count("@overload") == 4
    if tool_id == "crm:find":
        assert spelt(text, "crm", "find") == "(**arguments: Any) -> list[_Person]"


def test_a_namespace_is_there_though_none_of_its_tools_can_be_spelt() -> None:
    text = stub_module(registered(with_input("crm:look-up", {})))
    assert functions(text, "crm") == functions(text, "aio", "crm") == {}


def test_an_older_version_has_an_overload_of_its_own() -> None:
    tools = registered(with_input("crm:find:1.0.0", {}), with_input("crm:find:2.0.0", {}))
    text = stub_module(tools)
    assert "Literal['crm:find:1.0.0']" in text
    assert "find" in functions(text, "crm")


def test_without_such_tools_there_is_no_overload() -> None:
    assert "@overload" not in stub_module(registered(function_tool(lookup)))


def test_tools_may_be_named_like_the_words_of_python(tmp_path: Path) -> None:
    names = [name for name in WORDS if name.isidentifier()]
    tools = [with_input(name, {"properties": {"list": {"type": "string"}}}) for name in names if name != "dict"]
    tools += [with_input(f"dict:{name}", {"properties": {"x": {"properties": {"y": {}}}}}) for name in names]
    tools.append(with_input("str-ange", {}))
    text = stub_module(registered(*tools))
    assert spelt(text, "list") == "(*, list: _str=...) -> _list[_Person]"
    assert checked(text, tmp_path) == ""


@pytest.mark.parametrize("name", ["str", "list", "_X2"])
def test_fields_may_be_named_like_words_and_types(tmp_path: Path, name: str) -> None:
    below = {name: {"type": "array", "items": {"type": "string"}}, "x2": {"properties": {"a": {}}}}
    text = stub_module(registered(with_input("x", {"properties": {"x": {"properties": below}}})))
    assert f"_XX = TypedDict(\"_XX\", {{'{name}': NotRequired[list[str]], 'x2': NotRequired[_XXX2]}})" in text
    assert checked(text, tmp_path) == ""


@pytest.mark.parametrize(
    "words",
    ['"""', "\\", 'x"', '""""', "a\nb", "# no\rreally", "\0\x1b[31m", "x\u2028y", '\\"""', "\\N{x}", "}{"],
)
def test_no_description_breaks_out_of_its_place(words: str) -> None:
    evil = f"{words}\nimport os{words}"
    schema = {"properties": {"a": {"description": evil, "properties": {"b": {"description": evil}}}}}
    text = stub_module(registered(with_input("x", schema, description=evil)))
    assert {type(node) for node in ast.parse(text).body} <= {ast.Expr, ast.ImportFrom, ast.ClassDef, ast.FunctionDef}
    assert "import os" not in [line.strip() for line in text.split("\n")]
    text.encode()


def test_the_fixed_operations_are_those_of_the_guest() -> None:
    text = stub_module(())
    fixed = RESERVED_NAMES - {"ToolError", "aio"}
    assert functions(text).keys() == fixed
    assert functions(text, "aio").keys() == fixed
    for kind, path in ((Tools, ()), (AsyncTools, ("aio",))):
        for name, node in functions(text, *path).items():
            code = getattr(kind, name).__code__
            given = [arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)]
            assert tuple(given) == code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount], name


def test_the_text_is_the_same_for_the_same_tools() -> None:
    tools = registered(function_tool(lookup, namespace="b"), function_tool(lookup, namespace="a"))
    assert stub_module(tools) == stub_module(reversed(tools))


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema, "b": {"type": "array", "items": schema}}}
    return schema


def wide(levels: int) -> dict[str, Any]:
    return {"anyOf": [wide(levels - 1) for _ in range(6)]} if levels else {"type": "string"}


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {f"field{number}": {"properties": {"x": {}}} for number in range(3000)}},
        {"properties": {"x": {"properties": {"y" * 1000: {}, **{f"f{number}": {} for number in range(5000)}}}}},
        {"properties": {"x": deep(12)}},
        {"properties": {"x": wide(6)}},
        {"properties": {"x": {"enum": ["y" * 100_000, "z"]}, "y": {"const": 10**300}, "z": {"default": "y" * 10**5}}},
        {"properties": {"x": {"description": "y " * 1_000_000}}},
        {"$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/A"}}}, "properties": {"x": {"$ref": "#/$defs/A"}}},
    ],
)
def test_no_schema_makes_the_text_large(schema: dict[str, Any]) -> None:
    text = stub_module(registered(with_input("x", schema)))
    ast.parse(text)
    assert len(text) < 400_000


names = st.one_of(
    st.sampled_from(
        ["a", "id", "list", "class", "a b", "x-y", "__x", "ﬁ", "True", "self", "", "str", "é", "\ud800", "more"]
    ),
    st.text(max_size=5),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8))
schemas: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.booleans(),
        st.just({}),
        st.builds(lambda kind: {"type": kind}, st.sampled_from(["string", "integer", "number", "boolean", "null"])),
        st.builds(lambda values: {"enum": values}, st.lists(scalars, min_size=1, max_size=12)),
        st.builds(lambda value: {"const": value}, st.one_of(scalars, st.lists(scalars, max_size=2))),
        st.builds(lambda ref: {"$ref": ref}, st.sampled_from(["#", "#/$defs/A", "#/$defs/B", "#/properties/a"])),
        st.builds(
            lambda kind: {"type": kind},
            st.lists(st.sampled_from(["string", "array", "object"]), unique=True, min_size=1),
        ),
    ),
    lambda below: st.one_of(
        st.builds(
            lambda properties, required, more: {
                "type": "object",
                "properties": properties,
                "required": [name for name in properties if required],
                **({} if more is None else {"additionalProperties": more}),
            },
            st.dictionaries(names, below, max_size=4),
            st.booleans(),
            st.one_of(st.none(), below),
        ),
        st.builds(lambda items: {"type": "array", "items": items}, below),
        st.builds(
            lambda key, items: {key: items},
            st.sampled_from(["anyOf", "oneOf", "allOf"]),
            st.lists(below, min_size=1, max_size=4),
        ),
        st.builds(
            lambda text, value: {"type": "string", "description": text, "default": value}, st.text(max_size=30), scalars
        ),
    ),
    max_leaves=12,
)


def generated(properties: dict[str, Any], definitions: list[Any], description: str) -> str:
    schema = {"type": "object", "properties": properties, "$defs": dict(zip("AB", definitions, strict=True))}
    # Not through the registry, which refuses those that are no good schemas; the text is made from whatever there is.
    made = registered(function_tool(lookup, namespace="crm"))[0]
    tool = dataclasses.replace(made.tool, input_schema=schema, output_schema=schema, description=description)
    return stub_module([dataclasses.replace(made, tool=tool)])


PARTS = (st.dictionaries(names, schemas, max_size=4), st.lists(schemas, min_size=2, max_size=2), st.text(max_size=40))


@settings(max_examples=150, deadline=None)
@given(*PARTS)
def test_every_schema_gives_valid_python(properties: dict[str, Any], definitions: list[Any], description: str) -> None:
    ast.parse(generated(properties, definitions, description))


@settings(max_examples=15, deadline=None)
@given(*PARTS)
def test_every_schema_gives_valid_types(properties: dict[str, Any], definitions: list[Any], description: str) -> None:
    text = generated(properties, definitions, description)
    with tempfile.TemporaryDirectory() as folder:
        assert checked(text, Path(folder)) == "", text
