"""Tool ids and tools."""

import dataclasses
import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest, InvalidToolId
from gateway.policies import NoRetry, Policies
from gateway.providers.cli import cli_tool
from gateway.providers.dynamodb import DynamoDb
from gateway.providers.function import function_tool
from gateway.providers.http import HttpApi
from gateway.providers.sql import SqlDatabase
from gateway.tools.model import (
    MAX_TAG,
    MAX_TAGS,
    RESERVED_NAMES,
    Tool,
    ToolExample,
    ToolFields,
    ToolId,
    ToolSpec,
    normal_tag,
)

PART = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=128)


@settings(deadline=None)
@given(name=PART, namespace=PART, version=PART)
def test_every_form_survives_parsing(name: str, namespace: str, version: str) -> None:
    for tool_id in (ToolId(name), ToolId(name, namespace), ToolId(name, namespace, version)):
        assert ToolId.parse(str(tool_id)) == tool_id


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_an_id_or_a_clear_refusal(text: str) -> None:
    try:
        tool_id = ToolId.parse(text)
    except InvalidToolId:
        return
    assert str(tool_id) == text


@pytest.mark.parametrize(
    "text", ["", ":", "a:", ":a", "a::b", "a:b:c:d", "a b", "a\n", "ä", "a/b", "x" * 129, "a:b:" + "1" * 129, "a\x00"]
)
def test_malformed_ids_are_refused(text: str) -> None:
    with pytest.raises(InvalidToolId):
        ToolId.parse(text)


def test_a_version_without_namespace_is_kept_and_is_no_part_of_the_id() -> None:
    found = ToolId("lookup", version="1.0.0")
    assert (str(found), found.version) == ("lookup", "1.0.0")
    assert found != ToolId("lookup") != ToolId("1.0.0", "lookup")
    with pytest.raises(InvalidToolId, match="its version must be"):
        ToolId("lookup", version="1 0")


def test_a_version_may_name_its_build() -> None:
    assert ToolId.parse("crm:lookup:1.0.0+build.7").version == "1.0.0+build.7"
    for text in ("crm:look+up", "c+m:lookup", "look+up"):
        with pytest.raises(InvalidToolId, match=r"A-Z a-z 0-9 _ \. -;"):
            ToolId.parse(text)


@pytest.mark.parametrize("name", [*sorted(RESERVED_NAMES), "_private", "__class__"])
def test_names_that_the_guest_uses_otherwise_are_unreachable(name: str) -> None:
    for tool_id in (ToolId(name), ToolId("x", name), ToolId(name, "x")):
        with pytest.raises(InvalidToolId, match="reserved"):
            tool_id.check_reachable()


@pytest.mark.parametrize("name", ["aioli", "run_tools", "tool_error", "toolerror", "a_", "search"])
def test_names_that_merely_look_reserved_are_fine(name: str) -> None:
    ToolId(name).check_reachable()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_must_be_a_positive_time(seconds: float) -> None:
    def nothing() -> None: ...

    with pytest.raises(InvalidRequest, match="timeout_seconds"):
        function_tool(nothing, timeout_seconds=seconds)


def nothing() -> None: ...


MAKERS: dict[str, Callable[..., Tool]] = {
    "function": lambda **fields: function_tool(nothing, **fields),
    "cli": lambda **fields: cli_tool("a", ["true"], **fields),
    "http": lambda **fields: HttpApi(base_url="https://api.example").tool("a", "POST", "/", **fields),
    "sql": lambda **fields: SqlDatabase("sqlite:///x.db").tool("a", "SELECT 1", **fields),
    "sql query": lambda **fields: SqlDatabase("sqlite:///x.db").query_tool("a", **fields),
    "sql schema": lambda **fields: SqlDatabase("sqlite:///x.db").schema_tool("a", **fields),
    "dynamodb": lambda **fields: DynamoDb(region="eu-west-1").tool("a", "get_item", "t", **fields),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_whatever_makes_tools_takes_what_a_tool_may_say(maker: str) -> None:
    told: Any = {
        "description": "Does it.",
        "tags": ["x"],
        "examples": [ToolExample("one")],
        "notes": "careful",
        "timeout_seconds": 3.0,
        "title": "It",
        "read_only": None,
        "destructive": True,
        "idempotent": False,
        "open_world": None,
        "resource": "r/{id}",
        "roles": ["Admin"],
        "policies": Policies(retry=NoRetry()),
        "in_doubt": "ask",
    }
    spec = {field.name for field in dataclasses.fields(ToolSpec)}
    assert told.keys() == ToolFields.__annotations__.keys() == spec - {"id", "input_schema", "output_schema"}
    made = MAKERS[maker](**told)
    normal = told | {"tags": ("x",), "examples": (ToolExample("one"),), "roles": frozenset({"admin"})}
    assert {name: getattr(made, name) for name in told} == normal


def tool(**fields: Any) -> Tool:
    return dataclasses.replace(function_tool(nothing), **fields)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("Beta", "beta"),
        ("  read \t\n only ", "read-only"),
        ("Café", "café"),
        ("Cafe\u0301", "café"),  # the accent as a character of its own
        ("Größe", "größe"),
        ("日本 語", "日本-語"),
        ("हिन्दी", "हिन्दी"),
        ("x/y:z!", "xyz"),
        ("v1.2_a-b", "v1.2_a-b"),
        ("a\x00\u202eb", "ab"),
        ("!?", ""),
        ("", ""),
        ("é" * 70, "é" * 64),
    ],
)
def test_tags_have_one_normal_form(written: str, normal: str) -> None:
    assert normal_tag(written) == normal


@settings(deadline=None)
@given(st.text(max_size=100))
def test_a_normal_tag_is_short_printable_and_stays_normal(text: str) -> None:
    tag = normal_tag(text)
    assert len(tag) <= MAX_TAG
    assert not any(char.isspace() or char in '/:,"' for char in tag)
    assert tag.isprintable()
    assert normal_tag(tag.strip("-")) == tag.strip("-") or len(tag) == MAX_TAG


def test_the_tags_of_a_tool_are_normal_distinct_and_few() -> None:
    assert tool(tags=("Beta", "beta ", "!", "", "A B")).tags == ("beta", "a-b")
    many = tool(tags=[f"t{number}" for number in range(30)])
    assert many.tags == tuple(f"t{number}" for number in range(MAX_TAGS))


def test_roles_are_compared_in_lower_case() -> None:
    assert tool(roles=["Coach ", "sdr"]).roles == {"coach", "sdr"}
    assert tool(roles=["system"]).roles == {"system"}  # a role as any other
    with pytest.raises(InvalidRequest, match="role"):
        tool(roles=[" "])


@pytest.mark.parametrize("name", ["tags", "roles"])
def test_one_text_is_not_taken_for_several(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        tool(**{name: "admin"})


def test_a_tool_is_a_spec_with_a_provider() -> None:
    assert isinstance(tool(), ToolSpec)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tool().title = "x"  # type: ignore[misc]  # what the test is about
