"""Ways to an MCP server, as the SDK's client takes them, with bounds of ours. Imported when a server is used."""

import json
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import anyio
import httpcore2
import httpx2
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCResponse, jsonrpc_message_adapter, methods
from pydantic import ValidationError

from gateway.errors import ToolError
from gateway.policies.egress import DEFAULT_PORTS, Egress, normal_host, origin
from gateway.providers.cli.process import Program, Tail, start
from gateway.providers.http.transport import KEEPALIVE_SECONDS, CheckedBackend
from gateway.providers.mcp.source import HttpServer, StdioServer
from gateway.secrets import masked

MAX_MESSAGE_BYTES = 8 << 20
"""Largest message that a server may send."""

GRACE_SECONDS = 2.0
"""How long a server may take to end by itself when its input has ended; then it is killed."""

HTTP_ERROR = -32099
"""The code of an answer that is no answer of the protocol but an HTTP status; `data` is {status, retry_after}."""

FIRST_ERROR = 400

SESSION_GONE = 404
"""The status of an answer to a session that the server does not know."""

_STDERR_BYTES = 2000
_SHOWN_STDERR = 500
_CONNECT_SECONDS = 10.0
# A server may be silent for long while it works; a connection that has gone silent for ever is found out in the end.
_READ_SECONDS = 300.0
_FAREWELL_SECONDS = 3.0
_MAX_CONNECTIONS = 100  # each call has one while it waits

_log = logging.getLogger(__name__)

Streams = tuple[Any, Any]
"""What the SDK reads from, and what it writes to."""

OnEnd = Callable[[str | ToolError], None]
"""Hears how a connection ended when that was not our doing: in words, or as the error that it is for every call."""


def streams_of(server: StdioServer | HttpServer, on_end: OnEnd) -> AbstractAsyncContextManager[Streams]:
    """A connection to a server; leaving ends it."""
    return http_streams(server, on_end) if isinstance(server, HttpServer) else stdio_streams(server, on_end)


@asynccontextmanager
async def stdio_streams(server: StdioServer, on_end: OnEnd) -> AsyncGenerator[Streams, None]:
    """Run a server as a child process; leaving kills whatever is left of it.

    The SDK's own transport reads lines without a bound, adds variables of ours to the environment and kills the
    process tree only when the server does not end by itself.
    """
    incoming, to_session = _stream()
    from_session, outgoing = _stream()
    program = start([server.program, *server.argv[1:]], folder=server.folder, env=server.environment())
    pipe = _Pipe(program, on_end)
    async with program:
        try:
            with incoming, to_session, from_session, outgoing:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(pipe.read, incoming)
                    tasks.start_soon(pipe.write, outgoing)
                    tasks.start_soon(program.keep_stderr, pipe.stderr)
                    tasks.start_soon(pipe.wait)
                    try:
                        yield to_session, from_session
                    finally:
                        tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(GRACE_SECONDS):
                program.end_input()
                await program.wait()


def _stream() -> tuple[MemoryObjectSendStream[Any], MemoryObjectReceiveStream[Any]]:
    return anyio.create_memory_object_stream[Any](0)


class _Pipe:
    """Carries messages between the SDK's streams and a program, a line each."""

    def __init__(self, program: Program, on_end: OnEnd) -> None:
        self.stderr = Tail(_STDERR_BYTES)
        self._program = program
        self._on_end = on_end
        self._ended = anyio.Event()

    async def read(self, incoming: MemoryObjectSendStream[Any]) -> None:
        why = ""
        with incoming, suppress(anyio.BrokenResourceError):  # the session has gone, and listens no more
            try:
                async for line in _lines(self._program):
                    if (message := _message(line)) is not None:
                        await incoming.send(message)
            except ValueError as exc:
                why = str(exc)
            with anyio.move_on_after(GRACE_SECONDS):
                await self._ended.wait()
            self._on_end(why or self._last_words())

    async def write(self, outgoing: MemoryObjectReceiveStream[Any]) -> None:
        async for message in outgoing:
            line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            if not await self._program.write(line.encode() + b"\n"):
                break  # it reads no more, and is about to end

    async def wait(self) -> None:
        await self._program.wait()
        self._ended.set()

    def _last_words(self) -> str:
        code = self._program.returncode
        how = "it closed its output" if code is None else f"it ended with exit code {code}"
        said = self.stderr.text[-_SHOWN_STDERR:]
        return f"{how}: {said}" if said else how


async def _lines(program: Program) -> AsyncIterator[bytes]:
    """Raises ValueError for a line that is too long."""
    buffer = bytearray()
    while chunk := await program.read_stdout():
        begin, seen = 0, len(buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", max(begin, seen))) >= 0:
            yield bytes(buffer[begin:end])
            begin = end + 1
        del buffer[:begin]
        if len(buffer) > MAX_MESSAGE_BYTES:
            raise ValueError(f"it sent a message of over {MAX_MESSAGE_BYTES} bytes")


def _message(line: bytes) -> SessionMessage | None:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        _log.debug("an MCP server printed what is no message: %s", masked(repr(line))[:200])
        return None


@asynccontextmanager
async def http_streams(server: HttpServer, on_end: OnEnd) -> AsyncGenerator[Streams, None]:
    """Talk streamable HTTP with one URL. The SDK follows redirects within its origin only, and every connection, also
    those of `auth`, goes to an address that egress permits."""
    client = httpx2.AsyncClient(
        transport=_Bounded(server, on_end),
        auth=server.auth,
        timeout=httpx2.Timeout(_CONNECT_SECONDS, read=_READ_SECONDS),
        trust_env=False,  # neither proxies nor passwords that the operator did not name for this server
    )
    async with (
        client,
        streamable_http_client(server.url, http_client=client, max_sse_event_size=MAX_MESSAGE_BYTES) as streams,
    ):
        yield streams


class _Checked(httpx2.AsyncHTTPTransport):
    """Connects to addresses that egress permits, by one scheme."""

    def __init__(self, egress: Egress, scheme: str, context: ssl.SSLContext) -> None:
        super().__init__(verify=context, trust_env=False)
        assert isinstance(self._pool, httpcore2.AsyncConnectionPool)  # there is no public way to give it a backend
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context,
            max_connections=_MAX_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=CheckedBackend(egress, scheme),
        )


class _Bounded(httpx2.AsyncBaseTransport):
    """Adds the operator's headers, bounds answers, and keeps the status of errors, which the SDK forgets."""

    def __init__(self, server: HttpServer, on_end: OnEnd) -> None:
        self._server = server
        self._on_end = on_end
        self._home = origin(server.url)
        context = httpx2.create_ssl_context(verify=server.verify, trust_env=False)
        self._checked = {scheme: _Checked(server.egress, scheme, context) for scheme in ("http", "https")}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        port = url.port or DEFAULT_PORTS.get(url.scheme, 0)
        ours = (url.scheme, normal_host(url.raw_host.decode()), port) == self._home
        self._prepare(request, ours=ours)
        try:
            response = await self._checked[url.scheme].handle_async_request(request)
        except httpx2.TransportError as exc:
            if ours and request.method == "POST":
                self._on_end(f"{type(exc).__name__}: {exc}")  # the SDK gives the whole connection up
            raise
        except ToolError as exc:  # of egress
            self._on_end(exc)
            raise httpx2.ConnectError(str(exc)) from exc  # what the SDK knows how to take
        if ours and request.method == "POST" and response.status_code >= FIRST_ERROR:
            gone = response.status_code == SESSION_GONE and "mcp-session-id" in request.headers
            return await _protocol_error(response, gone=gone)
        if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Capped(response.stream)
        return response

    async def aclose(self) -> None:
        for transport in self._checked.values():
            await transport.aclose()

    def _prepare(self, request: httpx2.Request, *, ours: bool) -> None:
        request.headers["accept-encoding"] = "identity"  # what is small on the way must not be large here
        if not ours:
            return  # `auth` asks for its token there, and gets none of the headers
        request.headers.update(self._server.header_values())
        if request.method == "GET":
            request.extensions["timeout"]["read"] = None  # it waits for news, and there may be none for days
        if request.method == "DELETE":
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), _FAREWELL_SECONDS)


class _Capped(httpx2.AsyncByteStream):
    """A body that ends in an error when it is too long. Streams of events are bounded event by event instead."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_MESSAGE_BYTES:
                raise httpx2.StreamError(f"an answer of over {MAX_MESSAGE_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _protocol_error(response: httpx2.Response, *, gone: bool) -> httpx2.Response:
    """The same response with a body that is an error of the protocol: the server's, or one that has the status."""
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    body = b"".join([chunk async for chunk in _Capped(response.stream)])
    await response.aclose()
    if gone or not _is_error(body):
        data = {"status": response.status_code, "retry_after": response.headers.get("retry-after", "")}
        error = {"code": HTTP_ERROR, "message": f"HTTP {response.status_code}", "data": data}
        body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in _BODY_HEADERS]
    return httpx2.Response(response.status_code, headers=[*headers, ("content-type", "application/json")], content=body)


_BODY_HEADERS = frozenset({"content-type", "content-length", "content-encoding", "transfer-encoding"})


def _is_error(body: bytes) -> bool:
    try:
        return "code" in json.loads(body)["error"]
    except (ValueError, TypeError, KeyError):
        return False


class Sieve:
    """The SDK's end of a stream of messages, with the tools taken out that break the protocol.

    The SDK refuses a whole page for one of them. `version` is the protocol's, once it is agreed.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.version = "2025-11-25"
        self.left_out: dict[str, str] = {}

    async def receive(self) -> Any:
        item = await self._stream.receive()
        if isinstance(item, SessionMessage) and isinstance(item.message, JSONRPCResponse):
            result = item.message.result
            if isinstance(result.get("tools"), list):
                result["tools"] = [
                    tool for index, tool in enumerate(result["tools"]) if self._fits(result, tool, index)
                ]
        return item

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> "Sieve":
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> "Sieve":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    def _fits(self, result: dict[str, Any], tool: Any, index: int) -> bool:
        try:
            methods.validate_server_result("tools/list", self.version, {**result, "tools": [tool]})
        except ValidationError as exc:
            flaws = [
                error for error in exc.errors(include_url=False, include_input=False) if error["loc"][:1] == ("tools",)
            ]
            if not flaws:
                return True  # the page itself is wrong, and the SDK says so
            name = tool.get("name") if isinstance(tool, dict) else None
            where = ".".join(map(str, flaws[0]["loc"][2:]))
            self.left_out[str(name or f"number {index}")[:200]] = f"{where}: {flaws[0]['msg']}".removeprefix(": ")
            return False
        return True
