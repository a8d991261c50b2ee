"""Schemas compiled, values checked, misfits explained."""

import copy
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidInput, InvalidOutput, InvalidRequest
from gateway.tools.validation import SchemaValidator

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "nope"}, "invalid schema"),
        ({"$ref": "https://example.com/schema.json"}, r"\$defs"),
        ({"$ref": "file:///etc/passwd"}, r"\$defs"),
        ({"$id": "https://a.example/b", "$ref": "c"}, r"\$defs"),
        ({"$ref": "#/$defs/missing"}, "invalid schema"),
        ({"$schema": "https://json-schema.org/draft/2019-09/schema"}, "2020-12 or draft-07"),
        ({"$schema": 7}, "2020-12 or draft-07"),
        ({"pattern": "("}, "invalid schema"),
        (True, "must be a JSON object"),
        (False, "must be a JSON object"),
    ],
)
def test_unusable_schemas_are_refused_at_once(schema: Any, says: str) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidRequest, match=says):
        SchemaValidator(schema)
    assert time.monotonic() - started < 1, "it must not wait for a network"


def test_draft_07_means_draft_07() -> None:
    # In draft-07 a list of `items` is positional; in 2020-12 it is not valid.
    pair = {"items": [{"type": "integer"}, {"type": "string"}]}
    validator = SchemaValidator({"$schema": "http://json-schema.org/draft-07/schema#", **pair})
    validator.validate_output([1, "a"])
    with pytest.raises(InvalidOutput):
        validator.validate_output(["a", 1])
    with pytest.raises(InvalidRequest):
        SchemaValidator(pair)


def test_misfits_are_told_in_words_with_their_paths() -> None:
    validator = SchemaValidator(
        {
            "type": "object",
            "properties": {
                "user": {"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "string"}}}},
                "limit": {"type": "integer", "maximum": 9},
            },
            "required": ["user", "id"],
            "additionalProperties": False,
        }
    )
    with pytest.raises(InvalidInput) as caught:
        validator.validate_input({"user": {"tags": ["a", 2]}, "limit": 10, "lmit": 1})
    errors = {error["path"]: error["message"] for error in caught.value.details["errors"]}
    assert errors["user.tags[1]"] == '2 is not of type "string"'
    assert errors["limit"] == "10 is greater than the maximum of 9"
    messages = [error["message"] for error in caught.value.details["errors"]]
    assert '"id" is missing' in messages
    assert 'unexpected "lmit"; it takes user, limit' in messages
    assert caught.value.message.endswith("(and 1 more)")


def test_an_offending_value_is_shown_only_in_part() -> None:
    validator = SchemaValidator({"properties": {"a": {"type": "integer"}}, "additionalProperties": False})
    for arguments in ({"a": "s3cret" * 100_000}, {"a": ["s3cret"] * 1000}, {"s3cret" * 100_000: 1}):
        with pytest.raises(InvalidInput) as caught:
            validator.validate_input(arguments)
        assert caught.value.message.count("s3cret") < 30
        assert str(caught.value.details).count("s3cret") < 60
        assert len(caught.value.message) < 1000


def test_the_list_of_misfits_is_bounded() -> None:
    validator = SchemaValidator({"properties": {"a": {"items": {"type": "integer"}}}})
    with pytest.raises(InvalidInput) as caught:
        validator.validate_input({"a": ["x"] * 1000})
    assert len(caught.value.details["errors"]) == 50
    assert "997 more" in caught.value.message


def test_a_flood_of_misfits_does_not_block_the_host() -> None:
    integers = {"type": "array", "items": {"type": "integer"}}
    validator = SchemaValidator({"properties": {"a": {"anyOf": [{"type": "null"}, integers]}}})
    started = time.monotonic()
    with pytest.raises(InvalidInput, match="do not fit the schema"):
        validator.validate_input({"a": ["x"] * 200_000})
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^(?=a)(a+)+$", r"^(a+)+\1$"])
def test_patterns_that_look_like_redos_answer_at_once(pattern: str) -> None:
    validator = SchemaValidator({"properties": {"a": {"type": "string", "pattern": pattern}}})
    started = time.monotonic()
    with pytest.raises(InvalidInput):
        validator.validate_input({"a": "a" * 10_000 + "!"})
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("value", [{1: 2}, {"a": b"x"}, {"a": object()}])
def test_what_is_no_json_never_fits(value: Any) -> None:
    with pytest.raises(InvalidInput):
        SchemaValidator({"properties": {"a": {"type": "string"}}}).validate_input(value)


def test_defaults_are_filled_in_at_every_level() -> None:
    validator = SchemaValidator(
        {
            "$defs": {"Page": {"properties": {"size": {"default": 10}, "next": {"$ref": "#/$defs/Page"}}}},
            "properties": {
                "page": {"$ref": "#/$defs/Page"},
                "options": {"default": {"deep": []}, "properties": {"other": {"default": 1}}},
                "user": {"properties": {"role": {"default": "guest"}}},
                "absent": {"properties": {"role": {"default": "guest"}}},
            },
        }
    )
    given_arguments = {"page": {"next": {"next": {"size": 1}}}, "user": {}}
    before = copy.deepcopy(given_arguments)
    assert validator.validate_input(given_arguments) == {
        "page": {"size": 10, "next": {"size": 10, "next": {"size": 1}}},
        "user": {"role": "guest"},
        "options": {"deep": []},
    }
    assert given_arguments == before


def test_a_default_belongs_to_one_call() -> None:
    validator = SchemaValidator({"properties": {"a": {"default": {"list": []}}}})
    validator.validate_input({})["a"]["list"].append(1)
    assert validator.validate_input({}) == {"a": {"list": []}}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"properties": {"a": {"$ref": "#", "default": {}}}},
        {"allOf": [{"$ref": "#"}]},
    ],
)
def test_schemas_that_go_in_circles_end(schema: dict[str, Any]) -> None:
    SchemaValidator(schema).validate_input({"a": {}})


@given(defaults=st.dictionaries(st.text(max_size=5), JSON, max_size=5), arguments=st.dictionaries(st.text(), JSON))
def test_given_values_win_over_defaults(defaults: dict[str, Any], arguments: dict[str, Any]) -> None:
    validator = SchemaValidator({"properties": {name: {"default": value} for name, value in defaults.items()}})
    before = copy.deepcopy(arguments)
    assert validator.validate_input(arguments) == {**defaults, **arguments}
    assert arguments == before
