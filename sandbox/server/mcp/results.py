"""Values and errors of ours as results of MCP's `tools/call`."""

from collections.abc import Mapping
from typing import Any

from mcp_types import CallToolResult, TextContent

from gateway.base import JsonValue
from gateway.errors import SandboxError, ToolError
from gateway.payload import MAX_ERROR_TEXT, encode, error_json, printable

MAX_NESTING = 160
"""Deeper than what the gateway takes and hands out: values of 128 levels, and what operations put around them."""


def answered(value: JsonValue) -> CallToolResult:
    """The result of one tool: an object as it is, anything else as `{result}`, for MCP knows no other."""
    return structured(value if isinstance(value, dict) else {"result": value}, value)


def structured(fields: Mapping[str, Any], shown: JsonValue, *, is_error: bool = False) -> CallToolResult:
    """Structured content, and `shown` as text for clients and models that read nothing else."""
    text = shown if isinstance(shown, str) else encode(shown, MAX_NESTING).decode()
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=dict(fields), is_error=is_error
    )


def failed(error: SandboxError) -> CallToolResult:
    """{code, message, retryable, details} with MCP's error flag, so that a model can read it and do better."""
    told = error_json(error) if isinstance(error, ToolError) else _told(error)
    return structured(told, f"{told['code']}: {told['message']}", is_error=True)


def _told(error: SandboxError) -> dict[str, JsonValue]:
    message = printable(str(error), MAX_ERROR_TEXT)
    return {"code": error.code, "message": message, "retryable": error.retryable, "details": {}}
