"""Tools in the form in which others list them: MCP servers, and the function calling of model providers."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from gateway.base import JsonValue
from gateway.errors import InvalidRequest
from gateway.tools.gemini import reduced
from gateway.tools.model import ToolSpec
from gateway.tools.registry import RegisteredTool

ExportFormat: TypeAlias = Literal["mcp", "openai", "anthropic", "gemini", "a2a"]

_OTHERS = re.compile(r"[^A-Za-z0-9_-]")
_MAX_NAME = 64
"""OpenAI's and Gemini's formats allow the least, in characters; all of them allow letters, digits, _ and -."""
_HASH_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Exported:
    """`tools` as the format has them, and the ids that their names stand for.

    `lost` has, by name, the paths of what a model would want to know and the format has no place for: `examples`, or
    `input_schema.properties.age.multipleOf`. What is lost of a schema is checked all the same when a tool is called.
    """

    tools: tuple[dict[str, JsonValue], ...]
    ids: Mapping[str, str]
    lost: Mapping[str, tuple[str, ...]]


def export(tools: Iterable[RegisteredTool], form: ExportFormat) -> Exported:
    """These tools, such as `registry.page(...).items` or those of `registry.tools()` that a role may use.

    None of the formats allows a colon in a name: `crm:lookup` becomes `crm__lookup`. Names that are too long, or would
    be the same as another's, end in a hash of the id. Raises InvalidRequest for an unknown format.
    """
    shape = _SHAPES.get(form)
    if shape is None:
        raise InvalidRequest(f"unknown format {form!r}; use {', '.join(_SHAPES)}")
    named = exported_names(tools)
    return Exported(
        tuple(shape(name, tool.tool) for name, tool in named.items()),
        {name: tool.id for name, tool in named.items()},
        {name: lost for name, tool in named.items() if (lost := _lost(tool.tool, form))},
    )


def exported_names(tools: Iterable[RegisteredTool], taken: Collection[str] = ()) -> dict[str, RegisteredTool]:
    """Each of these tools by a name that every format allows, and that is none of `taken`.

    Of tools that would have the same name all get a hash: a name never comes to stand for another tool.
    """
    tools = tuple(tools)
    wanted = Counter(_plain(tool.address) for tool in tools)
    wanted.update(iter(taken))  # the names, also of a mapping
    named: dict[str, RegisteredTool] = {}
    for tool in tools:
        name = _plain(tool.address)
        if wanted[name] > 1 or len(name) > _MAX_NAME:
            name = _hashed(name, tool.address, lambda hashed: hashed in wanted or hashed in named)
        named[name] = tool
    return named


def mcp_tool(spec: ToolSpec, name: str | None = None) -> dict[str, JsonValue]:
    """As MCP's `tools/list` has it; what MCP has no field for is under `_meta`. `name` None is the tool's own name."""
    hints = {
        "readOnlyHint": spec.read_only,
        "destructiveHint": spec.destructive,
        "idempotentHint": spec.idempotent,
        "openWorldHint": spec.open_world,
    }
    more: dict[str, JsonValue] = {"toolexec/id": str(spec.id), "toolexec/tags": list(spec.tags)}
    if spec.id.version and not spec.id.namespace:
        more["toolexec/version"] = spec.id.version
    output = spec.output_schema or {}
    if output.get("type") != "object":
        more |= {"toolexec/outputSchema": output} if output else {}
        output = {}  # MCP knows results that are objects only
    fields = {
        "title": spec.title,
        "description": spec.description,
        "outputSchema": output,
        "annotations": {hint: value for hint, value in hints.items() if value is not None},
    }
    given = {field: value for field, value in fields.items() if value}
    return {"name": name or spec.id.name, "inputSchema": _input(spec), **given, "_meta": more}


def _openai(name: str, spec: ToolSpec) -> dict[str, JsonValue]:
    function = {"name": name, "description": spec.description, "parameters": _input(spec)}
    return {"type": "function", "function": function}


def _anthropic(name: str, spec: ToolSpec) -> dict[str, JsonValue]:
    return {"name": name, "description": spec.description, "input_schema": _input(spec)}


def _gemini(name: str, spec: ToolSpec) -> dict[str, JsonValue]:
    declaration: dict[str, JsonValue] = {
        "name": name,
        "description": spec.description,
        "parametersJsonSchema": reduced(_input(spec), "input_schema").schema,
    }
    if spec.output_schema is not None:
        declaration["responseJsonSchema"] = reduced(spec.output_schema, "output_schema").schema
    return declaration


def _a2a(name: str, spec: ToolSpec) -> dict[str, JsonValue]:
    """A skill of an agent's card."""
    modes = ["application/json"]
    skill = {"id": name, "name": spec.title or spec.id.name, "description": spec.description, "tags": list(spec.tags)}
    examples = {"examples": [example.title for example in spec.examples]} if spec.examples else {}
    return skill | examples | {"inputModes": modes, "outputModes": modes}


_HINTS = ("read_only", "destructive", "idempotent", "open_world")
_UNTOLD: Mapping[str, tuple[str, ...]] = {
    "mcp": ("examples", "notes"),
    "openai": ("title", "output_schema", "tags", "examples", "notes", *_HINTS),
    "anthropic": ("title", "output_schema", "tags", "examples", "notes", *_HINTS),
    "gemini": ("title", "tags", "examples", "notes", *_HINTS),
    "a2a": ("input_schema", "output_schema", "notes", *_HINTS),
}
"""Fields for a model that a format has no place for."""


def _lost(spec: ToolSpec, form: ExportFormat) -> tuple[str, ...]:
    untold = [name for name in _UNTOLD[form] if getattr(spec, name) not in (None, "", ())]
    if form == "a2a":
        untold += [f"examples[{at}].arguments" for at, example in enumerate(spec.examples) if example.arguments]
    if form == "gemini":
        untold += reduced(spec.input_schema, "input_schema").lost
        untold += reduced(spec.output_schema or {}, "output_schema").lost
    return tuple(untold)


_SHAPES: Mapping[str, Callable[[str, ToolSpec], dict[str, JsonValue]]] = {
    "mcp": lambda name, spec: mcp_tool(spec, name),
    "openai": _openai,
    "anthropic": _anthropic,
    "gemini": _gemini,
    "a2a": _a2a,
}


def _input(spec: ToolSpec) -> dict[str, Any]:
    return {"type": "object", **spec.input_schema}


def _plain(address: str) -> str:
    name = _OTHERS.sub("_", address.replace(":", "__"))
    return name if name[0].isalpha() or name[0] == "_" else f"_{name}"  # Gemini's begin with no digit and no dash


def _hashed(plain: str, address: str, is_taken: Callable[[str], bool]) -> str:
    name, mark = "", address
    while not name or is_taken(name):
        mark = hashlib.sha256(mark.encode()).hexdigest()
        name = f"{plain[: _MAX_NAME - _HASH_DIGITS - 1]}_{mark[:_HASH_DIGITS]}"
    return name
