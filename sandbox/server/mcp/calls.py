"""What becomes of a client's calls."""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult

from gateway.base import MAX_RESULT_BYTES, Gateway, JsonValue, ToolEvents
from gateway.errors import InvalidInput, PayloadTooLarge, SandboxError, ToolUnavailable
from gateway.grant import Grant
from gateway.ids import new_execution_id
from gateway.operations import begun_call, begun_chain, decode_error, perform
from gateway.payload import NotJsonError, decode, encode
from sandbox.exec import AsyncExec
from sandbox.server.mcp.code import EXECUTE_CODE, CodeRights, told
from sandbox.server.mcp.listing import Listing
from sandbox.server.mcp.metatools import METATOOLS, Metatool
from sandbox.server.mcp.progress import Reports
from sandbox.server.mcp.results import MAX_NESTING, answered, failed, structured
from sandbox.toolbox import open_gateway

Arguments: TypeAlias = Mapping[str, JsonValue]
Handler: TypeAlias = Callable[[Arguments, Reports], Awaitable[CallToolResult]]

STOP_SECONDS = 5.0
"""How long calls may take to end when the server is stopped."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRights:
    """What the clients of a server may do. `code` None is no code; `grant` is copied for each call, and not used up."""

    grant: Grant
    code: CodeRights | None
    metatools: Mapping[str, Metatool]
    call_seconds: float
    max_calls: int


class Calls:
    """Answers `tools/call`. Every call of a tool has a gateway of its own, which checks, bounds and records it."""

    def __init__(self, exec: AsyncExec, listing: Listing, rights: CallRights) -> None:  # noqa: A002 - its usual name
        self._exec = exec
        self._listing = listing
        self._rights = rights
        self._under_way: set[anyio.CancelScope] = set()
        self._left = anyio.Event()
        self._is_stopping = False

    async def answer(self, name: str, arguments: Arguments, reports: Reports) -> CallToolResult:
        """The result, or an error as one. Raises MCPError for a name that is not listed."""
        handler = self._handler(name)
        try:
            with anyio.CancelScope() as scope, self._place(scope):
                return await handler(arguments, reports)
            raise self._stopping()
        except SandboxError as error:
            return failed(error)

    async def stop(self) -> bool:
        """End what is under way, and take nothing any more; then say whether there was anything. Idempotent.

        Waits for the end of all, for at most 5 s.
        """
        self._is_stopping, was_busy = True, bool(self._under_way)
        for scope in self._under_way:
            scope.cancel()
        with anyio.move_on_after(STOP_SECONDS, shield=True) as waiting:
            while self._under_way:
                await self._left.wait()
        if waiting.cancelled_caught:
            _log.warning(
                "%d calls did not end within %g s; they are left to themselves", len(self._under_way), STOP_SECONDS
            )
        return was_busy

    def _handler(self, name: str) -> Handler:
        if name == EXECUTE_CODE and self._rights.code is not None:
            return partial(self._execute, self._rights.code)
        if name in self._rights.metatools:
            return partial(self._ask, METATOOLS[name])
        tool = self._listing.find(name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {name[:200]}", {"code": "tool_not_found"})
        return partial(self._call, tool.id)

    @contextmanager
    def _place(self, scope: anyio.CancelScope) -> Iterator[None]:
        most = self._rights.max_calls
        if self._is_stopping:
            raise self._stopping()
        if len(self._under_way) >= most:
            raise ToolUnavailable("this server", f"{most} calls are under way, which is the most it takes")
        self._under_way.add(scope)
        try:
            yield
        finally:
            self._under_way.remove(scope)
            self._left.set()
            self._left = anyio.Event()

    def _stopping(self) -> ToolUnavailable:
        return ToolUnavailable("this server", "it is being stopped")

    def _gateway(self) -> Gateway:
        deadline = time.monotonic() + self._rights.call_seconds
        grant = replace(self._rights.grant, execution_id=f"mcp-{new_execution_id()}", deadline=deadline)
        return open_gateway(self._exec, grant)

    async def _call(self, tool_id: str, arguments: Arguments, reports: Reports) -> CallToolResult:
        return answered(await self._run({"tool_id": tool_id, "arguments": arguments}, reports))

    async def _ask(self, metatool: Metatool, arguments: Arguments, reports: Reports) -> CallToolResult:
        if metatool.name == "run_tool":
            reply = await self._run(arguments, reports)
        elif metatool.name == "run_chain" and reports.wanted:
            reply = await self._run_chain(arguments, reports)
        else:
            reply = _decoded(await perform(self._gateway(), metatool.name, _encoded(arguments)))
        return structured(metatool.wrapped(reply), reply)

    async def _run(self, arguments: Arguments, reports: Reports) -> JsonValue:
        if not reports.wanted:
            return _decoded(await perform(self._gateway(), "run_tool", _encoded(arguments)))
        events = begun_call(self._gateway(), _decoded(_encoded(arguments)))
        parts, value = await _followed(events, reports, MAX_RESULT_BYTES)
        return parts if parts or self._streams(arguments) else value

    async def _run_chain(self, arguments: Arguments, reports: Reports) -> JsonValue:
        events = begun_chain(self._gateway(), _decoded(_encoded(arguments)))
        steps, value = await _followed(events, reports)
        return {"value": value, "steps": steps}

    def _streams(self, arguments: Arguments) -> bool:
        tool = self._exec.registry.find(str(arguments["tool_id"]))
        return tool is not None and tool.streams

    async def _execute(self, code: CodeRights, arguments: Arguments, reports: Reports) -> CallToolResult:
        asked = code.narrowed(arguments, self._exec.registry)
        async with aclosing(self._exec.stream_code(asked.pop("code"), **asked)) as events:
            async for event in events:
                if event.kind == "output":
                    await reports.part(event.text)
                elif event.result is not None:
                    fields = told(event.result)
                    return structured(fields, fields, is_error=not event.result.ok)
        raise AssertionError("an execution has a last event")


async def _followed(
    events: ToolEvents, reports: Reports, max_bytes: float = math.inf
) -> tuple[list[JsonValue], JsonValue]:
    """The chunks of a stream, reported as they come, and its result. Raises the error that ends it, and PayloadTooLarge
    for chunks of more than `max_bytes` together.
    """
    parts: list[JsonValue] = []
    size_bytes = 0
    async with aclosing(events):
        async for event in events:
            match event.kind:
                case "done":
                    return parts, event.data
                case "error":
                    raise decode_error(encode(dict(event.error or {})))
                case "progress":
                    await reports.progress(**event.data)
                case "chunk":
                    size_bytes += len(encode(event.data, MAX_NESTING)) + 1
                    if size_bytes > max_bytes:
                        raise PayloadTooLarge("the result, part by part,", size_bytes, MAX_RESULT_BYTES)
                    parts.append(event.data)
                    await reports.part(event.data)
    raise AssertionError("a stream has a last event")


def _encoded(arguments: Arguments) -> bytes:
    try:
        return encode(dict(arguments), MAX_NESTING)
    except NotJsonError as exc:
        raise InvalidInput(f"the arguments are not JSON: {exc}") from exc


def _decoded(reply: bytes) -> Any:
    return decode(reply, MAX_NESTING)
