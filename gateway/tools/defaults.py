"""The defaults that a JSON Schema gives to object properties, found once and filled into values."""

import copy
from collections.abc import Mapping
from typing import Any

from gateway.base import JsonValue

_SCALARS = (str, int, float, bool, type(None))
_MAX_HOPS = 16
"""Most `$ref`s to `$ref`s that are followed; a longer chain is a circle."""


class Defaults:
    """Defaults of `properties`, nested ones and those behind a local `$ref` too; not those in lists or alternatives."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = _Reader(schema).plan(schema)

    def filled(self, value: JsonValue) -> JsonValue:
        """A copy of `value` (a shallow one where there is no default to fill in)."""
        return _filled(self._root, value)


class _Plan:
    """What to fill into one object. A recursive schema makes a plan that contains itself; values end the recursion."""

    __slots__ = ("nested", "values")

    def __init__(self) -> None:
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
        properties = target.get("properties") if isinstance(target, Mapping) else None
        for name, below in properties.items() if isinstance(properties, Mapping) else ():
            self._add(plan, name, below)
        return plan

    def _add(self, plan: _Plan, name: str, schema: object) -> None:
        if not isinstance(schema, Mapping):
            return
        if "default" in schema:
            plan.values[name] = schema["default"]
        if "properties" in schema or "$ref" in schema:
            plan.nested[name] = self.plan(schema)


def resolved(root: Mapping[str, Any], schema: object) -> object:
    """`schema`, or what its local `$ref` such as `#/$defs/User` points to; None when that is nothing."""
    for _ in range(_MAX_HOPS):
        ref = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(ref, str):
            return schema
        schema = _target(root, ref)
    return None


def _target(root: Mapping[str, Any], ref: str) -> object:
    node: object = root if ref.startswith("#") else None
    for part in ref.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _filled(plan: _Plan, value: JsonValue) -> JsonValue:
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
