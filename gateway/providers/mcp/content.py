"""What an MCP server says, as tools and JSON: names, annotations and results. Pure."""

import base64
import json
import mimetypes
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
)
from mcp_types import Tool as McpTool

from gateway.base import JsonValue
from gateway.errors import ToolFailed
from gateway.payload import NotJsonError, decode, printable
from gateway.tools.model import RESERVED_NAMES

MAX_DESCRIPTION = 10_000
"""A server's words about a tool are cut to this many characters."""

_MAX_NAME = 128
_MAX_FAILURE = 2000
_MAX_TITLE = 200
_MAX_ITEM_CHARS = 4096

# Python's own list: the system's differs from host to host.
_TYPES = mimetypes.MimeTypes()
_TYPES.add_type("audio/wav", ".wav")


def legal_names(names: Iterable[str]) -> dict[str, str]:
    """A name that a tool may have here, for each of the server's: the same one where possible, and no two alike.

    Other characters than letters, digits and `_ . -` become `_`; a name that is taken or reserved gets a number. The
    outcome depends on the names only, not on their order.
    """
    given = sorted(set(names))
    found = {name: name for name in given if _is_legal(name)}
    taken = set(found)
    for name in given:
        if name not in found:
            found[name] = _free(_cleaned(name), taken)
            taken.add(found[name])
    return found


def about(tool: McpTool) -> dict[str, Any]:
    """The fields of a `Tool` that come from the server's words. Its hints permit nothing: they are hints."""
    hints = tool.annotations
    title = tool.title or (hints.title if hints else None) or ""
    return {
        "description": printable(tool.description or "", MAX_DESCRIPTION),
        "title": printable(title, _MAX_TITLE),
        "read_only": hints.read_only_hint if hints else None,
        "destructive": hints.destructive_hint if hints else None,
        "idempotent": hints.idempotent_hint if hints else None,
        "open_world": hints.open_world_hint if hints else None,
        "input_schema": tool.input_schema,
        "output_schema": tool.output_schema,
    }


def result_of(answer: CallToolResult, *, has_schema: bool) -> JsonValue:
    """The result of a call as JSON. Raises ToolFailed when the server says that it is an error.

    | the server sent | the result is |
    | --- | --- |
    | structured content | that; with images and the like beside it, {structuredContent, content}, or, where the tool \
has an output schema, only that: `beside` gives the others |
    | one text | what it holds when it is a JSON object or array, else the text |
    | anything else | the list of content items, each as MCP writes it: {type, text}, {type, data, mimeType}, ... |
    | nothing | None |
    """
    if answer.is_error:
        raise _failure(answer)
    if answer.structured_content is not None:
        others = _others(answer)
        if has_schema or not others:
            return answer.structured_content
        return {"structuredContent": answer.structured_content, "content": [_item(item) for item in others]}
    match answer.content:
        case []:
            return None
        case [TextContent(text=text)]:
            return _parsed(text)
    return [_item(item) for item in answer.content]


def beside(answer: CallToolResult) -> Iterator[tuple[str, bytes]]:
    """Images and the like by a file name of their place, such as `content-2.png`, for the host: a result that fits an
    output schema has no room for them. What has no bytes of its own, or none that can be read, is as MCP writes it.
    """
    for place, item in enumerate(answer.content, 1):
        if not isinstance(item, TextContent):
            kind, data = _bytes(item)
            yield f"content-{place}{_TYPES.guess_extension(kind, strict=False) or '.bin'}", data


def _bytes(item: ContentBlock) -> tuple[str, bytes]:
    match item:
        case ImageContent(data=text, mime_type=kind) | AudioContent(data=text, mime_type=kind):
            pass
        case EmbeddedResource(resource=BlobResourceContents(blob=text, mime_type=kind)):
            pass
        case _:
            return _as_sent(item)
    try:
        return kind or "", base64.b64decode(text, validate=True)
    except ValueError:
        return _as_sent(item)


def _as_sent(item: ContentBlock) -> tuple[str, bytes]:
    return "application/json", json.dumps(_item(item)).encode()


def _others(answer: CallToolResult) -> list[ContentBlock]:
    return [item for item in answer.content if not isinstance(item, TextContent)]


def _failure(answer: CallToolResult) -> ToolFailed:
    texts = [item.text for item in answer.content if isinstance(item, TextContent)]
    details: dict[str, JsonValue] = {"type": "isError"}
    if answer.structured_content is not None:
        details["structured_content"] = answer.structured_content
    if others := _others(answer):
        details["content"] = [_brief(_item(item)) for item in others]
    return ToolFailed(
        printable("\n".join(texts), _MAX_FAILURE) or "the tool failed and did not say why", details=details
    )


def _item(item: ContentBlock) -> Mapping[str, JsonValue]:
    return item.model_dump(mode="json", by_alias=True, exclude_none=True)


def _brief(item: JsonValue) -> JsonValue:
    """The same with long texts, which pictures are, cut: what is told of an error is short."""
    if isinstance(item, Mapping):
        return {key: _brief(value) for key, value in item.items()}
    return printable(item, _MAX_ITEM_CHARS) if isinstance(item, str) else item


def _parsed(text: str) -> JsonValue:
    """Numbers and the like stay text: a postcode is no integer only because its digits are."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return decode(text.encode())
    except (NotJsonError, UnicodeEncodeError, json.JSONDecodeError):
        return text


def _is_legal(name: str) -> bool:
    return name == _cleaned(name)


def _cleaned(name: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_MAX_NAME].lstrip("_") or "tool"
    return f"{cleaned[: _MAX_NAME - 5]}_tool" if cleaned in RESERVED_NAMES else cleaned


def _free(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        suffix = f"_{number}"
        found = name[: _MAX_NAME - len(suffix)] + suffix
    return found
