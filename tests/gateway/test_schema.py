"""Schemas from signatures, and the way from JSON to Python and back."""

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import uuid
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field

from gateway.context import ToolContext
from gateway.errors import InvalidInput, InvalidOutput, InvalidRequest
from gateway.tools.schema import description, func_name, signature_schemas


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class User(BaseModel):
    name: str
    born: dt.date | None = None


def test_a_plain_signature() -> None:
    def lookup(id: str, limit: int = 10) -> list[str]:  # noqa: A002
        return [id] * limit

    given, result, adapter = signature_schemas(lookup)
    assert given == {
        "type": "object",
        "properties": {"id": {"type": "string"}, "limit": {"type": "integer", "default": 10}},
        "required": ["id"],
        "additionalProperties": False,
    }
    assert result == {"type": "array", "items": {"type": "string"}}
    assert adapter.arguments({"id": "a"}) == {"id": "a", "limit": 10}


def test_the_function_receives_python_objects() -> None:
    def book(
        user: User,
        at: dt.datetime,
        price: decimal.Decimal,
        color: Color,
        point: Point,
        key: uuid.UUID,
        kind: Literal["a", "b"],
        note: Optional[str] = None,  # noqa: UP045
    ) -> None: ...

    _, result, adapter = signature_schemas(book)
    key = uuid.uuid4()
    found = adapter.arguments(
        {
            "user": {"name": "Ada", "born": "1815-12-10"},
            "at": "2024-02-29T12:00:00Z",
            "price": "12.50",
            "color": "red",
            "point": {"x": 1},
            "key": str(key),
            "kind": "a",
        }
    )
    assert found == {
        "user": User(name="Ada", born=dt.date(1815, 12, 10)),
        "at": dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC),
        "price": decimal.Decimal("12.50"),
        "color": Color.RED,
        "point": Point(1, 0),
        "key": key,
        "kind": "a",
        "note": None,
    }
    assert result == {"type": "null"}


def test_results_of_any_serialisable_type_become_plain_json() -> None:
    def untyped():  # type: ignore[no-untyped-def]  # noqa: ANN202
        """No annotation at all."""

    _, schema, adapter = signature_schemas(untyped)
    assert schema is None
    value = {"c": Color.RED, "p": Point(1), "u": User(name="A"), "t": (1, {2}), "d": decimal.Decimal("1.5"), 3: None}
    assert adapter.result(value) == {
        "c": "red",
        "p": {"x": 1, "y": 0},
        "u": {"name": "A", "born": None},
        "t": [1, [2]],
        "d": "1.5",
        "3": None,
    }
    with pytest.raises(InvalidOutput, match="object has no JSON form"):
        adapter.result(object())


def test_parameters_without_annotation_take_any_json() -> None:
    def anything(a, b=1):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return a, b

    given, result, adapter = signature_schemas(anything)
    assert given["properties"] == {"a": {}, "b": {"default": 1}}
    assert result is None
    assert adapter.arguments({"a": [None, {"x": 1}]})["a"] == [None, {"x": 1}]


def test_further_keywords_are_properties() -> None:
    def loose(a: int, **more: Any) -> int:
        return a + len(more)

    def strict(**more: int) -> int:
        return len(more)

    given, _, adapter = signature_schemas(loose)
    assert given["additionalProperties"] is True
    assert adapter.arguments({"a": 1, "z": "y"}) == {"a": 1, "z": "y"}
    assert signature_schemas(strict)[0]["additionalProperties"] == {"type": "integer"}


def test_names_that_pydantic_models_cannot_have_work() -> None:
    def odd(schema: str, copy: int, _x: int = 1, model_config: int = 2, arguments: int = 3) -> str:
        return schema

    assert signature_schemas(odd)[2].arguments({"schema": "s", "copy": 1, "_x": 5}) == {
        "schema": "s",
        "copy": 1,
        "_x": 5,
        "model_config": 2,
        "arguments": 3,
    }


def test_constraints_and_descriptions_are_in_the_schema() -> None:
    def page(size: Annotated[int, Field(ge=1, le=50, description="rows")] = 5) -> None: ...

    assert signature_schemas(page)[0]["properties"]["size"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 50,
        "description": "rows",
        "default": 5,
    }


def test_sloppy_defaults_never_make_a_call_fail() -> None:
    class Sloppy(BaseModel):
        z: int = None  # type: ignore[assignment]

    def sloppy(
        a: int = None,  # type: ignore[assignment]  # noqa: RUF013
        b: int = "many",  # type: ignore[assignment]
        c: Any = object,
        s: Sloppy | None = None,
    ) -> None: ...

    given, _, adapter = signature_schemas(sloppy)
    assert "default" not in given["properties"]["b"]
    assert "default" not in given["properties"]["c"]
    assert "default" not in given["$defs"]["Sloppy"]["properties"]["z"]
    assert adapter.arguments({"a": None, "s": {}})["b"] == "many"


def positional(a: int, /) -> int:
    return a


def star(*args: int) -> int:
    return len(args)


def generator() -> int:  # type: ignore[misc]  # the annotation is what is wrong
    yield 1


def two_contexts(one: ToolContext, two: ToolContext) -> None: ...


def socket_taker(s: "threading.Lock") -> None:  # type: ignore[name-defined]  # noqa: F821
    ...


class Opaque: ...


def opaque(x: Opaque) -> None: ...


def opaque_result() -> Opaque:
    return Opaque()


@pytest.mark.parametrize(
    ("func", "says"),
    [
        (positional, "by position"),
        (star, "by position"),
        (generator, "generator"),
        (two_contexts, "one is enough"),
        (socket_taker, "cannot be resolved"),
        (opaque, "no JSON form"),
        (opaque_result, "no JSON form"),
        (Opaque, "is a class"),
        (functools.partial(dict, a=1), "class"),
    ],
)
def test_what_has_no_json_form_is_refused_at_registration(func: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        signature_schemas(func)


def test_what_a_partial_binds_is_out_of_a_guests_reach() -> None:
    def query(tenant: str, text: str, limit: int = 5) -> str:
        return f"{tenant} {text} {limit}"

    given, _, adapter = signature_schemas(functools.partial(query, tenant="acme"))
    assert set(given["properties"]) == {"text", "limit"}
    assert given["additionalProperties"] is False
    with pytest.raises(InvalidInput):
        adapter.arguments({"tenant": "other", "text": "x"})

    def loose(**more: str) -> int:
        return len(more)

    with pytest.raises(InvalidRequest, match="wrap it"):
        signature_schemas(functools.partial(loose, tenant="acme"))


def test_what_json_schema_cannot_say_is_invalid_input_with_a_path() -> None:
    def on(day: dt.date, user: User) -> None: ...

    with pytest.raises(InvalidInput) as caught:
        signature_schemas(on)[2].arguments({"day": "2024-02-31", "user": {"name": "x", "born": "never"}})
    assert [error["path"] for error in caught.value.details["errors"]] == ["day", "user.born"]
    assert caught.value.message.startswith("day: ")


def test_names_and_docstrings_of_all_kinds_of_callables() -> None:
    class Adder:
        """Adds."""

        def __call__(self, a: int) -> int:
            return a + 1

        def method(self, a: int) -> int:
            """Adds, too."""
            return a + 1

    adder = Adder()
    assert (func_name(adder), description(adder)) == ("Adder", "Adds.")
    assert (func_name(adder.method), description(adder.method)) == ("method", "Adds, too.")
    partial = functools.partial(adder.method, a=1)
    assert (func_name(partial), description(partial)) == ("method", "Adds, too.")
    assert signature_schemas(adder)[0]["required"] == ["a"]
    assert signature_schemas(adder.method)[0]["required"] == ["a"]
