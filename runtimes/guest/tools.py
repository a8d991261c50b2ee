"""The `tools` object: the host's tools as the snippet calls them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from runtimes.guest.arguments import encode_arguments
from runtimes.guest.text import class_name

_STEP_FIELDS = {"tool_id", "arguments", "use_previous", "stop_on_error"}
_CALL_FIELDS = {"tool_id", "arguments"}

# A gateway would end the guest for a frame much larger, instead of answering.
MAX_ARGUMENTS_BYTES = 4 << 20


class Transport(Protocol):
    """The way to the gateway. Operations and their arguments are those of the gateway's ToolCall frame."""

    def call(self, operation: str, arguments: str) -> str:
        """Wait for the result and return its JSON. Raises GatewayRefusal."""

    async def acall(self, operation: str, arguments: str) -> str:
        """The same without blocking the event loop; many may be under way at once."""


class GatewayRefusal(Exception):  # the transport's message to this module; guests see ToolError
    """The gateway gave an error instead of a result: JSON {code, message, retryable, details}."""

    def __init__(self, error_json: str) -> None:
        super().__init__(error_json)
        self.error_json = error_json


class ToolError(Exception):
    """A call gave no result. `code` names the reason; `retryable` says whether the same call may work later."""

    def __init__(
        self, code: str, message: str, *, retryable: bool = False, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.details = details or {}

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return (
            f"ToolError(code={self.code!r}, message={self.message!r}, "
            f"retryable={self.retryable!r}, details={self.details!r})"
        )


# The name under which snippets see it, import it and pickle it.
ToolError.__module__ = "tools"


class _Operations:
    """What can be asked of the gateway. In `tools` these return the result, in `tools.aio` an awaitable of it."""

    ToolError = ToolError

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _send(self, operation: str, arguments: dict[str, Any]) -> Any:
        raise NotImplementedError

    def run_tool(self, tool_id: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Call one tool by its id, `namespace:name`."""
        return self._send("run_tool", _tool_call(tool_id, arguments))

    def run_chain(self, steps: Iterable[Any]) -> Any:
        """Call tools one after another: steps are (tool_id, arguments) or dicts that may also hold use_previous
        (pass the previous result as `previous`) and stop_on_error (default True).
        """
        return self._send("run_chain", {"steps": [_step(step, f"steps[{index}]") for index, step in enumerate(steps)]})

    def run_parallel(self, calls: Iterable[Any]) -> Any:
        """Call tools at the same time: calls are (tool_id, arguments) or dicts of these. Results keep the order."""
        return self._send(
            "run_parallel", {"calls": [_call(call, f"calls[{index}]") for index, call in enumerate(calls)]}
        )

    def search_tools(self, query: str = "", limit: int = 10) -> Any:
        """Find tools by words; a list of dicts."""
        return self._send("search_tools", {"query": query, "limit": limit})

    def describe_tool(self, tool_id: str, level: str = "summary") -> Any:
        """What a tool is for and how to call it; level is summary, schema or full."""
        return self._send("describe_tool", {"tool_id": tool_id, "level": level})

    def list_namespaces(self) -> Any:
        """The namespaces that hold tools."""
        return self._send("list_namespaces", {})

    def list_tool_examples(self, tool_id: str, limit: int = 5) -> Any:
        """Worked examples of calls to one tool."""
        return self._send("list_tool_examples", {"tool_id": tool_id, "limit": limit})

    def __getattr__(self, name: str) -> "_Tool":
        return _Tool(self, name)


class AsyncTools(_Operations):
    """`tools.aio`: the same operations for `await`."""

    async def _send(self, operation: str, arguments: dict[str, Any]) -> Any:
        text = _encoded(arguments)
        try:
            reply = await self._transport.acall(operation, text)
        except GatewayRefusal as refusal:
            error = _tool_error(refusal)
        else:
            return json.loads(reply)
        raise error

    def __repr__(self) -> str:
        return "<tools.aio: await tools.aio.<namespace>.<name>(**arguments)>"


class Tools(_Operations):
    """`tools`: call tools as `tools.<namespace>.<name>(**arguments)`, or `tools.<name>(**arguments)`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.aio = AsyncTools(transport)

    def _send(self, operation: str, arguments: dict[str, Any]) -> Any:
        text = _encoded(arguments)
        try:
            reply = self._transport.call(operation, text)
        except GatewayRefusal as refusal:
            error = _tool_error(refusal)
        else:
            return json.loads(reply)
        # Outside the handler, so that the refusal is no part of the snippet's traceback.
        raise error

    def __repr__(self) -> str:
        return "<tools: tools.<namespace>.<name>(**arguments); tools.search_tools(query) finds them>"


class _Tool:
    """A tool, and as long as its id has one part, also a namespace of tools."""

    __slots__ = ("_id", "_operations")

    def __init__(self, operations: _Operations, tool_id: str) -> None:
        # Copy, pickle, inspect and asyncio ask any object for such names; a tool must not answer them.
        if tool_id.rpartition(":")[2].startswith("_"):
            raise AttributeError(f"no tool {tool_id!r}: names that start with an underscore are reserved")
        self._operations = operations
        self._id = tool_id

    def __getattr__(self, name: str) -> "_Tool":
        if name.startswith("_"):
            raise AttributeError(name)
        if ":" in self._id:
            raise AttributeError(f"{self._id!r} is a tool; for a version of it use tools.run_tool('{self._id}:...')")
        return _Tool(self._operations, f"{self._id}:{name}")

    def __call__(self, /, *positional: object, **arguments: Any) -> Any:
        if positional:
            spelling = f"tools.{self._id.replace(':', '.')}"
            raise TypeError(f"tools take keyword arguments: {spelling}(name=value), not {spelling}(value)")
        return self._operations._send("run_tool", {"tool_id": self._id, "arguments": arguments})

    def __repr__(self) -> str:
        return f"<tool {self._id}>"


def _encoded(arguments: dict[str, Any]) -> str:
    text = encode_arguments(arguments)
    if len(text) > MAX_ARGUMENTS_BYTES:
        sizes = {"size_bytes": len(text), "allowed_bytes": MAX_ARGUMENTS_BYTES}
        raise ToolError(
            "too_large", f"arguments of {len(text)} bytes are over the limit of {MAX_ARGUMENTS_BYTES}", details=sizes
        )
    return text


def _tool_call(tool_id: object, arguments: object) -> dict[str, Any]:
    if not isinstance(tool_id, str):
        raise TypeError(f"a tool id is a str, not {class_name(tool_id)}")
    if arguments is None:
        return {"tool_id": tool_id, "arguments": {}}
    if not isinstance(arguments, Mapping):
        raise TypeError(f"the arguments of {tool_id!r} are a dict, not {class_name(arguments)}")
    return {"tool_id": tool_id, "arguments": dict(arguments)}


def _call(call: Any, path: str) -> dict[str, Any]:
    return _tool_call(*_fields(call, path, _CALL_FIELDS))


def _step(step: Any, path: str) -> dict[str, Any]:
    tool_id, arguments = _fields(step, path, _STEP_FIELDS)
    flags = step if isinstance(step, Mapping) else {}
    return {
        **_tool_call(tool_id, arguments),
        "use_previous": bool(flags.get("use_previous", False)),
        "stop_on_error": bool(flags.get("stop_on_error", True)),
    }


def _fields(item: Any, path: str, known: set[str]) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        unknown = set(item) - known
        if unknown or "tool_id" not in item:
            wrong = f"unknown {sorted(map(str, unknown))}" if unknown else "'tool_id' is missing"
            raise TypeError(f"{path}: {wrong}; the fields are {sorted(known)}")
        return item["tool_id"], item.get("arguments")
    if isinstance(item, tuple) and len(item) == 2:
        return item
    raise TypeError(f"{path}: expected (tool_id, arguments) or a dict of {sorted(known)}, not {class_name(item)}")


def _tool_error(refusal: GatewayRefusal) -> ToolError:
    error = json.loads(refusal.error_json)
    return ToolError(
        error["code"], error["message"], retryable=error.get("retryable", False), details=error.get("details")
    )
