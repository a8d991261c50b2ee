"""What an HTTP tool adds to a request, on loopback: `run_tool` beside the bare client, turn and turn about.

python benchmarks/http_tools.py
"""

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import httpx2

from gateway.providers.http import HttpApi
from sandbox import AsyncExec

SERVER = """
import asyncio, sys

BODY = b'{"id": 7, "name": "Ann", "tags": ["a", "b"]}'
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(BODY) + BODY

class Server(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(ANSWER)

async def main():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""
"""Answers whatever comes, in a process of its own, so that its work is not counted."""

USER = {"id": 7, "name": "Ann", "tags": ["a", "b"]}
ADDED = "HTTP: what run_tool adds to the bare client"


class Measured(NamedTuple):
    """One measured thing, in seconds; `target_seconds` is the most that the median may be."""

    name: str
    seconds: list[float]
    target_seconds: float | None = None

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)


async def measure(count: int = 2000) -> list[Measured]:
    async with serving() as url, httpx2.AsyncClient() as client, AsyncExec() as host:
        api = HttpApi(base_url=url)
        host.register(api.tool("crm:get_user", "GET", "/users/{id}", query={"fields": "{fields}"}))

        async def bare() -> Any:
            return (await client.get(f"{url}/users/7", params={"fields": ["name", "tags"]})).json()

        async def tool() -> Any:
            return await host.run_tool("crm:get_user", {"id": 7, "fields": ["name", "tags"]})

        for call in (bare, tool):
            await repeated(call, 50)
        by_turns = [(await repeated(bare, 1), await repeated(tool, 1)) for _ in range(count)]
    bares, tools = ([seconds for (seconds,) in each] for each in zip(*by_turns, strict=True))
    added = [tool - bare for bare, tool in zip(bares, tools, strict=True)]
    return [
        Measured("reference: a GET through the bare client", bares),
        Measured("HTTP: the same through run_tool", tools),
        Measured(ADDED, added, target_seconds=200e-6),
    ]


async def repeated(call: Callable[[], Awaitable[Any]], count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        answer = await call()
        seconds.append(time.perf_counter() - started)
        assert answer == USER
    return seconds


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


def main() -> None:
    for measured in asyncio.run(measure()):
        target = "" if measured.target_seconds is None else f"  (at most {measured.target_seconds * 1e6:.0f})"
        print(f"{measured.name:50} {measured.p50 * 1e6:8.0f} µs{target}")


if __name__ == "__main__":
    main()
