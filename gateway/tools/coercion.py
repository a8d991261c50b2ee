"""Scalars in another spelling, made into what a JSON Schema asks for where it has the keyword `x-coerce: true`."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from gateway.base import JsonValue
from gateway.errors import InvalidRequest
from gateway.tools.references import resolved

KEYWORD = "x-coerce"
"""Beside `type` string, number, integer or boolean, or one of them and null. Other readers of the schema ignore it."""

_INTEGER = re.compile(r"[+-]?\d{1,1000}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d{1,1000}(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}

_ASKING = frozenset({KEYWORD, "properties", "items", "$ref"})

Convert = Callable[[JsonValue], JsonValue]


class Coercion:
    """What a schema wants coerced: in `properties`, in `items` and behind local `$ref`s; not in alternatives.

    | type | what is accepted beside it |
    | --- | --- |
    | integer | digits, as in "-12" |
    | number | a decimal number, as in "1.5" or "2e3" |
    | boolean | true, 1, yes, on, false, 0, no and off in any case, and the numbers 1 and 0 |
    | string | a number or a boolean, as JSON writes it |

    What is anything else stays as it is. Raises InvalidRequest for the keyword beside another type.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        reader = _Reader(schema)
        self._root = reader.plan(schema)
        self.asked = reader.asked

    def applied(self, value: JsonValue) -> JsonValue:
        """A copy of `value`, coerced."""
        return _applied(self._root, value)


class _Plan:
    """What to do with one value. A recursive schema makes a plan that contains itself; values end the recursion."""

    __slots__ = ("convert", "items", "properties")

    def __init__(self) -> None:
        self.convert: Convert | None = None
        self.items: _Plan | None = None
        self.properties: dict[str, _Plan] = {}


class _Reader:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._plans: dict[int, _Plan] = {}
        self.asked = False

    def plan(self, schema: object) -> _Plan:
        target = resolved(self._root, schema)
        known = self._plans.get(id(target))
        if known is not None:
            return known
        plan = self._plans[id(target)] = _Plan()
        if isinstance(target, dict):
            self._read(plan, target)
        return plan

    def _read(self, plan: _Plan, schema: Mapping[str, Any]) -> None:
        if schema.get(KEYWORD, False) is not False:
            plan.convert = _conversion(schema)
            self.asked = True
        properties = schema.get("properties")
        for name, below in properties.items() if isinstance(properties, dict) else ():
            if _may_ask(below):
                plan.properties[name] = self.plan(below)
        if _may_ask(schema.get("items")):
            plan.items = self.plan(schema["items"])


def _may_ask(schema: object) -> bool:
    return isinstance(schema, dict) and not _ASKING.isdisjoint(schema)


def _conversion(schema: Mapping[str, Any]) -> Convert:
    named = schema.get("type")
    kinds = [kind for kind in (named if isinstance(named, list) else [named]) if kind != "null"]
    convert = _CONVERSIONS.get(str(kinds[0])) if len(kinds) == 1 else None
    if convert is None or schema[KEYWORD] is not True:
        raise InvalidRequest(
            f"invalid schema: {KEYWORD} must be true beside one type of {', '.join(_CONVERSIONS)}, not {named!r}"
        )
    return convert


def _applied(plan: _Plan, value: JsonValue) -> JsonValue:
    if plan.convert is not None:
        return plan.convert(value)
    if isinstance(value, dict) and plan.properties:
        below = plan.properties
        return {name: _applied(below[name], item) if name in below else item for name, item in value.items()}
    if isinstance(value, list) and plan.items is not None:
        return [_applied(plan.items, item) for item in value]
    return value


def _integer(value: JsonValue) -> JsonValue:
    return int(value) if isinstance(value, str) and _INTEGER.fullmatch(value.strip()) else value


def _number(value: JsonValue) -> JsonValue:
    if not isinstance(value, str) or not _NUMBER.fullmatch(value.strip()):
        return value
    if _INTEGER.fullmatch(value.strip()):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else value


def _boolean(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return _BOOLEANS.get(value.strip().lower(), value)
    return bool(value) if type(value) is int and value in (0, 1) else value


def _string(value: JsonValue) -> JsonValue:
    return json.dumps(value) if isinstance(value, bool | int | float) else value


_CONVERSIONS: dict[str, Convert] = {
    "string": _string,
    "number": _number,
    "integer": _integer,
    "boolean": _boolean,
}
