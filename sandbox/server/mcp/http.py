"""The MCP server over streamable HTTP: who may speak to it, and for how long it is served."""

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Callable, Generator
from typing import Any

import anyio
import uvicorn
from mcp.server import Server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import InvalidRequest
from gateway.operations import MAX_OPERATION_BYTES

PATH = "/mcp"

MIN_TOKEN = 16
"""Shortest token, in characters; `openssl rand -hex 32` makes a good one."""

CLOSE_SECONDS = 2.0
"""How long open streams may take to end."""

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


def make_app(server: Server[Any], token: str | None, hosts: tuple[str, ...] = ()) -> ASGIApp:
    """An ASGI app that serves `server` at `/mcp`.

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
    return app if token is None else _RequireToken(app, token)


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


async def serve(app: ASGIApp, listener: socket.socket, started: Callable[[], None]) -> None:
    """Serve until cancelled; then end every stream and close the socket."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws="none",
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=int(CLOSE_SECONDS),
    )
    server = _Uvicorn(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        started()  # the socket listens: who connects now is answered as soon as the server is up
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        with anyio.move_on_after(CLOSE_SECONDS * 2, shield=True):
            await asyncio.wait([serving])
        serving.cancel()
        listener.close()


class _Uvicorn(uvicorn.Server):
    """Leaves signals to the process that it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _RequireToken:
    """Answers 401 to every request without the token, before anything of it is read."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._wanted = _digest(token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._admits(scope):
            await self._app(scope, receive, send)
            return
        refusal = {"error": "invalid_token", "error_description": "a bearer token is needed"}
        headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        await JSONResponse(refusal, status_code=401, headers=headers)(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(_digest(token), self._wanted)


def _digest(token: bytes) -> bytes:
    """Of equal length whatever the token, so that comparing tells nothing of it."""
    return hashlib.sha256(token).digest()
