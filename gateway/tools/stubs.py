"""Python type expressions from JSON Schemas, as short hints for a model; they are read, never executed."""

import keyword
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.tools.defaults import resolved

_MAX_DEPTH = 4
_MAX_ALTERNATIVES = 8
_MAX_DEFAULT = 60
_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}


def parameter_list(schema: Mapping[str, Any]) -> list[str] | None:
    """`["id: str", "limit: int = 10"]`, required ones first; None when a property cannot be a Python parameter."""
    root = resolved(schema, schema)
    properties = root.get("properties", {}) if isinstance(root, Mapping) else {}
    if not all(name.isidentifier() and not keyword.iskeyword(name) for name in properties):
        return None
    required = set(root.get("required", ())) if isinstance(root, Mapping) else set()
    ordered = sorted(properties, key=lambda name: name not in required)
    listed = [_parameter(schema, name, properties[name], required=name in required) for name in ordered]
    if isinstance(root, Mapping) and root.get("additionalProperties", False) is not False:
        listed.append(f"**more: {type_text(schema, root['additionalProperties'])}")
    return listed


def type_text(root: Mapping[str, Any], schema: object, depth: int = 0) -> str:
    """Such as `list[dict[str, int]] | None`. `root` is where `$ref` points into; below 4 levels all is Any."""
    schema = resolved(root, schema)
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return "Any"
    if "const" in schema:
        return f"Literal[{schema['const']!r}]"
    if isinstance(schema.get("enum"), list):
        return _literal(schema["enum"])
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return _union(type_text(root, item, depth + 1) for item in schema[key])
    named = schema.get("type")
    if isinstance(named, list):
        return _union(_typed(root, schema, name, depth) for name in named)
    return _typed(root, schema, named, depth)


def _parameter(root: Mapping[str, Any], name: str, schema: object, *, required: bool) -> str:
    hint = f"{name}: {type_text(root, schema)}"
    if required:
        return hint
    if not isinstance(schema, Mapping) or "default" not in schema:
        return f"{hint} = ..."
    default = repr(schema["default"])
    return f"{hint} = {default if len(default) <= _MAX_DEFAULT else '...'}"


def _typed(root: Mapping[str, Any], schema: Mapping[str, Any], name: object, depth: int) -> str:
    if name == "array":
        return _array(root, schema, depth)
    if name == "object" or (name is None and "properties" in schema):
        values = schema.get("additionalProperties")
        known = isinstance(values, Mapping) and "properties" not in schema
        return f"dict[str, {type_text(root, values, depth + 1)}]" if known else "dict[str, Any]"
    return _TYPES.get(str(name), "Any")


def _array(root: Mapping[str, Any], schema: Mapping[str, Any], depth: int) -> str:
    if "items" in schema:
        return f"list[{type_text(root, schema['items'], depth + 1)}]"
    return "list[Any]"


def _literal(values: list[Any]) -> str:
    shown = ", ".join(repr(value) for value in values[:_MAX_ALTERNATIVES])
    return f"Literal[{shown}{', ...' if len(values) > _MAX_ALTERNATIVES else ''}]"


def _union(types: Iterable[str]) -> str:
    found = list(dict.fromkeys(types))
    return "Any" if "Any" in found or len(found) > _MAX_ALTERNATIVES else " | ".join(found)
