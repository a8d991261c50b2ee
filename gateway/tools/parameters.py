"""Parameters of a tool, described one by one instead of by a JSON Schema, and the schema that they make.

parameters_schema([
    StringParameter(name="id", required=True, pattern="^[a-z]+$"),
    IntegerParameter(name="limit", default=10, minimum=1, coerce=True),
])
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from gateway.base import JsonValue
from gateway.errors import InvalidOutput, InvalidRequest
from gateway.tools.coercion import KEYWORD
from gateway.tools.validation import SchemaValidator, path_text

_SHOWN_ERRORS = 3
# What the fields are called in JSON Schema. Those not here say something about the parameter and nothing about values.
_KEYWORDS = {
    "enum": "enum",
    "format": "format",
    "pattern": "pattern",
    "min_length": "minLength",
    "max_length": "maxLength",
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusive_minimum": "exclusiveMinimum",
    "exclusive_maximum": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "items": "items",
    "min_items": "minItems",
    "max_items": "maxItems",
    "unique_items": "uniqueItems",
    "coerce": KEYWORD,
    "description": "description",
    "default": "default",
    "deprecated": "deprecated",
    "examples": "examples",
}
_BOUNDS = (
    ("min_length", "max_length"),
    ("min_items", "max_items"),
    ("minimum", "maximum"),
    ("exclusive_minimum", "exclusive_maximum"),
)


@dataclass(frozen=True, kw_only=True)
class BaseParameter:
    """What all parameters have. Raises InvalidRequest for values that contradict each other.

    `name` may be left out where it means nothing: for the items of an array and the alternatives of an object.
    `default` belongs to a parameter that is not required; None is no default. Deprecated parameters still work.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str = ""
    description: str = ""
    required: bool = False
    default: JsonValue = None
    deprecated: bool = False
    examples: tuple[JsonValue, ...] = ()

    def __post_init__(self) -> None:
        if self.required and self.default is not None:
            raise self._invalid("it is required and has a default; drop one of them")
        for low, high in _BOUNDS:
            least, most = getattr(self, low, None), getattr(self, high, None)
            if least is not None and most is not None and least > most:
                raise self._invalid(f"{low} {least} is above {high} {most}")
        try:
            schema = SchemaValidator(self.json_schema())
        except InvalidRequest as exc:
            raise self._invalid(str(exc)) from exc
        self._check_value(schema, "default", () if self.default is None else (self.default,))
        self._check_value(schema, "example", self.examples)
        self._check_value(schema, "enum", getattr(self, "enum", ()))

    def json_schema(self) -> dict[str, Any]:
        """The JSON Schema 2020-12 of the values of this parameter."""
        schema: dict[str, Any] = {"type": vars(self)["type"]}
        for name, value in self._given().items():
            if name in _KEYWORDS:
                schema[_KEYWORDS[name]] = value.json_schema() if isinstance(value, BaseParameter) else _listed(value)
        return schema

    def to_json(self) -> dict[str, JsonValue]:
        """A JSON object that `parameters_from_json` reads: the type, and every field that is not at its default."""
        return {"type": vars(self)["type"], **{name: _written(value) for name, value in self._given().items()}}

    def _given(self) -> dict[str, Any]:
        fields = [field for field in dataclasses.fields(self) if field.name != "type"]
        return {field.name: vars(self)[field.name] for field in fields if vars(self)[field.name] != field.default}

    def _check_value(self, schema: SchemaValidator, what: str, values: Iterable[JsonValue]) -> None:
        for value in values:
            try:
                schema.validate_output(value)
            except InvalidOutput as exc:
                raise self._invalid(f"its {what} does not fit it: {exc.message}") from exc

    def _invalid(self, reason: str) -> InvalidRequest:
        return InvalidRequest(f"parameter {self.name!r}: {reason}")


@dataclass(frozen=True, kw_only=True)
class StringParameter(BaseParameter):
    """A text. `format` is one of JSON Schema's, such as date-time; `pattern` fits anywhere in it unless anchored.

    `coerce` accepts numbers and booleans too.
    """

    type: Literal["string"] = "string"
    enum: tuple[str, ...] = ()
    format: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    coerce: bool = False


@dataclass(frozen=True, kw_only=True)
class NumberParameter(BaseParameter):
    """A number. `coerce` accepts one in a text too."""

    type: Literal["number"] = "number"
    enum: tuple[float, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | None = None
    exclusive_maximum: float | None = None
    multiple_of: float | None = None
    coerce: bool = False


@dataclass(frozen=True, kw_only=True)
class IntegerParameter(BaseParameter):
    """A whole number; 1.0 is one, true is none. `coerce` accepts one in a text too."""

    type: Literal["integer"] = "integer"
    enum: tuple[int, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    exclusive_minimum: int | None = None
    exclusive_maximum: int | None = None
    multiple_of: int | None = None
    coerce: bool = False


@dataclass(frozen=True, kw_only=True)
class BooleanParameter(BaseParameter):
    """true or false. `coerce` accepts yes, no, on, off, 1 and 0 too."""

    type: Literal["boolean"] = "boolean"
    coerce: bool = False


@dataclass(frozen=True, kw_only=True)
class ArrayParameter(BaseParameter):
    """A list, of `items` if that is given."""

    type: Literal["array"] = "array"
    items: "Parameter | None" = None
    min_items: int | None = None
    max_items: int | None = None
    unique_items: bool = False


@dataclass(frozen=True, kw_only=True)
class ObjectParameter(BaseParameter):
    """An object with `properties`, and with those of exactly one of `one_of`, whose names do not count.

    `additional_properties` says whether it may have others; None is yes only where no property is named.
    """

    type: Literal["object"] = "object"
    properties: "tuple[Parameter, ...]" = ()
    one_of: "tuple[ObjectParameter, ...]" = ()
    additional_properties: bool | None = None

    def __post_init__(self) -> None:
        _check_names(self.properties)
        for below in (parameter for choice in self.one_of for parameter in choice.properties):
            if below.default is not None or getattr(below, "coerce", False):
                raise self._invalid(f"{below.name!r} in one_of has a default or coerce, which do nothing there")
        super().__post_init__()

    def json_schema(self) -> dict[str, Any]:
        schema = super().json_schema()
        if self.properties:
            schema |= _properties(self.properties)
        if self.one_of:
            schema["oneOf"] = [choice._open().json_schema() for choice in self.one_of]
        more = self.additional_properties
        if more is False or (more is None and (self.properties or self.one_of)):
            # The properties of a choice are not the object's own; only the newer keyword knows of them.
            schema["unevaluatedProperties" if self.one_of else "additionalProperties"] = False
        return schema

    def _open(self) -> "ObjectParameter":
        """As a choice: what it does not name may be a property of the object that it is a choice of."""
        return self if self.additional_properties is not None else dataclasses.replace(self, additional_properties=True)


Parameter: TypeAlias = Annotated[
    StringParameter | NumberParameter | IntegerParameter | BooleanParameter | ArrayParameter | ObjectParameter,
    Field(discriminator="type"),
]


def parameters_schema(parameters: Iterable[Parameter]) -> dict[str, Any]:
    """The input schema of a tool with these parameters; others are refused. Raises InvalidRequest for a name twice."""
    given = tuple(parameters)
    _check_names(given)
    return {"type": "object", **_properties(given), "additionalProperties": False}


def input_schema_of(parameters: Iterable[Parameter] | None, input_schema: dict[str, Any] | None) -> dict[str, Any]:
    """The input schema of a tool that was described in one way or the other; without parameters if in neither.

    Raises InvalidRequest when it was described in both.
    """
    if parameters is not None and input_schema is not None:
        raise InvalidRequest("a tool takes parameters or an input_schema; pass one of them")
    return parameters_schema(parameters or ()) if input_schema is None else input_schema


def parameters_from_json(items: JsonValue) -> tuple[Parameter, ...]:
    """Parameters from a list of what `to_json` gives. Raises InvalidRequest, which says what is wrong where."""
    try:
        return _ADAPTER.validate_json(json.dumps(items), strict=True)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False, include_context=False)
        shown = [f"{path_text(list(error['loc'])) or 'parameters'}: {error['msg']}" for error in errors]
        raise InvalidRequest("; ".join(shown[:_SHOWN_ERRORS])) from exc
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(f"parameters must be a list of JSON objects: {exc}") from exc


_ADAPTER: TypeAdapter[tuple[Parameter, ...]] = TypeAdapter(tuple[Parameter, ...])


def _check_names(parameters: Iterable[BaseParameter]) -> None:
    for name, count in Counter(parameter.name for parameter in parameters).items():
        if not name:
            raise InvalidRequest("a parameter has no name; only the items of an array can do without")
        if count > 1:
            raise InvalidRequest(f"{count} parameters have the name {name!r}; rename all but one")


def _properties(parameters: Iterable[BaseParameter]) -> dict[str, Any]:
    found: dict[str, Any] = {"properties": {parameter.name: parameter.json_schema() for parameter in parameters}}
    required = [parameter.name for parameter in parameters if parameter.required]
    return found | ({"required": required} if required else {})


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _written(value: Any) -> JsonValue:
    if isinstance(value, tuple):
        return [_written(item) for item in value]
    return value.to_json() if isinstance(value, BaseParameter) else value
