"""What a tool is for and how to call it, at three levels of detail."""

import copy
from collections.abc import Iterable
from typing import Any

from gateway.base import LEVELS, JsonValue
from gateway.errors import InvalidInput
from gateway.tools.hints import TypeTexts
from gateway.tools.model import ToolExample
from gateway.tools.registry import RegisteredTool
from gateway.tools.words import cut, is_name, summary

MAX_NOTES = 2000
MAX_TITLE = 300
MAX_HINT = 200
"""Longest notes, titles of examples and hints at their results, in characters; what is longer is cut."""

MAX_DEPTH = 5
MAX_VALUES = 50
"""Deepest nesting of an example's arguments, and most fields and items in them. Larger ones are left out: cut short
they would be an example of a call that fails.
"""


_HINTS = ("read_only", "destructive", "idempotent", "open_world")


def describe(registered: RegisteredTool, level: str) -> dict[str, JsonValue]:
    """A JSON object; every level has the keys of the one before. Raises InvalidInput for an unknown level.

    `summary`: id, name, namespace, version, title, description (first paragraph, at most 200 characters), tags,
    signature (the Python line that calls it). `schema`: input_schema, output_schema (None for any), hints (read_only,
    destructive, idempotent and open_world, as far as the tool says so), streams (whether it gives its result in
    chunks). `full`: notes (at most 2,000 characters), examples, and the whole description.
    """
    if level not in LEVELS:
        raise InvalidInput(f"unknown level {level[:100]!r}; use {', '.join(LEVELS)}")
    tool = registered.tool
    found = _summary(registered)
    if level != "summary":
        found |= copy.deepcopy({"input_schema": tool.input_schema, "output_schema": tool.output_schema})
        said = {name: getattr(tool, name) for name in _HINTS}
        found |= {"hints": {name: hint for name, hint in said.items() if hint is not None}}
        found |= {"streams": registered.streams}
    if level == "full":
        found |= {
            "description": tool.description,
            "notes": cut(tool.notes, MAX_NOTES),
            "examples": [_example(example) for example in tool.examples],
        }
    return found


def examples(registered: RegisteredTool, limit: int) -> tuple[dict[str, JsonValue], ...]:
    """The first `limit` examples: {title, arguments, result_hint}; none for a limit below 1.

    Titles are cut to 300 characters, hints to 200. Arguments that nest deeper than 5 levels or hold more than 50 values
    are None.
    """
    return tuple(_example(example) for example in registered.tool.examples[: max(0, limit)])


def signature(registered: RegisteredTool) -> str:
    """The Python line that calls the tool in a snippet: `tools.crm.lookup(id: str, limit: int = 10) -> list[str]`."""
    tool = registered.tool
    given = TypeTexts(tool.input_schema)
    parameters = given.parameters(tool.input_schema)
    output = "Any" if tool.output_schema is None else TypeTexts(tool.output_schema).of(tool.output_schema)
    names = registered.address.split(":")
    if parameters is not None and len(names) <= 2 and all(map(is_name, names)):
        return f"tools.{'.'.join(names)}({', '.join(parameters)}) -> {output}"
    return f'tools.run_tool("{registered.address}", {given.of(tool.input_schema)}) -> {output}'


def _summary(registered: RegisteredTool) -> dict[str, Any]:
    tool = registered.tool
    return {
        "id": registered.id,
        "name": tool.id.name,
        "namespace": tool.id.namespace,
        "version": tool.id.version,
        "title": cut(tool.title, MAX_TITLE),
        "description": summary(tool.description),
        "tags": list(tool.tags),
        "signature": signature(registered),
    }


def _example(example: ToolExample) -> dict[str, JsonValue]:
    arguments = example.arguments
    return {
        "title": cut(example.title, MAX_TITLE),
        "arguments": copy.deepcopy(arguments) if _is_small(arguments) else None,
        "result_hint": cut(example.result_hint, MAX_HINT),
    }


def _is_small(arguments: JsonValue) -> bool:
    count, level = 0, [arguments]
    for _ in range(MAX_DEPTH):
        level = [item for value in level for item in _items(value)]
        count += len(level)
        if count > MAX_VALUES:
            return False
    return not any(isinstance(value, dict | list) for value in level)


def _items(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
