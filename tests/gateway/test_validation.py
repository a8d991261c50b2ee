"""Schemas compiled, values checked, misfits explained."""

import copy
import time as time_of_day
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

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
        ({"type": "nope"}, '^invalid schema: type: "nope" is not valid'),
        (
            {"properties": {"a": {"minimum": "x"}}},
            ': properties.a.minimum: "x" is not of type "number"$',
        ),
        ({"$ref": "https://example.com/schema.json"}, r"\$defs"),
        ({"$ref": "file:///etc/passwd"}, r"\$defs"),
        ({"$id": "https://a.example/b", "$ref": "c"}, r"\$defs"),
        ({"$ref": "#/$defs/missing"}, "invalid schema"),
        ({"$schema": "https://json-schema.org/draft/2019-09/schema"}, "2020-12 or draft-07"),
        ({"$schema": 7}, "2020-12 or draft-07"),
        ({"pattern": "("}, r'^invalid schema: pattern: "\(" is not a "regex"$'),
        (True, "must be a JSON object"),
        (False, "must be a JSON object"),
        ({"properties": {"a": {"$id": "https://a.example/b"}}}, r"\$id within it"),
        ({"properties": {"a": {"type": "array", "x-coerce": True}}}, "x-coerce must be true beside one type"),
    ],
)
def test_unusable_schemas_are_refused_at_once(schema: Any, says: str) -> None:
    started = time_of_day.monotonic()
    with pytest.raises(InvalidRequest, match=says):
        SchemaValidator(schema)
    assert time_of_day.monotonic() - started < 1, "it must not wait for a network"


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
    started = time_of_day.monotonic()
    with pytest.raises(InvalidInput, match="do not fit the schema"):
        validator.validate_input({"a": ["x"] * 200_000})
    assert time_of_day.monotonic() - started < 0.5


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^(?=a)(a+)+$", r"^(a+)+\1$"])
def test_patterns_that_look_like_redos_answer_at_once(pattern: str) -> None:
    validator = SchemaValidator({"properties": {"a": {"type": "string", "pattern": pattern}}})
    started = time_of_day.monotonic()
    with pytest.raises(InvalidInput):
        validator.validate_input({"a": "a" * 10_000 + "!"})
    assert time_of_day.monotonic() - started < 1


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


@settings(deadline=None)
@given(defaults=st.dictionaries(st.text(max_size=5), JSON, max_size=5), arguments=st.dictionaries(st.text(), JSON))
def test_given_values_win_over_defaults(defaults: dict[str, Any], arguments: dict[str, Any]) -> None:
    validator = SchemaValidator({"properties": {name: {"default": value} for name, value in defaults.items()}})
    before = copy.deepcopy(arguments)
    assert validator.validate_input(arguments) == {**defaults, **arguments}
    assert arguments == before


def test_a_property_named_like_a_keyword_is_just_a_property() -> None:
    names = ["$id", "$ref", "default", "x-coerce", "items", "properties", "format"]
    validator = SchemaValidator({"properties": {name: {"type": "integer"} for name in names}})
    assert validator.validate_input(dict.fromkeys(names, 1)) == dict.fromkeys(names, 1)


@pytest.mark.parametrize(
    ("value", "fits"), [(1, True), (1.0, True), (-0.0, True), (1.5, False), (True, False), ("1", False)]
)
def test_what_an_integer_is(value: Any, *, fits: bool) -> None:
    validator = SchemaValidator({"properties": {"n": {"type": "integer"}}})
    if fits:
        assert validator.validate_input({"n": value})["n"] is value
    else:
        with pytest.raises(InvalidInput, match="integer"):
            validator.validate_input({"n": value})


def test_a_boolean_is_no_number() -> None:
    with pytest.raises(InvalidInput):
        SchemaValidator({"properties": {"n": {"type": "number"}}}).validate_input({"n": True})


FORMATS = {
    "date": (["2024-02-29"], ["2023-02-29", "20240229", "2024-2-9", "2024-02-29T00:00:00Z"]),
    "date-time": (
        ["2024-02-29T10:00:00Z", "2024-02-29T10:00:00", "2024-02-29 10:00", "2024-02-29t10:00:00.123456789+05:30"],
        [
            "2024-02-30T10:00:00Z",
            "2024-02-29",
            "2024-02-29T25:00:00Z",
            "2024-W01-1T10:00",
            "20240229T100000",
            "now",
            "٢٠٢٤-02-29T10:00",
        ],
    ),
    "time": (["10:00:00Z", "10:00", "23:59:59.5-02:00"], ["24:01", "10", "10:00:00 UTC", ""]),
    "duration": (["PT1H", "P1DT2H", "PT0.5S", "-P1D", "P2W", "P1Y2M3D"], ["P", "PT", "1H", "P1H", "P1DT", "PT1.5H"]),
    "email": (["a.b+c@example.org"], ["a", "a@", "@b", "a b@c.de"]),
    "uri": (["https://example.org/a?b#c", "urn:isbn:1"], ["/a", "example.org", "https://a.b/c d", "http://[::1"]),
    "uuid": (
        ["12345678-1234-5678-1234-567812345678"],
        ["12345678123456781234567812345678", "{12345678-1234-5678-1234-567812345678}"],
    ),
    "ipv4": (["127.0.0.1"], ["127.1", "256.0.0.1", "010.0.0.1", "::1"]),
    "ipv6": (["::1", "::ffff:1.2.3.4"], ["127.0.0.1", ":::1", "fe80::1%eth0"]),
    "hostname": (["a.example"], ["a_b.example", "-a.example", "a..b"]),
    "no-such-format": (["whatever"], []),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_checked(name: str) -> None:
    validator = SchemaValidator({"properties": {"a": {"format": name}}})
    right, wrong = FORMATS[name]
    for text in [*right, 7, None]:  # what is no text has no format
        validator.validate_input({"a": text})
    for text in wrong:
        with pytest.raises(InvalidInput, match="a: "):
            validator.validate_input({"a": text})


def test_formats_are_checked_in_draft_07_too() -> None:
    validator = SchemaValidator(
        {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": {"format": "date"}}}
    )
    with pytest.raises(InvalidInput, match='"tomorrow" is not a "date"'):
        validator.validate_input({"a": "tomorrow"})


def test_what_a_function_returns_in_dates_fits_its_own_schema() -> None:
    adapter = TypeAdapter(tuple[datetime, time, timedelta, date, UUID])
    schema = {"properties": {"a": adapter.json_schema(mode="serialization")}}
    moments = (datetime(2024, 1, 1, 10), time(10), timedelta(days=-1, seconds=0.5), date(2024, 1, 1), UUID(int=1))  # noqa: DTZ001 - naive on purpose
    SchemaValidator(schema).validate_output({"a": adapter.dump_python(moments, mode="json")})


def choices(count: int) -> dict[str, Any]:
    """An expression of `count` operators, as pydantic describes one: a recursive choice."""
    expression = {"$ref": "#/$defs/Expression"}
    made = [
        {
            "type": "object",
            "properties": {"left": expression, "op": {"const": f"op{number}"}},
            "required": ["left", "op"],
        }
        for number in range(count)
    ]
    return {"$defs": {"Expression": {"oneOf": [{"type": "integer"}, *made]}}, "properties": {"e": expression}}


@pytest.mark.parametrize("count", [1, 2, 4, 30])
def test_a_misfit_deep_in_a_recursive_choice_does_not_block_the_host(count: int) -> None:
    validator = SchemaValidator(choices(count))
    value: Any = "bad"
    for _ in range(100):
        value = {"left": value, "op": "op0"}
    started = time_of_day.monotonic()
    with pytest.raises(InvalidInput):
        validator.validate_input({"e": value})
    assert time_of_day.monotonic() - started < 10


def test_a_misfit_deep_in_choices_within_choices_does_not_block_the_host() -> None:
    inner: dict[str, Any] = {"type": "integer"}
    value: Any = "bad"
    for _ in range(8):
        inner = {"anyOf": [{"type": "object", "properties": {"a": inner, f"b{number}": {}}} for number in range(4)]}
        value = {"a": value}
    validator = SchemaValidator({"properties": {"e": inner}})
    started = time_of_day.monotonic()
    with pytest.raises(InvalidInput):
        validator.validate_input({"e": value})
    assert time_of_day.monotonic() - started < 10


def test_a_misfit_not_so_deep_in_a_recursive_choice_is_explained() -> None:
    with pytest.raises(InvalidInput, match=r"^e: .*oneOf"):
        SchemaValidator(choices(3)).validate_input({"e": {"left": {"left": "bad", "op": "op0"}, "op": "op1"}})


def test_a_misfit_deep_in_a_plain_tree_is_explained() -> None:
    tree = {"type": "object", "properties": {"value": {"type": "integer"}, "children": {"items": {"$ref": "#"}}}}
    value: Any = {"value": "bad"}
    for _ in range(40):
        value = {"value": 1, "children": [value]}
    with pytest.raises(InvalidInput, match=r"children\[0\]"):
        SchemaValidator(tree).validate_input(value)


@pytest.mark.parametrize("wrap", [lambda ref: ref, lambda ref: {"properties": {"a": ref}}])
@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_a_schema_that_multiplies_is_refused(keyword: str, wrap: Any) -> None:
    links = {f"s{number}": {keyword: [wrap({"$ref": f"#/$defs/s{number + 1}"})] * 2} for number in range(60)}
    with pytest.raises(InvalidRequest, match="multiply"):
        SchemaValidator({"$defs": {**links, "s60": {}}, "$ref": "#/$defs/s0"})


def test_a_large_schema_that_does_not_multiply_is_fine() -> None:
    links = {f"s{number}": {"properties": {"a": {"$ref": f"#/$defs/s{number + 1}"}}} for number in range(100)}
    wide = {f"p{number}": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/s0"}]} for number in range(300)}
    SchemaValidator({"$defs": {**links, "s100": {}}, "properties": wide}).validate_input({"p7": {"a": {}}})


def test_a_schema_nested_too_deeply_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"not": deep}
    chain = {f"s{number}": {"$ref": f"#/$defs/s{number + 1}"} for number in range(5000)}
    for schema in (deep, {"$defs": {**chain, "s5000": {}}, "$ref": "#/$defs/s0"}):
        with pytest.raises(InvalidRequest, match="invalid schema"):
            SchemaValidator(schema)


def test_large_arguments_are_judged_at_once() -> None:
    validator = SchemaValidator(
        {"properties": {"a": {"type": "string", "maxLength": 10}}, "additionalProperties": False}
    )
    started = time_of_day.monotonic()
    for arguments in ({"a": "x" * 10_000_000}, {"b": ["x"] * 1_000_000}, {"x" * 10_000_000: 1}):
        with pytest.raises(InvalidInput) as caught:
            validator.validate_input(arguments)
        assert len(str(caught.value.to_json())) < 2000
    assert time_of_day.monotonic() - started < 10


def test_defaults_are_filled_in_inside_of_lists() -> None:
    item = {"type": "object", "properties": {"n": {"default": 1}, "more": {"items": {"$ref": "#/$defs/Item"}}}}
    validator = SchemaValidator({"$defs": {"Item": item}, "properties": {"all": {"items": {"$ref": "#/$defs/Item"}}}})
    assert validator.validate_input({"all": [{}, {"n": 2, "more": [{}]}]}) == {
        "all": [{"n": 1}, {"n": 2, "more": [{"n": 1}]}]
    }


def test_deprecated_arguments_are_named() -> None:
    validator = SchemaValidator(
        {
            "$defs": {"Old": {"deprecated": True}},
            "properties": {"a": {"deprecated": True}, "b": {}, "c": {"$ref": "#/$defs/Old"}},
        }
    )
    assert validator.deprecated({"a": 1, "b": 2, "c": 3}) == ("a", "c")
    assert validator.deprecated({"b": 2, "x": 3}) == ()


def test_anchors_are_local_references_too() -> None:
    validator = SchemaValidator(
        {
            "$defs": {"User": {"$anchor": "user", "properties": {"role": {"default": "guest"}}}},
            "properties": {"u": {"$ref": "#user"}},
        }
    )
    assert validator.validate_input({"u": {}}) == {"u": {"role": "guest"}}
