"""MCP servers as sources of tools: child processes that speak over pipes, or services at a URL."""

import logging
import math
import shutil
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
from anyio.abc import TaskGroup

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import InvalidRequest, MissingExtra, PayloadTooLarge, SandboxError, ToolUnavailable
from gateway.policies.destinations import Destination
from gateway.policies.egress import Egress, origin
from gateway.providers.secret import Secret, revealed
from gateway.providers.unsent import unsent
from gateway.sources import Offer
from gateway.tools.model import Tool, ToolId

if TYPE_CHECKING:
    import ssl

    import httpx2

    from gateway.providers.mcp.connection import Connection

_log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 30.0
"""After a failure the server is left alone for 0.5 s, and twice as long after each further one, up to this."""


@dataclass(frozen=True, slots=True)
class StdioServer:
    """A server that is started here and spoken to over its standard input and output.

    argv  the program and its arguments; there is no shell
    env   all of its environment; many servers need a PATH
    cwd   an absolute path, default `/`
    """

    argv: Sequence[str]
    env: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    cwd: str | Path = "/"

    def __post_init__(self) -> None:
        object.__setattr__(self, "argv", () if isinstance(self.argv, str) else tuple(self.argv))
        if not self.argv:
            raise InvalidRequest("argv must be a list of a program and its arguments; there is no shell")
        if any("\0" in text for text in self.argv):
            raise InvalidRequest("argv must not have NUL characters")
        if not self.folder.is_absolute():
            raise InvalidRequest(f"cwd must be an absolute path, not {str(self.cwd)!r}")
        if shutil.which(self.argv[0]) is None:
            raise InvalidRequest(f"there is no program {self.argv[0]!r} that may be run; install it, or give its path")

    @property
    def program(self) -> str:
        return str(Path(shutil.which(self.argv[0]) or self.argv[0]).absolute())

    @property
    def folder(self) -> Path:
        return Path(self.cwd)

    def environment(self) -> dict[str, str]:
        return {name: revealed(value) for name, value in self.env.items()}


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server that is spoken to over streamable HTTP. Nothing is sent to any other host, except by `auth`.

    headers  sent with every request, for instance authorization
    auth     an `httpx2.Auth`, such as the SDK's OAuth provider; egress must allow the hosts that it asks
    verify   False, or a TLS context, for certificates of your own
    egress   what may be connected to beside the URL's own host: a private address that its name leads to, others for
             `auth`
    """

    url: str
    headers: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    auth: "httpx2.Auth | None" = field(default=None, repr=False)
    verify: "ssl.SSLContext | bool" = True
    egress: Egress = field(default_factory=Egress)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidRequest(f"the URL of an MCP server begins with https:// or http://, not {parts.scheme!r}")
        if parts.username is not None or parts.password is not None:
            raise InvalidRequest("a URL with a password in it would end up in logs; pass it in headers")
        object.__setattr__(self, "egress", self.egress.with_url(self.url))

    def header_values(self) -> dict[str, str]:
        return {name: revealed(value) for name, value in self.headers.items()}


class McpSource:
    """The tools of one MCP server: `await exec.connect(McpSource("docs", HttpServer("https://…/mcp")))`.

    The server's tools get the name as their namespace; names that a tool cannot have are changed, see `legal_names`.
    The connection is made when the source opens, and again when a call finds it lost; the tools follow the server's.
    Samples, questions to the user and folders are refused to it.

    timeout_seconds  bounds one call of each tool
    connect_seconds  bounds one attempt to connect
    max_tools        a server that lists more is refused
    """

    def __init__(
        self,
        name: str,
        server: StdioServer | HttpServer,
        *,
        timeout_seconds: float = 30.0,
        connect_seconds: float = 30.0,
        max_tools: int = 1000,
    ) -> None:
        ToolId("any", namespace=name)
        for option, seconds in (("timeout_seconds", timeout_seconds), ("connect_seconds", connect_seconds)):
            if not (seconds > 0 and math.isfinite(seconds)):
                raise InvalidRequest(f"{option} must be above 0 and finite, not {seconds}")
        if max_tools < 1:
            raise InvalidRequest(f"max_tools must be at least 1, not {max_tools}")
        self._name = name
        self._server = server
        self._timeout_seconds = timeout_seconds
        self._connect_seconds = connect_seconds
        self._max_tools = max_tools
        self._on_change: Callable[[], None] = _ignore
        self._tasks: TaskGroup | None = None
        self._connection: Connection | None = None
        self._connecting = anyio.Lock()
        self._backoff = Backoff()

    @property
    def name(self) -> str:
        return self._name

    @asynccontextmanager
    async def open(self, on_change: Callable[[], None]) -> AsyncGenerator[None, None]:
        """Connect for as long as the context lasts. Raises ToolUnavailable, InvalidOutput, ToolFailed, MissingExtra."""
        failure: SandboxError | None = None
        async with anyio.create_task_group() as tasks:
            self._tasks, self._on_change = tasks, on_change
            try:
                await self._connected()
            except SandboxError as exc:
                failure = exc  # raised below: a task group would wrap it
            else:
                yield
            finally:
                await self._disconnect()
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def tools(self) -> Offer:
        """What the server lists now. Raises ToolUnavailable, and InvalidOutput for a list that is too long or wrong."""
        from gateway.providers.mcp.content import about, legal_names  # noqa: PLC0415 - of the extra

        listed, left_out = await (await self._connected()).list_tools(self._max_tools)
        names = legal_names(tool.name for tool in listed)
        return Offer(
            tuple(
                Tool(
                    id=ToolId(names[tool.name], self.name),
                    provider=self._provider(tool.name, has_schema=tool.output_schema is not None),
                    timeout_seconds=self._timeout_seconds,
                    **about(tool),
                )
                for tool in listed
            ),
            left_out,
        )

    async def health(self) -> None:
        """Ask the server for its tools."""
        await (await self._connected()).list_tools(self._max_tools)

    async def call(
        self, name: str, arguments: dict[str, JsonValue], context: ToolContext, *, has_schema: bool
    ) -> JsonValue:
        """Call a tool by the name that it has at the server."""
        from gateway.providers.mcp.content import beside, result_of  # noqa: PLC0415 - of the extra

        with unsent():
            connection = await self._connected()
        answer = await connection.call(name, arguments, context)
        self._backoff.reset()
        result = result_of(answer, has_schema=has_schema)
        if has_schema:
            _attach(beside(answer), context)
        return result

    def _provider(self, name: str, *, has_schema: bool) -> "McpProvider":
        if isinstance(self._server, HttpServer):
            return HttpMcpProvider(self, name, has_schema, self._server.url)
        return McpProvider(self, name, has_schema)

    async def _connected(self) -> "Connection":
        async with self._connecting:
            if self._connection is not None and self._connection.usable:
                return self._connection
            if self._tasks is None:
                raise ToolUnavailable(self._what, "it was disconnected")
            if self._backoff.left:
                raise ToolUnavailable(self._what, self._backoff.reason, retry_after_seconds=self._backoff.left)
            again = self._connection is not None
            connection = self._connection = await self._connect(self._tasks)
        if again:
            # Some servers want to have been asked before they are called, and the tools may be others now.
            await connection.list_tools(self._max_tools)
            self._on_change()
        return connection

    async def _connect(self, tasks: TaskGroup) -> "Connection":
        try:
            from gateway.providers.mcp.connection import Connection  # noqa: PLC0415 - of the extra
        except ImportError as exc:
            raise MissingExtra("MCP servers", "mcp") from exc
        connection = Connection(self._what, self._server, self._changed)
        try:
            with anyio.fail_after(self._connect_seconds):
                await tasks.start(connection.live)
        except TimeoutError as exc:
            late = ToolUnavailable(self._what, f"it did not answer within {self._connect_seconds:g} s")
            self._backoff.failed(str(late))
            raise late from exc
        except SandboxError as exc:
            self._backoff.failed(str(exc))
            raise
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._tasks, self._on_change = None, _ignore
        if connection is not None:
            await connection.aclose()

    def _changed(self) -> None:
        self._on_change()

    @property
    def _what(self) -> str:
        return f"MCP server {self.name!r}"


def _attach(files: Iterable[tuple[str, bytes]], context: ToolContext) -> None:
    """What there is room for: the server has done its work, and the result is whole without them."""
    for name, data in files:
        try:
            context.attach(name, data)
        except (InvalidRequest, PayloadTooLarge) as exc:
            _log.warning("%s of %s is not kept: %s", name, context.tool_id, exc)


@dataclass(frozen=True, slots=True)
class McpProvider:
    """Answers the calls to one tool of a server; the source has the connection.

    A server over pipes goes where it likes, so only `HttpMcpProvider` says where calls go.
    """

    source: McpSource
    name: str
    has_schema: bool

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        return await self.source.call(self.name, arguments, context, has_schema=self.has_schema)

    async def health(self) -> None:
        await self.source.health()

    async def aclose(self) -> None:
        """The source closes the connection."""


@dataclass(frozen=True, slots=True)
class HttpMcpProvider(McpProvider):
    """The same for a server at a URL."""

    url: str

    async def destinations(self, arguments: Mapping[str, JsonValue]) -> tuple[Destination, ...]:
        del arguments
        scheme, host, port = origin(self.url)
        return (Destination(scheme=scheme, host=host, port=port, operations=frozenset({"tools/call"})),)


class Backoff:
    """How long a server that failed is left alone."""

    def __init__(self) -> None:
        self.reason = ""
        self._delay = FIRST_DELAY_SECONDS
        self._until = 0.0

    @property
    def left(self) -> float:
        """Seconds that are left to wait."""
        return max(0.0, self._until - anyio.current_time())

    def failed(self, reason: str) -> None:
        self.reason = reason
        self._until = anyio.current_time() + self._delay
        self._delay = min(self._delay * 2, MAX_DELAY_SECONDS)

    def reset(self) -> None:
        self.reason, self._delay, self._until = "", FIRST_DELAY_SECONDS, 0.0


def _ignore() -> None:
    """Nobody is there to hear of changes."""
