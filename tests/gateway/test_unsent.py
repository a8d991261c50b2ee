"""What providers say of a call that failed before anything of it was sent, and what merely looks like that."""

import asyncio
import contextlib
import socket
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.context import ToolContext
from gateway.errors import ToolError, ToolUnavailable
from gateway.pipeline import Pipeline
from gateway.policies.base import Call, Policies, Services
from gateway.policies.egress import Egress
from gateway.policies.retry import FixedRetry
from gateway.providers.http import HttpApi
from gateway.providers.mcp import McpSource
from gateway.providers.mcp.source import HttpServer
from gateway.providers.unsent import unsent
from gateway.runner import Runner
from gateway.tools.registry import ToolRegistry
from tests.gateway.databases import execute, opened, query
from tests.gateway.http_server import Seen, always, call, echo, response, serving

pytestmark = pytest.mark.anyio


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


async def failure(work: Any) -> ToolError:
    with pytest.raises(ToolError) as caught:
        await work
    return caught.value


async def posted(url: str, **api: Any) -> ToolError:
    client = HttpApi(base_url=url, **api)
    try:
        return await failure(call(client.tool("t", "POST", "/a")))
    finally:
        await client.aclose()


async def test_a_connection_that_was_refused() -> None:
    error = await posted(f"http://127.0.0.1:{free_port()}")
    assert (error.code, error.details["sent"]) == ("unavailable", False)


async def test_a_name_that_cannot_be_resolved() -> None:
    async def nowhere(_host: str, _port: int) -> Iterable[str]:
        raise OSError("no such name")

    error = await posted("http://api.example.com", egress=Egress(resolve=nowhere))
    assert (error.code, error.details["sent"]) == ("unavailable", False)


async def test_a_pool_without_a_free_connection() -> None:
    async def silent(_seen: Seen, _writer: asyncio.StreamWriter) -> None:
        await anyio.sleep_forever()

    async with serving(silent) as server:
        api = HttpApi(base_url=server.url, max_connections=1)
        holding = asyncio.create_task(call(api.tool("slow", "GET", "/")))
        await server.asked.wait()
        quick = api.tool("quick", "POST", "/", timeout_seconds=0.1)
        error = await failure(quick.provider.call({}, ToolContext()))
        assert (error.code, error.details["sent"]) == ("unavailable", False)
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        await api.aclose()


async def hang_up(_seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_what_was_sent_is_not_called_unsent() -> None:
    for answer in (hang_up, always(response("busy", "503 Service Unavailable"))):
        async with serving(answer) as server:
            error = await posted(server.url)
            assert (error.code, "sent" in error.details) == ("unavailable", False)
            assert len(server.seen) == 1


async def test_a_redirect_to_where_nobody_listens_was_sent_before() -> None:
    port = free_port()
    there = f"http://127.0.0.1:{port}"
    moved = response("", "307 Temporary Redirect", Location=f"{there}/b")
    async with serving(always(moved)) as server:
        error = await posted(server.url, max_redirects=1, egress=Egress((there,)))
        assert (error.code, "sent" in error.details) == ("unavailable", False)
        assert len(server.seen) == 1


async def test_a_post_that_could_not_be_sent_is_made_once_when_the_server_is_there() -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(echo))
        gone = HttpApi(base_url=f"http://127.0.0.1:{free_port()}")
        here = HttpApi(base_url=server.url)
        stack.push_async_callback(gone.aclose)
        stack.push_async_callback(here.aclose)
        first, second = gone.tool("t", "POST", "/a").provider, here.tool("t", "POST", "/a").provider

        class Moving:
            """Nobody listens at the first attempt."""

            attempts = 0

            async def call(self, arguments: Any, context: ToolContext) -> Any:
                self.attempts += 1
                return await (first if self.attempts == 1 else second).call(arguments, context)

            async def health(self) -> None: ...

            async def aclose(self) -> None: ...

        moving = Moving()
        tool = replace(here.tool("t", "POST", "/a"), provider=moving, policies=Policies(retry=FixedRetry()))
        assert tool.read_only is not True
        registry = ToolRegistry([tool])

        async def at_once(_seconds: float) -> None: ...

        pipeline = Pipeline(Runner(registry), Services(sleep=at_once))
        await pipeline.run(Call(tool=registry.resolve("t"), arguments={}, context=ToolContext(tool_id="t")))
        assert (moving.attempts, len(server.seen)) == (2, 1)


async def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}", read_only=False) as database:
        error = await failure(execute(database, "INSERT INTO t VALUES (1)"))
        assert (error.code, error.details.get("sent")) == ("unavailable", False)


async def test_a_database_whose_port_nobody_listens_at() -> None:
    async with opened(f"postgresql://reader@127.0.0.1:{free_port()}/x", tls="off") as database:
        error = await failure(query(database, "SELECT 1"))
        assert (error.code, error.details.get("sent")) == ("unavailable", False)


async def test_a_statement_that_waited_for_a_lock_was_sent(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("CREATE TABLE t (a)")
    other.execute("BEGIN IMMEDIATE")
    async with opened(f"sqlite:///{tmp_path / 'x.db'}", read_only=False) as database:
        error = await failure(execute(database, "INSERT INTO t VALUES (1)"))
        assert (error.code, "sent" in error.details) == ("unavailable", False)
    other.close()


async def test_an_mcp_server_that_is_not_connected() -> None:
    source = McpSource("test", HttpServer(f"http://127.0.0.1:{free_port()}/mcp"))
    error = await failure(source.call("echo", {"text": "x"}, ToolContext(), has_schema=False))
    assert (error.code, error.details["sent"]) == ("unavailable", False)


async def test_only_what_is_unavailable_is_marked() -> None:
    with pytest.raises(ToolUnavailable) as caught, unsent():
        raise ToolUnavailable("it", "it is away", retry_after_seconds=3)
    assert caught.value.details == {"retry_after_seconds": 3, "sent": False}
    with pytest.raises(ToolError) as other, unsent():
        raise ToolError("else")
    assert other.value.details == {}
