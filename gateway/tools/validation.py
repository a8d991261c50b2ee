"""A tool's JSON Schema, compiled once: does a value fit, and if not, where and why in words a model can act on."""

import json
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from typing import Any, NoReturn

from jsonschema_rs import (
    Draft7Validator,
    Draft202012Validator,
    FancyRegexOptions,
    ValidationError,
    ValidationErrorKind,
    Validator,
)

from gateway.base import JsonValue
from gateway.errors import InvalidInput, InvalidOutput, InvalidRequest, ToolError
from gateway.tools.coercion import Coercion
from gateway.tools.complexity import MAX_COMPARISONS, Complexity, complexity
from gateway.tools.defaults import Defaults
from gateway.tools.formats import FORMATS
from gateway.tools.references import resolved

MAX_ERRORS = 50
_SHOWN_ERRORS = 3
_SHOWN_VALUE = 60
_SHOWN_MESSAGE = 300
# The engine builds every error before it hands out the first: 200,000 misfits block the event loop for 2 s, and one
# misfit under eight levels of a recursive choice among four does for 1 s (measured).
_MAX_EXPLAINED_VALUES = 2000
# Patterns without lookaround or back-references run in linear time. The others backtrack; at the engine's default of
# 1,000,000 one text of 100 kB takes 14 s (measured), with this bound 1.4 s at most.
_PATTERNS = FancyRegexOptions(backtrack_limit=5000)
_MASK = "\x00"

_DIALECTS: dict[str, type[Validator]] = {
    "https://json-schema.org/draft/2020-12/schema": Draft202012Validator,
    "http://json-schema.org/draft-07/schema": Draft7Validator,
    "https://json-schema.org/draft-07/schema": Draft7Validator,
}


class SchemaValidator:
    """One compiled schema. Raises InvalidRequest when the schema cannot be used; the network is never asked.

    `format` is checked for the formats that JSON Schema defines; unknown ones are notes. As JSON Schema has it, 1.0 is
    an integer (and stays as it is), while true and 1.5 are not.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = _compile(schema)
        schema = dict(schema)  # what is below it is made of dicts, or the engine would have refused it
        self._work = _work(schema)
        coercion = Coercion(schema)
        self._coercion = coercion if coercion.asked else None
        self._defaults = Defaults(schema)
        root = resolved(schema, schema)
        self._properties = tuple(root["properties"]) if isinstance(root, Mapping) and "properties" in root else None
        self._deprecated = _deprecated(schema, root)

    def validate_input(self, value: JsonValue) -> JsonValue:
        """A copy of `value`, coerced where the schema asks for it, and with the defaults of absent properties.

        Raises InvalidInput, with all misfits in its details.
        """
        if self._coercion is not None:
            value = self._coercion.applied(value)
        if not self._fits(value):
            raise self._misfit(InvalidInput, "the arguments", value)
        return self._defaults.filled(value)

    def validate_output(self, value: JsonValue) -> None:
        """Raises InvalidOutput."""
        if not self._fits(value):
            raise self._misfit(InvalidOutput, "the result", value)

    def deprecated(self, value: Mapping[str, JsonValue]) -> tuple[str, ...]:
        """The properties in `value` that the schema says are deprecated."""
        return tuple(name for name in self._deprecated if name in value)

    def _fits(self, value: JsonValue) -> bool:
        try:
            return self._validator.is_valid(value)
        except ValueError:
            return False  # not JSON at all: `_misfit` says so

    def _misfit(self, kind: type[ToolError], what: str, value: JsonValue) -> ToolError:
        if _is_larger(value, _MAX_EXPLAINED_VALUES // (1 + self._work.comparisons // 10), self._work.recursions):
            return kind(f"{what} do not fit the schema, and are too large or too deep for saying where")
        try:
            errors = [self._error(error) for error in self._validator.iter_errors(value)]
        except ValueError as exc:
            return kind(f"{what}: not JSON: {str(exc)[:_SHOWN_MESSAGE]}")
        shown = "; ".join(f"{error['path'] or what}: {error['message']}" for error in errors[:_SHOWN_ERRORS])
        more = f" (and {len(errors) - _SHOWN_ERRORS} more)" if len(errors) > _SHOWN_ERRORS else ""
        return kind(f"{shown}{more}", details={"errors": errors[:MAX_ERRORS]})

    def _error(self, error: ValidationError) -> dict[str, str]:
        return {"path": path_text(error.instance_path), "message": self._message(error)[:_SHOWN_MESSAGE]}

    def _message(self, error: ValidationError) -> str:
        match error.kind:
            case ValidationErrorKind.Required(property=name):
                return f"{_shown(name)} is missing"
            case ValidationErrorKind.AdditionalProperties(unexpected=names):
                listed = ", ".join(_shown(name) for name in names[:_SHOWN_ERRORS])
                if error.instance_path or self._properties is None:
                    return f"unexpected {listed}"
                return f"unexpected {listed}; it takes {', '.join(self._properties) or 'nothing'}"
            case ValidationErrorKind.FalseSchema():
                return "must be left out"
        return error.message.replace(_MASK, _shown(error.instance))


def path_text(path: list[str | int]) -> str:
    """`user.tags[2]`; empty for the root."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{str(part)[:_SHOWN_VALUE]}" for part in path)
    return text.removeprefix(".")[:_SHOWN_MESSAGE]


def _compile(schema: Mapping[str, Any]) -> Validator:
    if not isinstance(schema, Mapping):
        raise InvalidRequest(f"a schema must be a JSON object, not {schema!r}; {{}} accepts everything")
    dialect = schema.get("$schema", "https://json-schema.org/draft/2020-12/schema")
    engine = _DIALECTS.get(str(dialect).removesuffix("#"))
    if engine is None:
        raise InvalidRequest(f"$schema {str(dialect)[:200]!r} is not supported; use JSON Schema 2020-12 or draft-07")
    try:
        return engine(
            dict(schema),
            validate_formats=True,
            formats=dict(FORMATS),
            retriever=_refuse,
            pattern_options=_PATTERNS,
            mask=_MASK,
        )
    except (ValidationError, ValueError) as exc:
        raise InvalidRequest(f"invalid schema: {_why(exc)}") from exc


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"a $ref may only point into its own schema; put {uri[:200]} under $defs")


def _why(exc: ValidationError | ValueError) -> str:
    """The first line; a misfit says also where, and of what."""
    if not isinstance(exc, ValidationError):
        return str(exc).partition("\n")[0][:500]
    where = path_text(exc.instance_path)
    text = exc.message.partition("\n")[0].replace(_MASK, _shown(exc.instance))
    return f"{where}: {text}"[:500] if where else text[:500]


def _shown(value: JsonValue) -> str:
    if isinstance(value, str):
        value = value[: _SHOWN_VALUE + 1]
    text = repr(value) if isinstance(value, list | dict) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_VALUE else f"{text[:_SHOWN_VALUE]}…"


def _is_larger(value: JsonValue, limit: int, recursions: int) -> bool:
    """Whether it has over `limit` values; with several recursions, each level of nesting weighs that much more."""
    level, count, weight = [value], 0, 1
    while level and count <= limit:
        level = list(islice(chain.from_iterable(map(_children, level)), limit + 1))
        count += len(level) * weight
        weight *= 1 if recursions < 2 else recursions + 1
    return count > limit


def _children(node: JsonValue) -> Iterable[JsonValue]:
    if isinstance(node, Mapping):
        return node.values()
    return node if isinstance(node, list | tuple) else ()


def _work(schema: Mapping[str, Any]) -> Complexity:
    found = complexity(schema)
    if found.comparisons > MAX_COMPARISONS:
        raise InvalidRequest(
            f"invalid schema: its alternatives and references multiply to {found.comparisons:.0g} comparisons; "
            f"at most {MAX_COMPARISONS:.0g} are allowed"
        )
    return found


def _deprecated(schema: Mapping[str, Any], root: object) -> tuple[str, ...]:
    properties = root.get("properties") if isinstance(root, Mapping) else None
    if not isinstance(properties, Mapping):
        return ()
    found = {name: resolved(schema, below) for name, below in properties.items()}
    return tuple(
        name for name, below in found.items() if isinstance(below, Mapping) and below.get("deprecated") is True
    )
