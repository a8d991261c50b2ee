"""The MCP server over streamable HTTP: who may speak to it, and for how long it is served."""

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio
import uvicorn
from mcp.server import Server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import InvalidRequest
from gateway.operations import MAX_OPERATION_BYTES

PATH = "/mcp"

MIN_TOKEN = 16
"""Shortest token, in characters; `openssl rand -hex 32` makes a good one."""

MAX_CONNECTIONS = 1000
"""Further clients are told 503."""

CLOSE_SECONDS = 2.0
"""How long open streams may take to end."""

_SEND_SECONDS = 0.1  # for the last answers to be sent
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # as RFC 6750 has it
_ENVELOPE_BYTES = 64 << 10  # of a request around a call's arguments
_LOCAL = ("127.0.0.1", "localhost", "[::1]")


def check_token(token: str) -> None:
    """Raise InvalidRequest unless it can be sent as a bearer token and is hard to guess."""
    if len(token) < MIN_TOKEN or not _TOKEN.fullmatch(token):
        raise InvalidRequest(
            f"the token must be {MIN_TOKEN} or more characters of A-Z a-z 0-9 . _ ~ + / -; "
            "`openssl rand -hex 32` makes one"
        )


def check_reach(host: str, token: str | None) -> None:
    """Raise InvalidRequest when others than this machine's users could call without a token."""
    if token is None and not is_loopback(host):
        raise InvalidRequest(
            f"{host or 'every address'} can be reached from elsewhere, so clients need a token; "
            "give one, or bind to 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. A name other than localhost may lead anywhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_app(server: Server[Any], token: str | None, hosts: tuple[str, ...] = ()) -> Starlette:
    """An app that serves `server` at `/mcp`.

    Without a token only requests for this machine, or one of `hosts`, are answered: a page in a browser here could send
    others.
    """
    names = (*_LOCAL, *hosts)
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=token is None,
        allowed_hosts=[*names, *(f"{name}:*" for name in names)],
        allowed_origins=[f"http://{name}:*" for name in names],
    )
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=MAX_OPERATION_BYTES + _ENVELOPE_BYTES,
        transport_security=security,
    )
    app.state.is_closing = False
    app.add_middleware(_Door, token=token)
    return app


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any that is free. Raises InvalidRequest."""
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InvalidRequest(f"cannot listen at {host}:{port}: {error}") from error


def url_of(listener: socket.socket) -> str:
    """Where clients find the server."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}{PATH}" if ":" in host else f"http://{host}:{port}{PATH}"


async def serve(
    app: Starlette, listener: socket.socket, started: Callable[[], None], stop: Callable[[], Awaitable[bool]]
) -> None:
    """Serve until cancelled; then `stop` what is under way, end every stream, and close the socket."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws="none",
        lifespan="off",  # see below
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=int(CLOSE_SECONDS),
    )
    # In a task of its own: whoever cancels us cancels no session before it was told.
    living = asyncio.create_task(_live(app, _Uvicorn(config), listener, started))
    try:
        await asyncio.shield(living)
    finally:
        app.state.is_closing = True
        with anyio.CancelScope(shield=True):
            if await stop():
                await anyio.sleep(_SEND_SECONDS)
            living.cancel()
            await asyncio.wait([living], timeout=CLOSE_SECONDS * 4)


async def _live(app: Starlette, server: "_Uvicorn", listener: socket.socket, started: Callable[[], None]) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        # The app's own life ends first: uvicorn would wait for streams that only this ends.
        async with app.router.lifespan_context(app):
            started()  # the socket listens: who connects now is answered as soon as the server is up
            await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await asyncio.wait([serving], timeout=CLOSE_SECONDS * 2)
        serving.cancel()
        listener.close()


class _Uvicorn(uvicorn.Server):
    """Leaves signals to the process that it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _Door:
    """Answers 401 to every request without the token, before anything of it is read, and 503 while we close."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._wanted = None if token is None else _digest(token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif self._wanted is not None and not self._admits(scope, self._wanted):
            refusal = {"error": "invalid_token", "error_description": "a bearer token is needed"}
            headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            await JSONResponse(refusal, status_code=401, headers=headers)(scope, receive, send)
        elif scope["app"].state.is_closing:
            await JSONResponse({"error": "closing"}, status_code=503)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _admits(self, scope: Scope, wanted: bytes) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(_digest(token), wanted)


def _digest(token: bytes) -> bytes:
    """Of equal length whatever the token, so that comparing tells nothing of it."""
    return hashlib.sha256(token).digest()
