"""One connection to an MCP server, in a task of its own. Imported when a server is connected to."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any

import anyio
import httpx2
from anyio.abc import TaskStatus
from mcp import Client, MCPError
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    REQUEST_TIMEOUT,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    InputRequiredResult,
    PaginatedRequestParams,
    Tool,
    ToolListChangedNotification,
)
from pydantic import TypeAdapter, ValidationError

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import InvalidInput, InvalidOutput, ToolError, ToolFailed, ToolUnavailable
from gateway.payload import printable
from gateway.providers.mcp.source import HttpServer, StdioServer
from gateway.providers.mcp.transport import HTTP_ERROR, SESSION_GONE, Sieve, Streams, streams_of

MAX_PAGES = 100
"""Most pages of a list of tools."""

LISTEN_AGAIN_SECONDS = 5.0

_ANSWER: TypeAdapter[CallToolResult | InputRequiredResult] = TypeAdapter(CallToolResult | InputRequiredResult)
_LATER = frozenset({408, 425, 429})
_SHOWN = 500


class Connection:
    """Has one session with a server. `live` opens, holds and closes it; the rest is for other tasks meanwhile."""

    def __init__(self, what: str, server: StdioServer | HttpServer, on_change: Callable[[], None]) -> None:
        self._what = what
        self._server = server
        self._on_change = on_change
        self._client: Client | None = None
        self._sieve: Sieve | None = None
        self._scope = anyio.CancelScope()
        self._listing = anyio.Lock()
        self._calls = 0
        self._why = ""
        self._refused: ToolError | None = None
        self.usable = False
        self.ended = anyio.Event()

    async def live(self, *, task_status: TaskStatus[None]) -> None:
        """Connect, say so, and stay until `retire` or until the server has gone. Raises why it could not connect."""
        started = False
        try:
            client = Client(
                self._streams(),
                client_info=Implementation(name="toolexec", version=version("toolexec")),
                message_handler=self._on_message,
                cache=None,
            )
            with self._scope:
                async with client:
                    self._client, self.usable, started = client, True, True
                    if self._sieve is not None:
                        self._sieve.version = client.protocol_version
                    task_status.started()
                    await self._watch(client)
        except Exception as exc:
            if not started:
                raise self._translated(exc) from exc
            self._why = self._why or _text(exc)  # for the calls under way; the next one connects anew
        finally:
            self.usable = False
            self.ended.set()
        if not started:
            raise self._refused or ToolUnavailable(self._what, self._why or "it went away as it was connected to")

    async def list_tools(self, most: int) -> tuple[list[Tool], dict[str, str]]:
        """Every page of the tools, and why some were left out. Raises InvalidOutput for a list without end."""
        async with self._listing:
            return await self._list(most)

    async def _list(self, most: int) -> tuple[list[Tool], dict[str, str]]:
        client, sieve = self._connected()
        if client.server_capabilities.tools is None:
            return [], {}
        sieve.left_out = {}
        tools: list[Tool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            async with self._use():
                page = await client.session.list_tools(params=PaginatedRequestParams(cursor=cursor))
            tools += page.tools
            if len(tools) > most:
                raise InvalidOutput(f"{self._what} lists over {most} tools; raise max_tools, or ask it for fewer")
            cursor = page.next_cursor
            if not cursor:
                return tools, sieve.left_out
        raise InvalidOutput(f"{self._what} lists its tools in pages without end; nothing of it can be used")

    async def call(self, name: str, arguments: dict[str, JsonValue], context: ToolContext) -> CallToolResult:
        """Call a tool. The SDK's own `call_tool` would check the result with patterns that can block the event loop."""

        async def report(progress: float, total: float | None, message: str | None) -> None:
            context.report(message or "", progress=progress, total=total)

        client, _ = self._connected()
        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
        async with self._use():
            answer = await client.session.send_request(request, _ANSWER, progress_callback=report)
        if isinstance(answer, InputRequiredResult):
            raise ToolFailed(f"{self._what} asked for more input, from a person or a model, which no call here gives")
        return answer

    def retire(self) -> None:
        """Use it for no new calls, and close it after those that are under way."""
        self.usable = False
        if not self._calls:
            self._scope.cancel()

    async def aclose(self) -> None:
        """Close it now."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self.ended.wait()

    def _connected(self) -> tuple[Client, Sieve]:
        if not self.usable or self._client is None or self._sieve is None:
            raise self._refused or ToolUnavailable(self._what, self._why or "it was disconnected")
        return self._client, self._sieve

    @asynccontextmanager
    async def _use(self) -> AsyncGenerator[None, None]:
        """Counts a request, and translates how it fails."""
        self._calls += 1
        try:
            yield
        except ToolError:
            raise
        except Exception as exc:
            if _is_lost(exc):
                self.usable = False
            raise self._translated(exc) from exc
        finally:
            self._calls -= 1
            if not self.usable and not self._calls:
                self._scope.cancel()

    @asynccontextmanager
    async def _streams(self) -> AsyncGenerator[Streams, None]:
        async with streams_of(self._server, self._on_end) as (incoming, outgoing):
            self._sieve = Sieve(incoming)
            yield self._sieve, outgoing

    def _on_end(self, why: str | ToolError) -> None:
        if isinstance(why, ToolError):
            self._refused = self._refused or why
        self._why = self._why or str(why)
        self.retire()

    def _translated(self, exc: Exception) -> ToolError:
        return self._refused or translated(self._what, exc, self._why)

    async def _on_message(self, message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._on_change()

    async def _watch(self, client: Client) -> None:
        """Hear of changes for as long as the connection lasts."""
        tools = client.server_capabilities.tools
        while tools is not None and tools.list_changed:
            try:
                async with client.listen(tools_list_changed=True) as news:
                    async for _ in news:
                        self._on_change()
            except ListenNotSupportedError:
                break  # an older protocol: notifications come unasked
            except (MCPError, SubscriptionLost):
                pass
            await anyio.sleep(LISTEN_AGAIN_SECONDS)
            self._on_change()  # something may have happened meanwhile
        await anyio.sleep_forever()


def translated(what: str, exc: Exception, why: str) -> ToolError:
    """What went wrong with a server, as an error of ours; `why` is what is known of its end."""
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    match exc:
        case ToolError():
            return exc
        case MCPError():
            return _refusal(what, exc, why)
        case ValidationError():
            flaw = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, flaw["loc"]))
            return InvalidOutput(f"{what} sent what breaks the protocol: {where}: {flaw['msg']}")
        case httpx2.HTTPError() | httpx2.StreamError() | OSError():
            return ToolUnavailable(what, why or _text(exc))
    return ToolFailed(f"{what}: {_text(exc)}", details={"type": type(exc).__name__})


def _refusal(what: str, error: MCPError, why: str) -> ToolError:
    message = printable(error.message, _SHOWN)
    match error.code:
        case _ if error.code == HTTP_ERROR and isinstance(error.data, dict):
            return _http_refusal(what, error.data.get("status", 0), error.data.get("retry_after", ""))
        case _ if error.code in {CONNECTION_CLOSED, REQUEST_TIMEOUT}:
            return ToolUnavailable(what, why or message)
        case _ if error.code == INVALID_PARAMS:
            return InvalidInput(f"{what} refused the arguments: {message}")
    return ToolFailed(f"{what}: {message}", details={"type": "MCPError", "code": error.code})


def _http_refusal(what: str, status: int, retry_after: str) -> ToolError:
    if status == SESSION_GONE:
        return ToolUnavailable(what, "it has forgotten the session")
    if status in _LATER or status >= 500:
        return ToolUnavailable(what, f"HTTP {status}", retry_after_seconds=_seconds(retry_after))
    return ToolFailed(f"{what} refused the request: HTTP {status}", details={"type": "HTTPError", "status": status})


def _seconds(retry_after: str) -> float | None:
    """Of a Retry-After header, which has seconds or a date."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (at - datetime.now(UTC)).total_seconds()) if at.tzinfo else None


def _is_lost(exc: Exception) -> bool:
    if not isinstance(exc, MCPError):
        return False
    gone = isinstance(exc.data, dict) and exc.data.get("status") == SESSION_GONE
    return exc.code == CONNECTION_CLOSED or (exc.code == HTTP_ERROR and gone)


def _text(exc: Exception) -> str:
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    return printable(f"{type(exc).__name__}: {exc}", _SHOWN)
