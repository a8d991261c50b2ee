"""Parameters described one by one: the schema they make, and their way to JSON and back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidInput, InvalidRequest
from gateway.tools.parameters import (
    ArrayParameter,
    BooleanParameter,
    IntegerParameter,
    NumberParameter,
    ObjectParameter,
    Parameter,
    StringParameter,
    input_schema_of,
    parameters_from_json,
    parameters_schema,
)
from gateway.tools.validation import SchemaValidator

EVERYTHING: tuple[Parameter, ...] = (
    StringParameter(
        name="code",
        description="A code.",
        required=True,
        pattern="^[a-z]+$",
        min_length=2,
        max_length=9,
        examples=("ab",),
    ),
    StringParameter(name="when", format="date-time", deprecated=True),
    StringParameter(name="unit", enum=("kg", "lb"), default="kg", coerce=True),
    NumberParameter(name="weight", minimum=0, exclusive_maximum=100.5, multiple_of=0.5),
    NumberParameter(name="step", enum=(0.5, 1.0), exclusive_minimum=0, maximum=1),
    IntegerParameter(name="limit", default=0, minimum=0, maximum=10, coerce=True),
    BooleanParameter(name="dry", default=False, coerce=True),
    ArrayParameter(
        name="ids", items=IntegerParameter(minimum=1, coerce=True), min_items=1, max_items=3, unique_items=True
    ),
    ObjectParameter(
        name="who",
        properties=(StringParameter(name="kind", required=True), IntegerParameter(name="level", default=1)),
        one_of=(
            ObjectParameter(properties=(StringParameter(name="email", required=True),)),
            ObjectParameter(properties=(StringParameter(name="phone", required=True),)),
        ),
    ),
    ObjectParameter(name="more", additional_properties=True, properties=(StringParameter(name="x"),)),
    ObjectParameter(name="free"),
)
VALIDATOR = SchemaValidator(parameters_schema(EVERYTHING))


def test_the_schema_says_what_the_parameters_say() -> None:
    made = parameters_schema(EVERYTHING[:3])
    assert made == {
        "type": "object",
        "properties": {
            "code": {
                "type": "string",
                "description": "A code.",
                "pattern": "^[a-z]+$",
                "minLength": 2,
                "maxLength": 9,
                "examples": ["ab"],
            },
            "when": {"type": "string", "format": "date-time", "deprecated": True},
            "unit": {"type": "string", "enum": ["kg", "lb"], "default": "kg", "x-coerce": True},
        },
        "required": ["code"],
        "additionalProperties": False,
    }
    assert VALIDATOR.deprecated({"when": "2024-01-01"}) == ("when",)


def test_arguments_are_completed() -> None:
    assert VALIDATOR.validate_input({"code": "ab"}) == {"code": "ab", "unit": "kg", "limit": 0, "dry": False}
    found = VALIDATOR.validate_input(
        {"code": "ab", "limit": "7", "dry": "yes", "ids": ["1", 2], "who": {"kind": "k", "email": "e"}}
    )
    assert (found["limit"], found["dry"], found["ids"]) == (7, True, [1, 2])
    assert found["who"] == {"kind": "k", "email": "e", "level": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        {"weight": 0.5},
        {"step": 0.5},
        {"when": "2024-01-01T00:00:00Z"},
        {"who": {"kind": "k", "phone": "p", "level": 2}},
        {"more": {"x": "y", "z": 1}},
        {"free": {"z": 1}},
    ],
)
def test_what_fits_is_taken(arguments: dict[str, Any]) -> None:
    VALIDATOR.validate_input({"code": "ab", **arguments})


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"code": "a"}, "code"),
        ({"code": "AB"}, "code"),
        ({"code": "abcdefghij"}, "code"),
        ({"when": "soon"}, "when"),
        ({"unit": "g"}, "unit"),
        ({"weight": -0.5}, "weight"),
        ({"weight": 100.5}, "weight"),
        ({"weight": 0.3}, "weight"),
        ({"weight": True}, "weight"),
        ({"step": 0}, "step"),
        ({"limit": 11}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"limit": True}, "limit"),
        ({"dry": "maybe"}, "dry"),
        ({"ids": []}, "ids"),
        ({"ids": [1, 1]}, "ids"),
        ({"ids": [1, 2, 3, 4]}, "ids"),
        ({"ids": [0]}, "ids[0]"),
        ({"who": {"kind": "k"}}, "who"),
        ({"who": {"kind": "k", "email": "e", "phone": "p"}}, "who"),
        ({"who": {"kind": "k", "email": "e", "other": 1}}, "who"),
        ({"who": {"email": "e"}}, "who"),
        ({"more": {"x": 1}}, "more.x"),
        ({"other": 1}, ""),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(arguments: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        VALIDATOR.validate_input({"code": "ab", **arguments})
    assert path in {error["path"] for error in caught.value.details["errors"]}


def test_all_misfits_are_told_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        VALIDATOR.validate_input({"limit": 11, "unit": "g", "ids": [0, "x"]})
    assert {error["path"] for error in caught.value.details["errors"]} == {"", "limit", "unit", "ids[0]", "ids[1]"}


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        (StringParameter, {"min_length": 3, "max_length": 2}, "min_length 3 is above max_length 2"),
        (StringParameter, {"min_length": -1}, "invalid schema"),
        (StringParameter, {"pattern": "("}, "invalid schema"),
        (StringParameter, {"default": 1}, "its default does not fit"),
        (StringParameter, {"default": "abc", "max_length": 2}, "its default does not fit"),
        (StringParameter, {"default": "c", "enum": ("a", "b")}, "its default does not fit"),
        (StringParameter, {"enum": ("a", 1)}, "its enum does not fit"),
        (StringParameter, {"examples": ("a", 1)}, "its example does not fit"),
        (StringParameter, {"required": True, "default": "a"}, "drop one"),
        (NumberParameter, {"minimum": 2, "maximum": 1.5}, "above"),
        (NumberParameter, {"minimum": "2"}, "invalid schema"),
        (NumberParameter, {"multiple_of": 0}, "invalid schema"),
        (IntegerParameter, {"default": 1.5}, "its default does not fit"),
        (IntegerParameter, {"default": True}, "its default does not fit"),
        (IntegerParameter, {"default": "1", "coerce": True}, "its default does not fit"),
        (IntegerParameter, {"enum": ("1",)}, "its enum does not fit"),
        (BooleanParameter, {"default": 0}, "its default does not fit"),
        (ArrayParameter, {"min_items": 2, "max_items": 1}, "above"),
        (ArrayParameter, {"items": IntegerParameter(), "default": ["a"]}, "its default does not fit"),
        (ObjectParameter, {"properties": (StringParameter(),)}, "no name"),
        (ObjectParameter, {"properties": (StringParameter(name="a"), IntegerParameter(name="a"))}, "2 parameters"),
        (
            ObjectParameter,
            {"properties": (StringParameter(name="a"),), "default": {"b": 1}},
            "its default does not fit",
        ),
        (
            ObjectParameter,
            {"one_of": (ObjectParameter(properties=(IntegerParameter(name="a", default=1),)),)},
            "do nothing there",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(kind: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        kind(**({"name": "p"} | fields))
    assert "'p'" in str(caught.value) or "parameter" in str(caught.value)


@pytest.mark.parametrize("parameters", [[StringParameter()], [StringParameter(name="a"), IntegerParameter(name="a")]])
def test_names_are_given_and_differ(parameters: list[Parameter]) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        parameters_schema(parameters)


def test_json_and_back_keeps_everything() -> None:
    written = json.loads(json.dumps([parameter.to_json() for parameter in EVERYTHING]))
    assert parameters_from_json(written) == EVERYTHING
    assert parameters_schema(parameters_from_json(written)) == parameters_schema(EVERYTHING)
    assert written[5] == {"type": "integer", "name": "limit", "default": 0, "minimum": 0, "maximum": 10, "coerce": True}


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ([{"name": "a"}], "type"),
        ([{"type": "text", "name": "a"}], "type"),
        ([{"type": "string", "name": "a", "min": 1}], r"\[0\].*min"),
        ([{"type": "string", "name": "a", "min_length": "1"}], "min_length"),
        ([{"type": "string", "name": "a", "required": "yes"}], "required"),
        ([{"type": "integer", "name": "a", "minimum": 2, "maximum": 1}], "above"),
        ([{"type": "array", "name": "a", "items": {"type": "string", "pattern": "("}}], "invalid schema"),
        ({"type": "string"}, "parameters"),
        ("string", "parameters"),
        ([1], "0"),
        ([{"type": "string", "name": object()}], "JSON"),
    ],
)
def test_json_that_is_no_parameter_says_where(written: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        parameters_from_json(written)


def test_a_tool_has_parameters_or_a_schema() -> None:
    assert input_schema_of(None, {"type": "object"}) == {"type": "object"}
    assert input_schema_of([], None) == input_schema_of(None, None) == parameters_schema([])
    with pytest.raises(InvalidRequest, match="one of them"):
        input_schema_of([], {})


@settings(deadline=None)
@given(low=st.integers(-5, 5), high=st.integers(-5, 5), value=st.integers(-6, 6))
def test_bounds_mean_what_they_say(low: int, high: int, value: int) -> None:
    try:
        made = IntegerParameter(name="n", minimum=low, maximum=high)
    except InvalidRequest:
        assert low > high
        return
    validator = SchemaValidator(parameters_schema([made]))
    if low <= value <= high:
        validator.validate_input({"n": value})
    else:
        with pytest.raises(InvalidInput):
            validator.validate_input({"n": value})
