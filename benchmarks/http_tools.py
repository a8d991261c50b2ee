"""What an HTTP tool adds to a request, on loopback: `run_tool` beside the bare client, turn and turn about."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

import httpx2
from figures import Figure, added, by_turns, rounds, spread

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


async def measure(share: float) -> list[Figure]:
    async with serving() as url, httpx2.AsyncClient() as client, AsyncExec() as host:
        api = HttpApi(base_url=url)
        host.register(api.tool("crm:get_user", "GET", "/users/{id}", query={"fields": "{fields}"}))

        async def bare() -> None:
            assert (await client.get(f"{url}/users/7", params={"fields": ["name", "tags"]})).json() == USER

        async def tool() -> None:
            assert await host.run_tool("crm:get_user", {"id": 7, "fields": ["name", "tags"]}) == USER

        bares, tools = await by_turns(rounds(2000, share), bare, tool)
    return [
        spread("reference: a GET through the bare client", "µs", bares),
        spread("HTTP: the same through run_tool", "µs", tools),
        spread("HTTP: what run_tool adds to the bare client", "µs", added(tools, bares), target=200),
    ]


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()
