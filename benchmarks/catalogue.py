"""The catalogue itself: registering tools, changing them, listing them, and judging arguments.

python benchmarks/catalogue.py
"""

import asyncio
import copy
import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

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


class Measured(NamedTuple):
    """One measured thing, in seconds; `target_seconds` is the most that the median may be."""

    name: str
    seconds: list[float]
    target_seconds: float | None = None


def nothing() -> None:
    raise NotImplementedError


def tools() -> list[Tool]:
    """Each with ten fields of its own: a catalogue is not made of copies."""
    made = function_tool(nothing)
    return [
        dataclasses.replace(made, id=ToolId(f"t{number}", f"ns{number % 50}"), input_schema=copy.deepcopy(TEN_FIELDS))
        for number in range(TOOLS)
    ]


async def measure(count: int = 2000) -> list[Measured]:
    some = tools()
    registry = ToolRegistry(some)
    changed = [dataclasses.replace(some[0], description="New."), *some[1:100]]
    registry.replace_all("source", [dataclasses.replace(tool, id=ToolId(tool.id.name, "s")) for tool in some[:100]])
    updates = [
        [dataclasses.replace(tool, id=ToolId(tool.id.name, "s"), notes=str(number)) for tool in changed]
        for number in range(10)
    ]
    plain, coercing = SchemaValidator(TEN_FIELDS), SchemaValidator(coerced())
    cursor = registry.page(2500).cursor
    return [
        Measured("catalogue: register 5,000 tools at once", rounds(5, lambda: ToolRegistry(some)), 2.0),
        Measured("catalogue: replace the 100 tools of a source", [replaced(registry, update) for update in updates]),
        Measured("catalogue: a page of 100 out of 5,000", rounds(count, lambda: registry.page(100, cursor))),
        Measured("validate: ten fields", rounds(count, lambda: plain.validate_input(ARGUMENTS)), 10e-6),
        Measured("validate: ten fields, one coerced", rounds(count, lambda: coercing.validate_input(ARGUMENTS))),
    ]


def coerced() -> dict[str, Any]:
    schema = copy.deepcopy(TEN_FIELDS)
    schema["properties"]["limit"]["x-coerce"] = True
    return schema


def rounds(count: int, action: Callable[[], object]) -> list[float]:
    return [timed(action) for _ in range(count)]


def replaced(registry: ToolRegistry, update: list[Tool]) -> float:
    return timed(lambda: registry.replace_all("source", update))


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


async def main() -> None:
    for one in await measure():
        p50, p95 = (sorted(one.seconds)[int(len(one.seconds) * share)] * 1e3 for share in (0.5, 0.95))
        target = "" if one.target_seconds is None else f"at most {one.target_seconds * 1e3:g} ms"
        print(f"{one.name:50} {p50:10.4f} ms p50 {p95:10.4f} ms p95   {target}")


if __name__ == "__main__":
    asyncio.run(main())
