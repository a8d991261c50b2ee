"""The catalogue itself: registering tools, changing them, listing them, and judging arguments."""

import copy
import dataclasses
from functools import partial
from typing import Any

from figures import Figure, rounds, spread, timed_sync

from gateway.providers.function import function_tool
from gateway.tools.model import Tool, ToolId
from gateway.tools.registry import ToolRegistry
from gateway.tools.validation import SchemaValidator

TOOLS = 5000
TEN_FIELDS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "minLength": 1, "maxLength": 64, "description": "Whose."},
        "kind": {"type": "string", "enum": ["person", "company"]},
        "email": {"type": "string", "format": "email"},
        "since": {"type": "string", "format": "date"},
        "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "active": {"type": "boolean", "default": True},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 10},
        "page": {"type": "object", "properties": {"size": {"type": "integer", "default": 20}}},
        "note": {"type": ["string", "null"], "pattern": "^[^<>]*$"},
    },
    "required": ["id", "kind"],
    "additionalProperties": False,
}
ARGUMENTS = {
    "id": "c-17",
    "kind": "person",
    "email": "a@example.org",
    "since": "2024-02-29",
    "limit": 5,
    "share": 0.5,
    "active": False,
    "tags": ["a", "b"],
    "page": {},
    "note": "none",
}


def nothing() -> None:
    raise NotImplementedError


def tools() -> list[Tool]:
    """Each with ten fields of its own: a catalogue is not made of copies."""
    made = function_tool(nothing)
    return [
        dataclasses.replace(made, id=ToolId(f"t{number}", f"ns{number % 50}"), input_schema=copy.deepcopy(TEN_FIELDS))
        for number in range(TOOLS)
    ]


async def measure(share: float) -> list[Figure]:
    some = tools()
    registry = ToolRegistry(some)
    count = rounds(2000, share)
    built = [timed_sync(lambda: ToolRegistry(some)) for _ in range(rounds(5, share))]
    registry.replace_all("source", changed(some[:100], "first"))
    replaced = [timed_sync(partial(registry.replace_all, "source", changed(some[:100], str(n)))) for n in range(10)]
    cursor = registry.page(2500).cursor
    listed = [timed_sync(lambda: registry.page(100, cursor)) for _ in range(count)]
    return [
        spread("catalogue: register 5,000 tools at once", "ms", built, target=2000),
        spread("catalogue: replace the 100 tools of a source", "ms", replaced),
        spread("catalogue: a page of 100 out of 5,000", "µs", listed),
        spread("validate: ten fields", "µs", validated(TEN_FIELDS, count), target=10),
        spread("validate: ten fields, one coerced", "µs", validated(coerced(), count)),
    ]


def changed(tools: list[Tool], notes: str) -> list[Tool]:
    return [dataclasses.replace(tool, id=ToolId(tool.id.name, "source"), notes=notes) for tool in tools]


def validated(schema: dict[str, Any], count: int) -> list[float]:
    validator = SchemaValidator(schema)
    return [timed_sync(lambda: validator.validate_input(ARGUMENTS)) for _ in range(count)]


def coerced() -> dict[str, Any]:
    schema = copy.deepcopy(TEN_FIELDS)
    schema["properties"]["limit"]["x-coerce"] = True
    return schema
