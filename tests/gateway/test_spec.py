"""Tools written down and read back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest, InvalidToolId
from gateway.providers.function import FunctionProvider, function_tool
from gateway.tools.model import Tool, ToolExample, ToolId, ToolSpec
from gateway.tools.spec import spec_from_json, spec_json, spec_of, with_provider


def lookup(name: str) -> str:
    """Look somebody up."""
    return name


WHOLE: dict[str, Any] = {
    "id": "crm:lookup:1.2.0",
    "title": "Look up",
    "description": "Looks somebody up.",
    "notes": "Slow on Mondays.",
    "tags": ["read-only", "größe"],
    "roles": ["coach", "sdr"],
    "resource": "person/{id}",
    "in_doubt": "ask",
    "input_schema": {"type": "object", "properties": {"id": {"type": "string"}}},
    "output_schema": {"type": "string"},
    "timeout_seconds": 2.5,
    "read_only": True,
    "destructive": False,
    "idempotent": True,
    "open_world": False,
    "examples": [{"title": "One", "arguments": {"id": "7"}, "result_hint": "a name"}],
    "policies": {"concurrency": {"kind": "limit", "max_in_flight": 2, "per_tenant": False, "wait_seconds": None}},
}


def test_every_field_survives_the_way_to_json_and_back() -> None:
    spec = spec_from_json(WHOLE)
    assert spec.id == ToolId("lookup", "crm", "1.2.0")
    assert spec.examples == (ToolExample("One", {"id": "7"}, "a name"),)
    assert spec.roles == {"coach", "sdr"}
    assert json.loads(json.dumps(spec_json(spec))) == WHOLE
    assert set(WHOLE) == set(ToolSpec.__slots__), "a new field needs its place in TOOL_SCHEMA"


def test_what_is_at_its_default_is_not_written() -> None:
    spec = ToolSpec(id=ToolId("a"), input_schema={"type": "object"})
    assert spec_json(spec) == {"id": "a", "input_schema": {"type": "object"}}
    assert spec_from_json(spec_json(spec)) == spec


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ({"id": "a", "version": "1.2"}, ToolId("a", version="1.2")),
        ({"id": "b:a", "version": "1.2"}, ToolId("a", "b", "1.2")),
        ({"id": "b:a:1.2", "version": "1.2"}, ToolId("a", "b", "1.2")),
    ],
)
def test_a_version_may_stand_by_itself(written: dict[str, Any], found: ToolId) -> None:
    spec = spec_from_json(written)
    assert spec.id == found
    assert spec_from_json(json.loads(json.dumps(spec_json(spec)))) == spec


def test_two_versions_in_one_spec_are_a_contradiction() -> None:
    with pytest.raises(InvalidRequest, match=r"version '1\.3' is not that of the id 'b:a:1\.2'"):
        spec_from_json({"id": "b:a:1.2", "version": "1.3"})
    with pytest.raises(InvalidToolId, match="its version"):
        spec_from_json({"id": "a", "version": "1/3"})


def test_a_tool_and_its_spec_differ_in_the_provider_only() -> None:
    tool = function_tool(lookup, tags=["x"])
    spec = spec_of(tool)
    assert type(spec) is ToolSpec
    again = with_provider(spec_from_json(spec_json(spec)), tool.provider)
    assert type(again) is Tool
    assert again == tool
    assert isinstance(again.provider, FunctionProvider)


def test_parameters_stand_for_the_input_schema() -> None:
    spec = spec_from_json({"id": "a", "parameters": [{"type": "integer", "name": "n", "default": 1}]})
    assert spec.input_schema["properties"] == {"n": {"type": "integer", "default": 1}}
    assert spec_from_json({"id": "a"}).input_schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": 7}, "id: "),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": "3"}, "timeout_seconds"),
        ({"read_only": "yes"}, "read_only"),
        ({"tags": "beta"}, "tags"),
        ({"roles": ["a", 1]}, r"roles\[1\]"),
        ({"examples": [{"title": "x", "args": {}}]}, r"examples\[0\].*unexpected \"args\""),
        ({"examples": [{"arguments": {}}]}, '"title" is missing'),
        ({"input_schema": []}, "input_schema"),
        ({"provider": {}}, 'unexpected "provider"; it takes id, title'),
        ({"descripton": "x"}, 'unexpected "descripton"'),
        ({"parameters": []}, "one of them"),
    ],
)
def test_what_is_written_wrongly_says_where(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        spec_from_json(WHOLE | change)


@pytest.mark.parametrize("bad", ["a b", "a:b:c:d", "", ":a"])
def test_ids_are_checked(bad: str) -> None:
    with pytest.raises(InvalidToolId):
        spec_from_json(WHOLE | {"id": bad})
    with pytest.raises(InvalidRequest, match='"id" is missing'):
        spec_from_json({})


@settings(deadline=None)
@given(
    description=st.text(max_size=20),
    tags=st.lists(st.text(max_size=10), max_size=4),
    roles=st.frozensets(st.text("abC", min_size=1, max_size=4), max_size=3),
    seconds=st.floats(0.001, 1e6),
    hints=st.tuples(*[st.none() | st.booleans()] * 4),
)
def test_any_spec_survives(
    description: str, tags: list[str], roles: frozenset[str], seconds: float, hints: tuple[bool | None, ...]
) -> None:
    spec = ToolSpec(
        id=ToolId("a", "b"),
        input_schema={},
        description=description,
        tags=tuple(tags),
        roles=roles,
        timeout_seconds=seconds,
        read_only=hints[0],
        destructive=hints[1],
        idempotent=hints[2],
        open_world=hints[3],
    )
    assert spec_from_json(json.loads(json.dumps(spec_json(spec)))) == spec
