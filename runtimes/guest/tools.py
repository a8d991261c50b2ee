"""The `tools` object: the host's tools as the snippet calls them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Protocol

from runtimes.guest.arguments import encode_arguments
from runtimes.guest.text import class_name

_CALL_FIELDS = {"tool_id", "arguments", "timeout_seconds"}
_STEP_FIELDS = _CALL_FIELDS | {"use_previous", "stop_on_error", "mapping"}
_LAST_EVENTS = {"done", "error"}

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

    def run_tool(
        self, tool_id: str, arguments: Mapping[str, Any] | None = None, *, timeout_seconds: float | None = None
    ) -> Any:
        """Call one tool by its id, `namespace:name`."""
        return self._send("run_tool", _tool_call(tool_id, arguments, timeout_seconds))

    def run_chain(self, steps: Iterable[Any], *, timeout_seconds: float | None = None) -> Any:
        """Call tools one after another: steps are (tool_id, arguments) or dicts that may also hold use_previous
        (pass the previous result as `previous`), mapping ({argument: JSON Pointer into {previous, steps}}),
        stop_on_error (default True) and timeout_seconds.
        """
        return self._send("run_chain", _chain(steps, timeout_seconds))

    def run_parallel(
        self, calls: Iterable[Any], *, max_concurrent: int | None = None, timeout_seconds: float | None = None
    ) -> Any:
        """Call tools at the same time: calls are (tool_id, arguments) or dicts of these and timeout_seconds. Results
        keep the order, and so do calls that write to the same resource.
        """
        listed = [_call(call, f"calls[{index}]") for index, call in enumerate(calls)]
        bounds = _given(max_concurrent=max_concurrent, timeout_seconds=timeout_seconds)
        return self._send("run_parallel", {"calls": listed, **bounds})

    def search_tools(
        self, query: str = "", limit: int = 10, *, namespace: str | None = None, tags: Iterable[str] = ()
    ) -> Any:
        """Find tools by words; a list of dicts."""
        filters = _given(namespace=namespace, tags=list(tags) or None)
        return self._send("search_tools", {"query": query, "limit": limit, **filters})

    def list_tools(
        self,
        limit: int = 100,
        cursor: str | None = None,
        *,
        query: str = "",
        namespace: str | None = None,
        tags: Iterable[str] = (),
    ) -> Any:
        """Tools page by page: {tools, cursor}, where `cursor` leads to the next page and is None on the last one."""
        filters = _given(namespace=namespace, cursor=cursor, tags=list(tags) or None)
        return self._send("list_tools", {"limit": limit, "query": query, **filters})

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

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._closing: set[asyncio.Future[None]] = set()

    async def stream_tool(
        self, tool_id: str, arguments: Mapping[str, Any] | None = None, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Call one tool and yield its events; see `tools.stream_tool`."""
        async with aclosing(self._stream(_tool_call(tool_id, arguments, timeout_seconds))) as events:
            async for event in events:
                yield event

    async def stream_chain(
        self, steps: Iterable[Any], *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Call tools one after another and yield what happens; see `tools.stream_chain`."""
        async with aclosing(self._stream(_chain(steps, timeout_seconds))) as events:
            async for event in events:
                yield event

    async def _stream(self, call: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        stream = {"stream": await self._open(call)}
        try:
            while stream:
                for event in await self._send("read_stream", stream):
                    if event["kind"] in _LAST_EVENTS:
                        stream = {}
                    yield event
        finally:
            if stream:
                await self._send("close_stream", stream)

    async def _open(self, call: dict[str, Any]) -> Any:
        """The number of a stream. When the snippet gives it up meanwhile it is closed, as soon as that is known."""
        opening = asyncio.ensure_future(self._send("open_stream", call))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            closing = asyncio.ensure_future(self._close(opening))
            self._closing.add(closing)  # it may be given up once more, and is closed all the same
            closing.add_done_callback(self._closing.discard)
            await asyncio.shield(closing)
            raise

    async def _close(self, opening: "asyncio.Future[Any]") -> None:
        with suppress(ToolError):  # there is nothing to close
            await self._send("close_stream", {"stream": await opening})

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

    def stream_tool(
        self, tool_id: str, arguments: Mapping[str, Any] | None = None, *, timeout_seconds: float | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """Call one tool and yield its events: dicts of kind (progress, chunk, done, error), data and error.

        `done` has the result, unless that came in chunks; `error` has code, message, retryable and details. One of
        these two is the last event. Leaving the loop early ends the call.
        """
        yield from self._stream(_tool_call(tool_id, arguments, timeout_seconds))

    def stream_chain(
        self, steps: Iterable[Any], *, timeout_seconds: float | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """Call tools one after another and yield what happens: a chunk for each step as `run_chain` lists it, progress
        in steps, and `done` with the chain's value. The next step begins when it is asked for.
        """
        yield from self._stream(_chain(steps, timeout_seconds))

    def _stream(self, call: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        stream = {"stream": self._send("open_stream", call)}
        try:
            while stream:
                for event in self._send("read_stream", stream):
                    if event["kind"] in _LAST_EVENTS:
                        stream = {}
                    yield event
        finally:
            if stream:
                self._send("close_stream", stream)

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
    try:
        text = encode_arguments(arguments)
    except (TypeError, ValueError):
        text = encode_arguments(_with_reasons(arguments))
    if len(text) > MAX_ARGUMENTS_BYTES:
        sizes = {"size_bytes": len(text), "allowed_bytes": MAX_ARGUMENTS_BYTES}
        raise ToolError(
            "too_large", f"arguments of {len(text)} bytes are over the limit of {MAX_ARGUMENTS_BYTES}", details=sizes
        )
    return text


def _with_reasons(fields: dict[str, Any]) -> dict[str, Any]:
    """The same, with the reason in place of arguments that are no JSON: the gateway refuses, and records, that call."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if name in {"steps", "calls"}:
            found[name] = [_with_reasons(call) for call in value]
        elif name == "arguments" and (reason := _why_not(value)):
            found["malformed"] = reason
        else:
            found[name] = value
    return found


def _why_not(arguments: dict[str, Any]) -> str:
    try:
        encode_arguments(arguments)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def _tool_call(tool_id: object, arguments: object, timeout_seconds: object = None) -> dict[str, Any]:
    if not isinstance(tool_id, str):
        raise TypeError(f"a tool id is a str, not {class_name(tool_id)}")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise TypeError(f"the arguments of {tool_id!r} are a dict, not {class_name(arguments)}")
    return {"tool_id": tool_id, "arguments": dict(arguments), **_given(timeout_seconds=timeout_seconds)}


def _given(**options: object) -> dict[str, Any]:
    """Those that were given: the gateway knows what the others mean."""
    return {name: value for name, value in options.items() if value is not None}


def _chain(steps: Iterable[Any], timeout_seconds: float | None) -> dict[str, Any]:
    listed = [_step(step, f"steps[{index}]") for index, step in enumerate(steps)]
    return {"steps": listed, **_given(timeout_seconds=timeout_seconds)}


def _call(call: Any, path: str) -> dict[str, Any]:
    fields = _fields(call, path, _CALL_FIELDS)
    return _tool_call(fields["tool_id"], fields.get("arguments"), fields.get("timeout_seconds"))


def _step(step: Any, path: str) -> dict[str, Any]:
    fields = _fields(step, path, _STEP_FIELDS)
    return {
        **_tool_call(fields["tool_id"], fields.get("arguments"), fields.get("timeout_seconds")),
        "use_previous": bool(fields.get("use_previous", False)),
        "stop_on_error": bool(fields.get("stop_on_error", True)),
        **_given(mapping=fields.get("mapping")),
    }


def _fields(item: Any, path: str, known: set[str]) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        unknown = set(item) - known
        if unknown or "tool_id" not in item:
            wrong = f"unknown {sorted(map(str, unknown))}" if unknown else "'tool_id' is missing"
            raise TypeError(f"{path}: {wrong}; the fields are {sorted(known)}")
        return item
    if isinstance(item, tuple) and len(item) == 2:
        return {"tool_id": item[0], "arguments": item[1]}
    raise TypeError(f"{path}: expected (tool_id, arguments) or a dict of {sorted(known)}, not {class_name(item)}")


def _tool_error(refusal: GatewayRefusal) -> ToolError:
    error = json.loads(refusal.error_json)
    return ToolError(
        error["code"], error["message"], retryable=error.get("retryable", False), details=error.get("details")
    )
