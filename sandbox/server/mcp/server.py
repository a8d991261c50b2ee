"""`McpServer`: which tools a client sees, what it may do, and over what it is served."""

import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from importlib.metadata import version
from typing import Any, Literal, TypeAlias, cast, get_args

import anyio.to_thread
from mcp.server import InitializationOptions, NotificationOptions, Server, ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
)
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.types import ASGIApp

from gateway.base import JsonValue
from gateway.context import ANYBODY, Caller
from gateway.errors import InvalidCursor, InvalidRequest
from gateway.grant import Grant
from runtimes.limits import Limits
from sandbox.exec import AsyncExec
from sandbox.profile import profile_named
from sandbox.request import allowed
from sandbox.server.mcp import http
from sandbox.server.mcp.calls import CallRights, Calls
from sandbox.server.mcp.changes import ListChanges
from sandbox.server.mcp.code import CodeRights, execute_code_tool
from sandbox.server.mcp.listing import Listing
from sandbox.server.mcp.metatools import METATOOLS
from sandbox.server.mcp.progress import Reports
from sandbox.server.mcp.stdio import wires

_log = logging.getLogger(__name__)

Expose: TypeAlias = Literal["tools", "metatools", "both"]

_INSTRUCTIONS = """\
search_tools finds tools, describe_tool says how to call one, run_tool calls it. {code}A result with isError has the \
code of the error, whether trying again may help (retryable), and details."""
_CODE = (
    "execute_code runs a snippet that calls many tools and gives back only what matters: prefer it for several calls. "
)


class McpServer:
    """Offers the tools of an `AsyncExec`, and its sandboxes, to MCP clients. All of them have the same rights.

    expose          `metatools` (default) find and call tools and run code; `tools` are the registered ones, each by a
                    name of its own; or `both`
    allowed_tools   tool ids and `namespace:*` that clients may see and call; None is every tool
    caller          on whose behalf they call: its role decides about tools with roles, and providers see it
    execute_code    whether code is run for clients (default yes), if metatools are exposed
    profile         the weakest profile for it (default the Exec's); a client may only ask for a stricter one
    limits          the most that a client may ask for, over the Exec's own; what it gets when it does not ask
    call_seconds    how long one call of a tool, a chain or a batch may take (default 300); code has `wall_seconds`
    max_calls       calls under way at once, of all clients (default 64); further ones are told to come again

    The Exec is the caller's to close. Raises InvalidRequest.
    """

    def __init__(
        self,
        exec: AsyncExec,  # noqa: A002 - its usual name
        *,
        expose: Expose = "metatools",
        allowed_tools: Iterable[str] | None = None,
        caller: Caller = ANYBODY,
        execute_code: bool = True,
        profile: str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        call_seconds: float = 300.0,
        max_calls: int = 64,
    ) -> None:
        _check(expose, call_seconds, max_calls)
        grant = Grant(allowed_tools=None if allowed_tools is None else allowed(allowed_tools), caller=caller)
        code = CodeRights(
            profile=profile_named(exec.default_profile if profile is None else profile).name,
            limits=Limits.of(limits).over(exec.default_limits),
            grant=grant,
        )
        self._rights = CallRights(
            grant=grant,
            code=code if execute_code and expose != "tools" else None,
            metatools={} if expose == "tools" else METATOOLS,
            call_seconds=call_seconds,
            max_calls=max_calls,
        )
        self._exec = exec
        self._listing = Listing(exec.registry, grant, self._own(), exposes_tools=expose != "metatools")
        self._follows_changes = expose != "metatools"

    async def serve_stdio(self) -> None:
        """Serve one client over standard input and output, until it closes them. What is printed goes to stderr."""
        server = self._server(self._calls())
        with wires() as (stdin, stdout):
            # They do what is needed of the files that the types name.
            async with stdio_server(cast(Any, stdin), cast(Any, stdout)) as (incoming, outgoing):
                await server.run(incoming, outgoing, server.create_initialization_options())

    async def serve_http(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        token: str | None = None,
        started: Callable[[str], None] = lambda _url: None,
    ) -> None:
        """Serve clients over streamable HTTP at `/mcp` until cancelled. `started` is told the URL.

        Clients must send `token` as `Authorization: Bearer`. Only on loopback may there be none. Port 0 is any that is
        free. Raises InvalidRequest.
        """
        http.check_reach(host, token)
        calls = self._calls()
        app = self._app(calls, token, host)
        listener = await anyio.to_thread.run_sync(http.bind, host, port)  # which may have to look a name up
        await http.serve(app, listener, lambda: started(http.url_of(listener)), calls.stop)

    def http_app(self, *, token: str | None) -> ASGIApp:
        """An ASGI app to be served by whoever likes, at `/mcp`. Its lifespan must be run, and it can be run once.

        With `token` None it answers whoever names this machine in `Host`: put it behind what decides who may call.
        """
        return self._app(self._calls(), token)

    def _app(self, calls: Calls, token: str | None, *hosts: str) -> Starlette:
        if token is not None:
            http.check_token(token)
        return http.make_app(self._server(calls), token, hosts)

    def _own(self) -> list[dict[str, JsonValue]]:
        own = [metatool.as_mcp() for metatool in self._rights.metatools.values()]
        return own if self._rights.code is None else [*own, execute_code_tool(self._rights.code)]

    def _calls(self) -> Calls:
        return Calls(self._exec, self._listing, self._rights)

    def _server(self, calls: Calls) -> "_Server":
        changes = ListChanges(self._exec.registry) if self._follows_changes else None
        code = "" if self._rights.code is None else _CODE

        async def answer(context: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> CallToolResult:
            return await calls.answer(params.name, params.arguments or {}, Reports(context))

        server = _Server(
            "toolexec",
            version=version("toolexec"),
            instructions=_INSTRUCTIONS.format(code=code) if self._rights.metatools else None,
            lifespan=lambda _server: _life(calls, changes),
            get_tool_input_schema=self._listing.input_schema,
            on_list_tools=self._list,
            on_call_tool=answer,
            on_subscriptions_listen=None if changes is None else changes.listen,
        )
        server.middleware.append(_guard)
        if changes is not None:
            server.middleware.append(changes.remember)
        return server

    async def _list(
        self, _context: ServerRequestContext[Any, Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        try:
            tools, cursor = self._listing.page(None if params is None else params.cursor)
        except InvalidCursor as error:
            raise MCPError(INVALID_PARAMS, error.message, {"code": error.code}) from error
        return ListToolsResult.model_validate({"tools": tools, "nextCursor": cursor})


class _Server(Server[None]):
    """Says to older clients, too, that its list of tools may change, when that is followed."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        follows = self.get_request_handler("subscriptions/listen") is not None
        told = notification_options or NotificationOptions(tools_changed=follows)
        return super().create_initialization_options(told, experimental_capabilities, extensions)


async def _guard(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """What fails on this side is for the log: the SDK would send the words of any exception to the client."""
    try:
        return await call_next(ctx)
    except (MCPError, ValidationError):
        raise
    except Exception as exc:
        _log.exception("%s failed on this side", ctx.method)
        raise MCPError(INTERNAL_ERROR, "the server failed; its log has the reason") from exc


@asynccontextmanager
async def _life(calls: Calls, changes: ListChanges | None) -> AsyncIterator[None]:
    """For as long as clients are served."""
    async with nullcontext() if changes is None else changes.followed():
        try:
            yield
        finally:
            await calls.stop()


def _check(expose: str, call_seconds: float, max_calls: int) -> None:
    if expose not in get_args(Expose):
        raise InvalidRequest(f"expose must be {', '.join(get_args(Expose))}, not {expose!r}")
    if not (call_seconds > 0 and math.isfinite(call_seconds)):
        raise InvalidRequest(f"call_seconds must be above 0 and finite, not {call_seconds}")
    if max_calls < 1:
        raise InvalidRequest(f"max_calls must be at least 1, not {max_calls}")
