"""What an MCP server says, turned into names and JSON."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import CallToolResult

from gateway.errors import ToolFailed
from gateway.providers.mcp.content import beside, legal_names, result_of
from gateway.tools.model import ToolId


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


IMAGE = {"type": "image", "data": "aGk=", "mimeType": "image/png"}
AUDIO = {"type": "audio", "data": "aGk=", "mimeType": "audio/wav"}
LINK = {"type": "resource_link", "uri": "file:///a", "name": "a"}
BLOB = {"type": "resource", "resource": {"uri": "file:///a", "mimeType": "a/b", "blob": "aGk="}}


@pytest.mark.parametrize(
    ("content", "structured", "expected"),
    [
        ([], None, None),
        ([text("hi")], None, "hi"),
        ([text("")], None, ""),
        ([text(' {"a": 1}')], None, {"a": 1}),
        ([text("[1, 2]")], None, [1, 2]),
        ([text("12345")], None, "12345"),
        ([text("null")], None, "null"),
        ([text("{not json")], None, "{not json"),
        ([text('{"a": NaN}')], None, '{"a": NaN}'),
        ([text("[" * 5000)], None, "[" * 5000),
        ([text("a"), text("b")], None, [text("a"), text("b")]),
        ([IMAGE], None, [IMAGE]),
        ([text("see"), AUDIO, LINK, BLOB], None, [text("see"), AUDIO, LINK, BLOB]),
        ([text('{"a": 1}')], {"a": 1}, {"a": 1}),
        ([], {"a": 1}, {"a": 1}),
        ([text("x"), IMAGE], {"a": 1}, {"structuredContent": {"a": 1}, "content": [IMAGE]}),
    ],
)
def test_results(content: list[Any], structured: Any, expected: Any) -> None:
    answer = {"content": content} | ({} if structured is None else {"structuredContent": structured})
    assert result_of(CallToolResult.model_validate(answer, by_name=False), has_schema=False) == expected


def test_a_tool_with_a_schema_gives_what_the_schema_describes_and_the_host_the_rest() -> None:
    content = [text("x"), IMAGE, AUDIO, LINK, BLOB, {"type": "image", "data": "", "mimeType": "../no/type"}]
    answer = CallToolResult.model_validate({"content": content, "structuredContent": {"a": 1}}, by_name=False)
    assert result_of(answer, has_schema=True) == {"a": 1}
    names, data = zip(*beside(answer), strict=True)
    assert names == ("content-2.png", "content-3.wav", "content-4.json", "content-5.bin", "content-6.bin")
    assert (data[0], data[1], data[3], data[4]) == (b"hi", b"hi", b"hi", b"")
    assert json.loads(data[2]) == LINK


@pytest.mark.parametrize("data", ["aGk", "a-_=", "aGk=\n", "é"])
def test_bytes_that_are_none_are_kept_as_they_were_sent(data: str) -> None:
    sent = IMAGE | {"data": data}
    ((name, kept),) = beside(CallToolResult.model_validate({"content": [sent]}, by_name=False))
    assert (name, json.loads(kept)) == ("content-1.json", sent)


@pytest.mark.parametrize(
    ("content", "message"),
    [([text("no"), text("way")], "no\nway"), ([], "did not say why"), ([IMAGE], "did not say why")],
)
def test_the_error_flag_fails_the_call(content: list[Any], message: str) -> None:
    answer = CallToolResult.model_validate({"content": content, "isError": True}, by_name=False)
    with pytest.raises(ToolFailed) as caught:
        result_of(answer, has_schema=False)
    assert message in caught.value.message
    json.dumps(caught.value.to_json())


def test_what_a_failure_shows_is_kept_and_cut() -> None:
    content = [text("no"), IMAGE, LINK, IMAGE | {"data": "a" * 100_000}]
    answer = CallToolResult.model_validate({"content": content, "isError": True}, by_name=False)
    with pytest.raises(ToolFailed) as caught:
        result_of(answer, has_schema=False)
    image, link, cut = caught.value.details["content"]
    assert (image, link) == (IMAGE, LINK)
    assert len(cut["data"]) == 4096


def test_a_long_failure_is_cut() -> None:
    answer = CallToolResult.model_validate({"content": [text("x" * 100_000)], "isError": True}, by_name=False)
    with pytest.raises(ToolFailed) as caught:
        result_of(answer, has_schema=False)
    assert len(caught.value.message) == 2000


@pytest.mark.parametrize(
    ("given_names", "expected"),
    [
        (["a.b-c_D9"], {"a.b-c_D9": "a.b-c_D9"}),
        (["get user"], {"get user": "get_user"}),
        (["a b", "a_b", "a/b"], {"a b": "a_b_2", "a/b": "a_b_3", "a_b": "a_b"}),
        (["run_tool", "aio"], {"run_tool": "run_tool_tool", "aio": "aio_tool"}),
        (["_private", "__init__"], {"_private": "private", "__init__": "init__"}),
        (["", "é"], {"": "tool", "é": "tool_2"}),
        (["x" * 200], {"x" * 200: "x" * 128}),
        (["x" * 128, "x" * 129], {"x" * 128: "x" * 128, "x" * 129: "x" * 126 + "_2"}),
    ],
)
def test_names(given_names: list[str], expected: dict[str, str]) -> None:
    assert legal_names(given_names) == expected


@given(st.lists(st.text(st.sampled_from("aA_ .-/é:0"), max_size=6)))
def test_names_are_legal_unique_and_the_same_in_any_order(names: list[str]) -> None:
    found = legal_names(names)
    assert found == legal_names(reversed(names))
    assert found.keys() == set(names)
    assert len(set(found.values())) == len(found)
    for name in found.values():
        ToolId(name, "server").check_reachable()
