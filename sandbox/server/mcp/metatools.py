"""The metatools: what a client may ask of the catalogue of tools, as MCP tools of their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.base import LEVELS, MAX_BATCH, JsonValue
from sandbox.server.mcp.schemas import ANYTHING, ERROR, NUMBER, TEXT, items, shape

_ID = {"type": "string", "description": "name, namespace:name or namespace:name:version"}
_ARGUMENTS = {"type": "object", "description": "by name, as the tool's input schema says"}
_SECONDS = {"type": "number", "exclusiveMinimum": 0, "description": "can only shorten the tool's own bound"}
_LIMIT = {"type": "integer", "minimum": 1, "maximum": 100}
_FILTERS = {"namespace": TEXT, "tags": {**items(TEXT), "description": "all of these"}}
_CALL: dict[str, Any] = {"tool_id": _ID, "arguments": _ARGUMENTS, "timeout_seconds": _SECONDS}
_STEP = _CALL | {
    "use_previous": {"type": "boolean", "description": "pass the previous result as the argument `previous`"},
    "stop_on_error": {"type": "boolean", "default": True, "description": "skip the steps after this one when it fails"},
    "mapping": {
        "type": "object",
        "additionalProperties": TEXT,
        "description": "arguments from earlier results, by JSON Pointer: /previous/id, /steps/0",
    },
}
_OUTCOME = {"tool_id": TEXT, "ok": {"type": "boolean"}, "value": ANYTHING, "error": ERROR, "duration_seconds": NUMBER}
_HITS = items(shape({"id": TEXT, "name": TEXT, "namespace": TEXT, "description": TEXT, "score": NUMBER}))
_HINTED = {"timeout_seconds": {"type": "number", "exclusiveMinimum": 0, "description": "bounds the whole of it"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metatool:
    """`name` is that of the gateway's operation. Its reply is the field `field` of the result; all of it when empty."""

    name: str
    description: str
    inputs: Mapping[str, Any]
    required: tuple[str, ...] = ()
    outputs: Mapping[str, Any]
    field: str = ""
    reads: bool = True

    def as_mcp(self) -> dict[str, JsonValue]:
        """As `tools/list` has it."""
        hints = {"readOnlyHint": True, "openWorldHint": False} if self.reads else {"readOnlyHint": False}
        return {
            "name": self.name,
            "description": self.description,
            "inputSchema": shape(self.inputs, self.required, closed=True),
            "outputSchema": shape(self.outputs, tuple(self.outputs)),
            "annotations": hints,
        }

    def wrapped(self, reply: JsonValue) -> dict[str, JsonValue]:
        """MCP knows structured results that are objects only."""
        found: dict[str, JsonValue] = {self.field: reply} if self.field else reply
        return found


METATOOLS: Mapping[str, Metatool] = {
    metatool.name: metatool
    for metatool in (
        Metatool(
            name="search_tools",
            description="Find tools by what they do. Describe one that fits before you call it.",
            inputs={"query": {**TEXT, "description": "words"}, "limit": {**_LIMIT, "default": 10}, **_FILTERS},
            required=("query",),
            outputs={"tools": _HITS},
            field="tools",
        ),
        Metatool(
            name="list_tools",
            description="All tools by id, page by page; `cursor` of one page leads to the next.",
            inputs={"limit": {**_LIMIT, "default": 100}, "cursor": TEXT, "query": TEXT, **_FILTERS},
            outputs={"tools": _HITS, "cursor": {"type": ["string", "null"]}},
        ),
        Metatool(
            name="list_namespaces",
            description="The namespaces of the tools; the empty one stands for tools without.",
            inputs={},
            outputs={"namespaces": items(TEXT)},
            field="namespaces",
        ),
        Metatool(
            name="describe_tool",
            description="What one tool is for and how to call it; level schema adds its schemas, level full all of it.",
            inputs={"tool_id": _ID, "level": {"type": "string", "enum": list(LEVELS), "default": "summary"}},
            required=("tool_id",),
            outputs={"id": TEXT, "description": TEXT, "signature": TEXT},
        ),
        Metatool(
            name="list_tool_examples",
            description="Worked examples of calls to one tool.",
            inputs={"tool_id": _ID, "limit": {**_LIMIT, "default": 5}},
            required=("tool_id",),
            outputs={"examples": items(shape({"title": TEXT, "arguments": ANYTHING, "result_hint": TEXT}))},
            field="examples",
        ),
        Metatool(
            name="run_tool",
            description="Call one tool.",
            inputs=_CALL,
            required=("tool_id",),
            outputs={"result": ANYTHING},
            field="result",
            reads=False,
        ),
        Metatool(
            name="run_chain",
            description="Call tools one after another; a step may take arguments from earlier results. "
            "A step that fails is in the result.",
            inputs={"steps": items(shape(_STEP, ("tool_id",), closed=True), most=MAX_BATCH), **_HINTED},
            required=("steps",),
            outputs={"value": ANYTHING, "steps": items(shape(_OUTCOME | {"skipped": {"type": "boolean"}}))},
            reads=False,
        ),
        Metatool(
            name="run_parallel",
            description="Call tools at once; outcomes come in the order of the calls. A call that fails is among them.",
            inputs={
                "calls": items(shape(_CALL, ("tool_id",), closed=True), most=MAX_BATCH),
                "max_concurrent": {"type": "integer", "minimum": 1, "maximum": 32},
                **_HINTED,
            },
            required=("calls",),
            outputs={"outcomes": items(shape(_OUTCOME))},
            field="outcomes",
            reads=False,
        ),
    )
}
