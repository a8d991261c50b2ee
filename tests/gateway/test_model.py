"""Tool ids and tools."""

import dataclasses
import random
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest, InvalidToolId
from gateway.providers.function import function_tool
from gateway.tools.model import MAX_TAG, MAX_TAGS, RESERVED_NAMES, Tool, ToolId, ToolSpec, normal_tag, version_key

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


@pytest.mark.parametrize("name", [*sorted(RESERVED_NAMES), "_private", "__class__"])
def test_names_that_the_guest_uses_otherwise_are_unreachable(name: str) -> None:
    for tool_id in (ToolId(name), ToolId("x", name), ToolId(name, "x")):
        with pytest.raises(InvalidToolId, match="reserved"):
            tool_id.check_reachable()


@pytest.mark.parametrize("name", ["aioli", "run_tools", "tool_error", "toolerror", "a_", "search"])
def test_names_that_merely_look_reserved_are_fine(name: str) -> None:
    ToolId(name).check_reachable()


def test_versions_sort_as_semantic_versioning_says() -> None:
    ordered = ["nightly", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    ordered += ["1.0.0-rc.1", "1.0.0", "1.2", "1.9.0", "1.10.0", "v2.0.0"]
    shuffled = random.Random(7).sample(ordered, len(ordered))
    assert sorted(shuffled, key=version_key) == ordered


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_must_be_a_positive_time(seconds: float) -> None:
    def nothing() -> None: ...

    with pytest.raises(InvalidRequest, match="timeout_seconds"):
        function_tool(nothing, timeout_seconds=seconds)


def nothing() -> None: ...


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
