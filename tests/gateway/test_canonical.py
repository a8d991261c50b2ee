"""Equal JSON values have equal bytes, and different ones never do."""

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from gateway.canonical import canonical, digest

numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | numbers | st.text(max_size=5)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)


@given(value=values)
def test_it_is_the_standards_form_whichever_way_it_is_made(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_is_written_as_the_standard_has_it(value: float) -> None:
    assert canonical([value]) == rfc8785.dumps([value])


@given(one=values, other=values)
def test_what_is_written_alike_is_equal(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (rfc8785.dumps(one) == rfc8785.dumps(other))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (1e21, "1e+21"),
        (1e-7, "1e-7"),
        (0.00001, "0.00001"),
        ({"b": 1, "a": [1.5, None, True]}, '{"a":[1.5,null,true],"b":1}'),
        ({"\ue000": 1, "\U0001f600": 2}, '{"\U0001f600":2,"\ue000":1}'),  # the order is that of UTF-16
        ('\x00\x1f\x7f/"\\', '"\\u0000\\u001f\x7f/\\"\\\\"'),
        ({"id": 2**60 + 1, "n": 2.0}, f'{{"id":{2**60 + 1},"n":2}}'),
    ],
)
def test_examples(value: Any, text: str) -> None:
    assert canonical(value) == text.encode()
    assert json.loads(canonical(value)) == value


def test_whole_numbers_that_floats_cannot_tell_apart_are_told_apart() -> None:
    assert canonical(2**60) != canonical(2**60 + 1)
    assert digest(2**60) != digest(2**60 + 1)


def test_true_is_not_one() -> None:
    assert canonical([True, False, None]) == b"[true,false,null]"
    assert digest(True) != digest(1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": float("-inf")}, object(), {1: 2}, "\ud800"])
def test_what_is_no_json_has_no_form(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        canonical(value)


def test_parts_do_not_run_into_each_other() -> None:
    assert (
        len(
            {digest("a", "b"), digest("ab"), digest("a,b"), digest('a","b'), digest(["a", "b"]), digest("a", "b", None)}
        )
        == 6
    )
