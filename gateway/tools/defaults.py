"""The defaults that a JSON Schema gives to object properties, found once and filled into values."""

import copy
from collections.abc import Mapping
from typing import Any

from gateway.base import JsonValue
from gateway.tools.references import resolved

_PARTS = frozenset({"properties", "items", "$ref"})
_SCALARS = (str, int, float, bool, type(None))


class Defaults:
    """Defaults of `properties`: nested ones, in `items` and behind local `$ref`s too; not those in alternatives."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = _Reader(schema).plan(schema)

    def filled(self, value: JsonValue) -> JsonValue:
        """A copy of `value` (a shallow one where there is no default to fill in)."""
        return _filled(self._root, value)


class _Plan:
    """What to fill into one value. A recursive schema makes a plan that contains itself; values end the recursion."""

    __slots__ = ("items", "nested", "values")

    def __init__(self) -> None:
        self.items: _Plan | None = None
        self.values: dict[str, JsonValue] = {}
        self.nested: dict[str, _Plan] = {}


class _Reader:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._plans: dict[int, _Plan] = {}

    def plan(self, schema: object) -> _Plan:
        target = resolved(self._root, schema)
        known = self._plans.get(id(target))
        if known is not None:
            return known
        plan = self._plans[id(target)] = _Plan()
        properties = target.get("properties") if isinstance(target, dict) else None
        for name, below in properties.items() if isinstance(properties, dict) else ():
            self._add(plan, name, below)
        if isinstance(target, dict) and _has_parts(target.get("items")):
            plan.items = self.plan(target["items"])
        return plan

    def _add(self, plan: _Plan, name: str, schema: object) -> None:
        if not isinstance(schema, dict):
            return
        if "default" in schema:
            plan.values[name] = schema["default"]
        if _has_parts(schema):
            plan.nested[name] = self.plan(schema)


def _has_parts(schema: object) -> bool:
    return isinstance(schema, dict) and not _PARTS.isdisjoint(schema)


def _filled(plan: _Plan, value: JsonValue) -> JsonValue:
    if isinstance(value, list) and plan.items is not None:
        return [_filled(plan.items, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    result = dict(value)
    for name, nested in plan.nested.items():
        if name in result:
            result[name] = _filled(nested, result[name])
    # After the nested ones: a default is complete as it stands, and filling into it could go on for ever.
    for name, default in plan.values.items():
        if name not in result:
            result[name] = default if isinstance(default, _SCALARS) else copy.deepcopy(default)
    return result
