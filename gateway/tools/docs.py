"""What a tool is for and how to call it, at three levels of detail."""

import copy
from typing import Any

from gateway.base import JsonValue
from gateway.errors import InvalidInput
from gateway.tools.hints import TypeTexts
from gateway.tools.model import ToolExample
from gateway.tools.registry import RegisteredTool
from gateway.tools.words import is_name, summary

LEVELS = ("summary", "schema", "full")


def describe(registered: RegisteredTool, level: str) -> dict[str, JsonValue]:
    """A JSON object; every level has the keys of the one before. Raises InvalidInput for an unknown level.

    `summary`: id, name, namespace, version, description (first paragraph, at most 200 characters), tags, signature (the
    Python line that calls it). `schema`: input_schema, output_schema (None for any). `full`: notes, examples, and the
    whole description.
    """
    if level not in LEVELS:
        raise InvalidInput(f"unknown level {level[:100]!r}; use {', '.join(LEVELS)}")
    tool = registered.tool
    found = _summary(registered)
    if level != "summary":
        found |= copy.deepcopy({"input_schema": tool.input_schema, "output_schema": tool.output_schema})
    if level == "full":
        found |= {
            "description": tool.description,
            "notes": tool.notes,
            "examples": [_example(example) for example in tool.examples],
        }
    return found


def examples(registered: RegisteredTool, limit: int) -> tuple[dict[str, JsonValue], ...]:
    """The first `limit` examples: {title, arguments, result_hint}."""
    return tuple(_example(example) for example in registered.tool.examples[:limit])


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
        "description": summary(tool.description),
        "tags": list(tool.tags),
        "signature": signature(registered),
    }


def _example(example: ToolExample) -> dict[str, JsonValue]:
    return {"title": example.title, "arguments": copy.deepcopy(example.arguments), "result_hint": example.result_hint}
