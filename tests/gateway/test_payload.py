"""Strict JSON."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ToolError
from gateway.payload import NotJsonError, decode, encode, error_json, normalise, printable, recorded

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_survives(value: Any) -> None:
    assert decode(encode(value)) == value
    assert normalise(value).value == value
    assert recorded(encode(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_a_clear_refusal(data: bytes) -> None:
    try:
        value = decode(data)
    except NotJsonError:
        return
    assert json.loads(data) == value


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff", "UTF-8"),
        ('{"a":1}'.encode("utf-16"), "UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "BOM|Expecting"),
        (b'{"a":1,"a":2}', "same key twice"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"{", "Expecting"),
        (b"", "Expecting"),
        (b"1 2", "Extra data"),
        (b"9" * 5000, "limit"),
        (b"[" * 100_000 + b"]" * 100_000, "levels"),
        (b"[" * 129 + b"]" * 129, "128 levels"),
    ],
)
def test_what_is_not_strict_json_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(NotJsonError, match=says):
        decode(data)


def test_a_float_too_large_is_infinity_and_does_not_get_far() -> None:
    with pytest.raises(NotJsonError):
        encode(decode(b"1e999"))


def test_brackets_in_texts_do_not_nest() -> None:
    assert decode(encode("[" * 10_000)) == "[" * 10_000
    assert decode(encode([[1]] * 500)) == [[1]] * 500


def test_large_values_are_recorded_by_their_head() -> None:
    data = encode({"a": "ä" * 100_000})
    found = recorded(data)
    assert found == {"truncated": True, "bytes": len(data), "head": '{"a":"' + "ä" * 994}
    assert recorded(encode("x" * 65_534)) == "x" * 65_534


@pytest.mark.parametrize("details", [{"a": object()}, {"a": float("nan")}, {"\ud800": 1}, {"a": "x" * 1_000_000}])
def test_whatever_a_tool_puts_into_its_error_can_be_encoded(details: dict[str, Any]) -> None:
    found = error_json(ToolError("bad \ud800" + "x" * 10_000, details=details))
    assert len(encode(found)) < 10_000
    assert found["code"] == "tool_error"


@given(st.text(st.characters(), max_size=50), st.integers(1, 20))
def test_printable_text_is_short_and_utf8(text: str, limit: int) -> None:
    shown = printable(text, limit)
    shown.encode()
    if shown.isascii() and text.isascii():
        assert len(shown) <= limit
