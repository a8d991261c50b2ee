"""Scalars in another spelling, where the schema asks for it."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidInput
from gateway.tools.validation import SchemaValidator

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)


def taken(kind: Any, value: Any, **more: Any) -> Any:
    schema = {"properties": {"a": {"type": kind, "x-coerce": True, **more}}}
    found = SchemaValidator(schema).validate_input({"a": value})
    return found["a"]


@pytest.mark.parametrize(
    ("kind", "given_value", "wanted"),
    [
        ("integer", "12", 12),
        ("integer", " -7 ", -7),
        ("integer", "+0", 0),
        ("integer", "9" * 40, 10**40 - 1),
        ("integer", 12, 12),
        ("integer", 1.0, 1.0),
        ("number", "1.5", 1.5),
        ("number", "12", 12),
        ("number", "2e3", 2000.0),
        ("number", "-.5", -0.5),
        ("boolean", "Yes", True),
        ("boolean", " on ", True),
        ("boolean", "1", True),
        ("boolean", "TRUE", True),
        ("boolean", "off", False),
        ("boolean", "no", False),
        ("boolean", "0", False),
        ("boolean", 1, True),
        ("boolean", 0, False),
        ("boolean", False, False),
        ("string", 12, "12"),
        ("string", 1.5, "1.5"),
        ("string", True, "true"),
        ("string", "x", "x"),
        (["integer", "null"], "3", 3),
        (["null", "integer"], None, None),
    ],
)
def test_what_is_meant_is_taken(kind: Any, given_value: Any, wanted: Any) -> None:
    found = taken(kind, given_value)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("kind", "given_value"),
    [
        *[("integer", text) for text in ("", "1.0", "1e3", "0x10", "1_000", "١٢", "12a", "1 2", "9" * 5000)],
        *[("number", text) for text in ("nan", "inf", "-Infinity", "1e999", "1,5", ".", "1e")],
        *[("boolean", text) for text in ("", "y", "maybe", "2")],
        ("integer", 1.5),
        ("integer", True),
        ("integer", None),
        ("integer", [1]),
        ("number", True),
        ("boolean", 2),
        ("boolean", 1.0),
        ("boolean", None),
        ("string", None),
        ("string", []),
        (["integer", "null"], "null"),
    ],
)
def test_what_merely_looks_like_it_is_refused(kind: Any, given_value: Any) -> None:
    with pytest.raises(InvalidInput, match="a: "):
        taken(kind, given_value)


def test_a_number_too_large_for_a_float_is_told_as_it_was_written() -> None:
    with pytest.raises(InvalidInput, match='"1e999" is not of type "number"'):
        taken("number", "1e999")


def test_constraints_hold_for_what_was_made_of_it() -> None:
    assert taken("integer", "5", maximum=5) == 5
    with pytest.raises(InvalidInput, match="maximum"):
        taken("integer", "6", maximum=5)
    with pytest.raises(InvalidInput, match="longer"):
        taken("string", 1234, maxLength=3)


def test_nothing_is_coerced_unasked() -> None:
    validator = SchemaValidator({"properties": {"a": {"type": "integer"}, "b": {"type": "integer", "x-coerce": True}}})
    assert validator.validate_input({"b": "1"}) == {"b": 1}
    with pytest.raises(InvalidInput, match="a: "):
        validator.validate_input({"a": "1"})


def test_coercion_reaches_into_objects_lists_and_references() -> None:
    validator = SchemaValidator(
        {
            "$defs": {"Node": {"properties": {"n": {"$ref": "#/$defs/N"}, "next": {"items": {"$ref": "#/$defs/Node"}}}},
                      "N": {"type": "integer", "x-coerce": True}},
            "$ref": "#/$defs/Node",
        }
    )  # fmt: skip
    arguments = {"n": "1", "next": [{"n": "2", "next": [{"n": "3"}]}], "other": "4"}
    before = copy.deepcopy(arguments)
    assert validator.validate_input(arguments) == {"n": 1, "next": [{"n": 2, "next": [{"n": 3}]}], "other": "4"}
    assert arguments == before


@pytest.mark.parametrize("value", [{"c": "1"}, [], 1, "1", None, {"b": None}])
def test_values_of_another_shape_are_left_alone(value: Any) -> None:
    nested = {"properties": {"b": {"type": ["integer", "null"], "x-coerce": True}}}
    assert SchemaValidator({"properties": {"a": nested}}).validate_input({"a": value}) == {"a": value}


@settings(deadline=None)
@given(kind=st.sampled_from(["string", "integer", "number", "boolean"]), value=SCALARS)
def test_what_fits_already_stays_and_what_comes_out_fits(kind: str, value: Any) -> None:
    plain = SchemaValidator({"properties": {"a": {"type": kind}}})
    try:
        found = taken(kind, value)
    except InvalidInput:
        with pytest.raises(InvalidInput):
            plain.validate_input({"a": value})
        return
    assert plain.validate_input({"a": found}) == {"a": found}
    assert taken(kind, found) == found
