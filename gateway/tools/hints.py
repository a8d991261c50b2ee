"""Python type expressions from JSON Schemas."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.tools.references import resolved
from gateway.tools.words import is_argument, words

_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
_TYPE_NAMES = {str: "str", int: "int", float: "float", bool: "bool", type(None): "None"}
_MAX_SHOWN = 60
"""Longest default or literal that is written out, in characters."""

MAX_NAME = 100
"""Longest name of an argument or field that is written out; no program has one."""


class TypeTexts:
    """Type expressions for the schemas of one tool, such as `list[dict[str, int]] | None`, for a model to read.

    `root` is where `$ref` points into. Below four levels, after 64 parts and where Python has no word for it, all is
    `Any`: the text stays short, whatever the schema.
    """

    max_depth = 4
    max_parts = 64
    max_alternatives = 8

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._parts = 0

    def of(self, schema: object, place: str = "") -> str:
        """The type of what fits `schema`. `place` says in CamelCase what it is, for those who name types."""
        self._parts = 0
        return self._text(schema, place, 0)

    def word(self, name: str) -> str:
        """How a name of Python's is written."""
        return name

    def parameters(self, schema: Mapping[str, Any], place: str = "") -> list[str] | None:
        """`["id: str", "limit: int = 10"]`, required ones first; None when a property cannot be a Python parameter."""
        root = resolved(self._root, schema)
        properties, required = fields(root)
        if not all(is_argument(name) and len(name) <= MAX_NAME for name in properties):
            return None
        ordered = sorted(properties, key=lambda name: name not in required)
        listed = [self._parameter(name, properties[name], place, required=name in required) for name in ordered]
        # Where nothing is said of others, those that are named are meant to be all; where none is named, any will do.
        more = root.get("additionalProperties", not properties) if isinstance(root, Mapping) else False
        if more is not False:
            rest = "more"
            while rest in properties:
                rest += "_"
            listed.append(f"**{rest}: {self.of(more, place)}")
        return listed

    def _parameter(self, name: str, schema: object, place: str, *, required: bool) -> str:
        hint = f"{name}: {self.of(schema, place + camel(name))}"
        if required:
            return hint
        default = schema.get("default", ...) if isinstance(schema, Mapping) and _fits_its_type(schema) else ...
        return f"{hint} = {_value_text(default) or '...'}"

    def _text(self, schema: object, place: str, depth: int) -> str:
        place = ref_name(schema) or place
        schema = resolved(self._root, schema)
        self._parts += 1
        if not isinstance(schema, Mapping) or depth > self.max_depth or self._parts > self.max_parts:
            return self.word("Any")
        if "const" in schema:
            return self._literal([schema["const"]])
        if isinstance(schema.get("enum"), list):
            return self._literal(schema["enum"])
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list):
                return self._union(self._text(item, place, depth + 1) for item in schema[key])
        if isinstance(schema.get("allOf"), list):
            return self._all_of(schema, place, depth)
        named = schema.get("type")
        if isinstance(named, list):
            return self._union(self._typed(schema, name, place, depth) for name in named)
        return self._typed(schema, named, place, depth)

    def _typed(self, schema: Mapping[str, Any], name: object, place: str, depth: int) -> str:
        if name == "array":
            items = schema.get("items")
            return f"{self.word('list')}[{self._text(items, place, depth + 1)}]"
        if name == "object" or (name is None and "properties" in schema):
            return self._object(schema, place, depth)
        found = _TYPES.get(str(name), "Any")
        return found if found == "None" else self.word(found)

    def _object(self, schema: Mapping[str, Any], place: str, depth: int) -> str:
        values = schema.get("additionalProperties")
        known = isinstance(values, Mapping) and "properties" not in schema
        text = self._text(values, place, depth + 1) if known else self.word("Any")
        return f"{self.word('dict')}[{self.word('str')}, {text}]"

    def _all_of(self, schema: Mapping[str, Any], place: str, depth: int) -> str:
        parts = [resolved(self._root, part) for part in schema["allOf"]]
        if len(parts) == 1 and "properties" not in schema:
            return self._text(schema["allOf"][0], place, depth + 1)
        merged: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
        for part in [*parts, schema]:
            properties, required = fields(part)
            merged["properties"] |= properties
            merged["required"] += sorted(required)
        return self._typed(merged, "object" if merged["properties"] else None, place, depth)

    def _literal(self, values: list[Any]) -> str:
        shown = [_value_text(value) if _is_scalar(value) else None for value in values]
        if None in shown or not shown:
            return self._wider(values)
        return self._listed(list(dict.fromkeys(map(str, shown))), values)

    def _listed(self, shown: list[str], values: list[Any]) -> str:  # noqa: ARG002 - for those who may not leave any out
        few = shown if len(shown) <= self.max_alternatives else [*shown[: self.max_alternatives], "..."]
        return f"{self.word('Literal')}[{', '.join(few)}]"

    def _wider(self, values: list[Any]) -> str:
        named = (_TYPE_NAMES.get(type(value), "Any") for value in values)
        return self._union(name if name == "None" else self.word(name) for name in named)

    def _union(self, types: Iterable[str]) -> str:
        found = list(dict.fromkeys(types))
        anything = self.word("Any")
        return anything if anything in found or not 0 < len(found) <= self.max_alternatives else " | ".join(found)


def fields(schema: object) -> tuple[Mapping[str, Any], frozenset[str]]:
    """The properties of an object's schema, and the names of the required ones."""
    if not isinstance(schema, Mapping):
        return {}, frozenset()
    properties, required = schema.get("properties"), schema.get("required")
    return (
        properties if isinstance(properties, Mapping) else {},
        frozenset(name for name in required if isinstance(name, str)) if isinstance(required, list) else frozenset(),
    )


def ref_name(schema: object) -> str:
    """`User` for a `$ref` to `#/$defs/User`; empty where there is none."""
    ref = schema.get("$ref") if isinstance(schema, Mapping) else None
    return camel(ref.rpartition("/")[2]) if isinstance(ref, str) else ""


def camel(text: str) -> str:
    """`LineItem` for `line_item`; ASCII letters and digits, at most 40."""
    return "".join(word.capitalize() for word in words(text[:MAX_NAME]) if word.isascii())[:40]


def _is_scalar(value: object) -> bool:
    # Floats are no literals: there is no Literal[1.5].
    return value is None or isinstance(value, str | int)


def _fits_its_type(schema: Mapping[str, Any]) -> bool:
    """Whether the default has the one type that is named. A default of another is no value that type checkers take."""
    kinds = _KINDS.get(str(schema.get("type")))
    return kinds is None or type(schema.get("default")) in kinds


def _value_text(value: object) -> str | None:
    """A JSON value as Python reads it; None when it is too long for a line, or cannot be written."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return None
    return repr(value) if len(text) <= _MAX_SHOWN else None
