"""A real HTTP server on loopback that can also misbehave: what it writes is up to the test, byte by byte."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.context import ToolContext
from gateway.runner import Runner
from gateway.tools.model import Tool
from gateway.tools.registry import ToolRegistry


@dataclass(frozen=True)
class Seen:
    """One request, as it came."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) <= 1, found
        return found[0] if found else None


@dataclass
class Server:
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client closed a connection while its answer was still being made."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


Answer = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


def response(
    body: bytes | str = b"", status: str = "200 OK", content_type: str = "application/json", **headers: str
) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    lines = {"Content-Type": content_type, "Content-Length": str(len(data))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + data


def always(data: bytes) -> Answer:
    async def answer(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


async def echo(seen: Seen, writer: asyncio.StreamWriter) -> None:
    """What came, as JSON."""
    said = {"method": seen.method, "target": seen.target, "headers": dict(seen.headers), "body": seen.body.decode()}
    writer.write(response(json.dumps(said)))


async def silence(_seen: Seen, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


@contextlib.asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    busy: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy.add(task)
        server.connections += 1
        server.open += 1
        try:
            while (seen := await _request(reader)) is not None:
                server.seen.append(seen)
                server.asked.set()
                if not await _answered(answer, seen, reader, writer):
                    server.hung_up.set()
                    break
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            server.hung_up.set()
        finally:
            server.open -= 1
            busy.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in list(busy):
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await listening.wait_closed()


async def call(tool: Tool, arguments: Any = None, timeout_seconds: float | None = None) -> Any:
    """One call, as a user makes it: validated, bounded, its failures told apart."""
    registry = ToolRegistry([tool])
    context = ToolContext(tool_id=str(tool.id))
    return await Runner(registry).run(registry.tools()[0], arguments or {}, context, timeout_seconds=timeout_seconds)


async def _answered(answer: Answer, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """False when the client hung up first."""
    working = asyncio.ensure_future(answer(seen, writer))
    waiting = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
            return not waiting.done()
        return False
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


async def _request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Seen(method, target, headers, await reader.readexactly(length))
