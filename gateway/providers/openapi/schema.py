"""JSON Schema 2020-12 from the schemas of an OpenAPI document."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from gateway.providers.openapi.document import Document, below, flaw, unique

MAX_OUTPUT_SCHEMA_BYTES = 64 << 10
"""A larger output schema is left out: nobody reads it, and each result would be held against it."""

_ONE = frozenset(
    {
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS = frozenset({"dependentSchemas", "patternProperties", "properties"})
_DROPPED = frozenset(
    {
        "$anchor",
        "$comment",
        "$defs",
        "$dynamicAnchor",
        "$id",
        "$ref",
        "$schema",
        "$vocabulary",
        "definitions",
        "discriminator",
        "example",
        "externalDocs",
        "nullable",
        "readOnly",
        "writeOnly",
        "xml",
    }
)
_UNSUPPORTED = frozenset({"$dynamicRef", "$recursiveRef"})


class Schemas:
    """Schemas of one document, for what is sent (`request`: without read-only properties) or comes back (`response`:
    without write-only ones). What they refer to becomes `$defs`, each converted once.
    """

    def __init__(self, document: Document, direction: Literal["request", "response"]) -> None:
        self._document = document
        self._hidden = "readOnly" if direction == "request" else "writeOnly"
        self._names: dict[str, str] = {}
        self._defs: dict[str, Any] = {}
        self._waiting: list[tuple[str, Any, str]] = []

    def converted(self, node: Any, pointer: str) -> Any:
        """The schema in 2020-12; its references lead to `$defs`, which `complete` adds. Raises InvalidRequest."""
        found = self._schema(node, pointer)
        while self._waiting:  # not by recursion: schemas refer to schemas much further than Python's stack goes
            name, waiting, where = self._waiting.pop()
            self._defs[name] = self._schema(waiting, where)
        return found

    def _schema(self, node: Any, pointer: str) -> Any:
        if isinstance(node, bool) and not self._document.is_30:
            return node
        if not isinstance(node, dict):
            raise flaw(pointer, "must be a schema")
        if "$ref" in node:
            found = {"$ref": f"#/$defs/{self._definition(node['$ref'], pointer)}"}
            return found if self._document.is_30 else self._keywords(node, pointer) | found
        found = self._keywords(node, pointer)
        return _of_30(node, found) if self._document.is_30 else found

    def complete(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema with all the `$defs` that it needs."""
        needed: dict[str, Any] = {}
        waiting = list(_references(schema))
        while waiting:
            name = waiting.pop()
            if name in self._defs and name not in needed:  # a default or an example may only look like a reference
                needed[name] = self._defs[name]
                waiting.extend(_references(self._defs[name]))
        return {**schema, "$defs": {name: needed[name] for name in sorted(needed)}} if needed else schema

    def _keywords(self, node: dict[str, Any], pointer: str) -> dict[str, Any]:
        found = {}
        for key, value in node.items():
            where = below(pointer, key)
            if key in _UNSUPPORTED:
                raise flaw(where, "is not supported; use $ref")
            if key in _ONE:
                found[key] = self._schema(value, where)
            elif key in _LISTS:
                found[key] = [
                    self._schema(each, below(where, i)) for i, each in enumerate(self._document.sequence(value, where))
                ]
            elif key in _MAPS:
                items = self._document.mapping(value, where).items()
                found[key] = {name: self._schema(each, below(where, name)) for name, each in items}
            elif key not in _DROPPED and not key.startswith("x-"):
                found[key] = value
        self._hide(node, found)
        return found

    def _hide(self, node: dict[str, Any], found: dict[str, Any]) -> None:
        for name, each in (node.get("properties") or {}).items():
            if isinstance(each, dict) and each.get(self._hidden) is True:
                del found["properties"][name]
                if isinstance(found.get("required"), list):
                    found["required"] = [other for other in found["required"] if other != name]

    def _definition(self, ref: Any, pointer: str) -> str:
        """The name of what `ref` leads to among the `$defs`."""
        target = self._document.target(ref, pointer)
        if target in self._names:
            return self._names[target]
        node = self._document.at(target, pointer)
        self._document.followed(node if isinstance(node, dict) else {}, target)  # refuses references in a circle
        name = unique(re.sub(r"[^A-Za-z0-9_.-]", "_", target.rpartition("/")[2]) or "root", self._defs)
        self._names[target] = name
        self._defs[name] = True
        self._waiting.append((name, node, target))
        return name


def fits_output(schema: dict[str, Any]) -> bool:
    """Whether it is small enough to be an output schema."""
    return len(json.dumps(schema)) <= MAX_OUTPUT_SCHEMA_BYTES


def _of_30(node: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What 3.0 says in words of its own, in those of 2020-12."""
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(found.get(exclusive), bool) and found.pop(exclusive) and bound in found:
            found[exclusive] = found.pop(bound)
    if node.get("nullable") is not True:
        return found
    if isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
        if isinstance(found.get("enum"), list) and None not in found["enum"]:
            found["enum"] = [*found["enum"], None]
        return found
    return {"anyOf": [found, {"type": "null"}]} if found else found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        ref = schema.get("$ref")
        if isinstance(ref, str):
            yield ref.removeprefix("#/$defs/")
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
