"""MCP servers that lie, page for ever, never stop, die or refuse: always one clear error, and nothing left behind."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.base import JsonValue
from gateway.errors import (
    InvalidOutput,
    PayloadTooLarge,
    SandboxError,
    ToolError,
    ToolFailed,
    ToolTimeout,
    ToolUnavailable,
)
from gateway.providers.mcp import HttpServer, McpSource, StdioServer
from gateway.sources import SourceReport, Sources
from gateway.tools.registry import ToolRegistry
from tests.gateway.test_mcp import Connected, connected, eventually, is_running

pytestmark = pytest.mark.anyio

HOSTILE = str(Path(__file__).parent / "mcp_hostile.py")


def hostile(mode: str, folder: Path, **options: Any) -> McpSource:
    return McpSource("test", StdioServer([sys.executable, HOSTILE, mode, str(folder)]), **options)


async def refusal(source: McpSource) -> SandboxError:
    async with anyio.create_task_group() as tasks:
        with pytest.raises(SandboxError) as caught:
            await Sources(ToolRegistry(), tasks).add(source)
    return caught.value


async def test_every_page_of_a_list_is_read(tmp_path: Path) -> None:
    async with connected(hostile("paged", tmp_path)) as host:
        assert [tool.id for tool in host.registry.tools()] == ["test:last", *(f"test:t{number}" for number in range(4))]


@pytest.mark.parametrize(
    ("mode", "message"), [("circle", "without end"), ("endless", "without end"), ("many", "over 1000 tools")]
)
async def test_a_list_without_end_is_refused(mode: str, message: str, tmp_path: Path) -> None:
    error = await refusal(hostile(mode, tmp_path))
    assert isinstance(error, InvalidOutput)
    assert message in str(error)
    assert not is_running(int((tmp_path / "pid").read_text()))


async def test_a_tool_that_cannot_be_is_left_out_and_the_others_stay(tmp_path: Path) -> None:
    async with connected(hostile("liar", tmp_path)) as host:
        (report,) = host.sources.reports()
        assert report.tool_ids == ("test:good", "test:twice", "test:unstructured", "test:wrong")
        assert set(report.left_out) == {
            "test:broken",
            "test:remote",
            "test:old",
            "test:twice",
            "list",
            "text",
            "number 10",
            "number 11",
        }
        assert "invalid schema" in report.left_out["test:broken"]
        assert "$ref" in report.left_out["test:remote"]
        assert "draft-04" in report.left_out["test:old"]
        assert "inputSchema" in report.left_out["list"]
        assert "name" in report.left_out["number 10"]
        assert await host.call("good") == "good"


async def test_a_result_that_breaks_the_tools_own_schema_is_invalid_output(tmp_path: Path) -> None:
    async with connected(hostile("liar", tmp_path)) as host:
        with pytest.raises(InvalidOutput, match="total"):
            await host.call("wrong")
        with pytest.raises(InvalidOutput):
            await host.call("unstructured")


async def test_answers_that_are_none_are_invalid_output(tmp_path: Path) -> None:
    assert isinstance(await refusal(hostile("nonsense", tmp_path)), InvalidOutput)
    async with connected(hostile("usual", tmp_path)) as host:
        with pytest.raises(InvalidOutput, match="breaks the protocol: content"):
            await host.call("odd")
        with pytest.raises(ToolFailed, match="no luck") as caught:
            await host.call("error")
        assert caught.value.details == {"type": "MCPError", "code": -32007}


@pytest.mark.parametrize(
    ("mode", "message"),
    [("dies", "it ended with exit code 1: no licence was found"), ("ancient", "1999-01-01")],
)
async def test_a_server_that_does_not_come_up_says_why(mode: str, message: str, tmp_path: Path) -> None:
    assert message in str(await refusal(hostile(mode, tmp_path)))


async def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    error = await refusal(hostile("silent", tmp_path, connect_seconds=1))
    assert isinstance(error, ToolUnavailable)
    assert "did not answer within 1 s" in str(error)
    assert not is_running(int((tmp_path / "pid").read_text()))


async def test_a_server_without_tools_has_none(tmp_path: Path) -> None:
    async with connected(hostile("toolless", tmp_path)) as host:
        assert host.sources.reports() == (SourceReport("test"),)


async def test_what_is_no_message_is_passed_over(tmp_path: Path) -> None:
    async with connected(hostile("garbage", tmp_path)) as host:
        with pytest.raises(ToolFailed, match="no luck"):
            await host.call("error")


async def test_cancellation_is_told_to_a_server_of_the_older_protocol(tmp_path: Path) -> None:
    async with connected(hostile("usual", tmp_path)) as host:
        with pytest.raises(ToolTimeout):
            await host.call("wait", timeout_seconds=1)
        await eventually((tmp_path / "cancelled").exists)
        assert json.loads((tmp_path / "cancelled").read_text())["requestId"]


async def test_what_a_server_asks_for_is_refused(tmp_path: Path) -> None:
    async with connected(hostile("usual", tmp_path)) as host:
        assert await host.call("ask") == "refused"
        refusals = (tmp_path / "refusals").read_text()
        for kind in ("sampling/createMessage", "elicitation/create", "roots/list"):
            assert kind in refusals
        assert refusals.count("not supported") == 3


async def test_a_message_that_never_ends_ends_the_connection(tmp_path: Path) -> None:
    async with connected(hostile("usual", tmp_path)) as host:
        first = int((tmp_path / "pid").read_text())
        with pytest.raises(ToolUnavailable, match="over 8388608 bytes"):
            await host.call("flood")
        await eventually(lambda: not is_running(first))
        with pytest.raises(ToolFailed, match="no luck"):
            await host.call("error")


async def test_a_storm_of_changes_is_one_refresh(tmp_path: Path) -> None:
    async with connected(hostile("grows", tmp_path)) as host:
        before = host.registry.version
        await host.call("grow")
        await eventually(lambda: host.registry.find("test:grown") is not None)
        await anyio.sleep(0.5)
        assert host.registry.version == before + 1


async def test_a_server_that_leaves_between_calls_is_started_again(tmp_path: Path) -> None:
    async with connected(hostile("usual", tmp_path)) as host:
        for _ in range(2):
            first = (tmp_path / "pid").read_text()
            with pytest.raises(ToolUnavailable, match="exit code 0"):
                await host.call("leave")
            with pytest.raises(ToolFailed, match="no luck"):
                await host.call("error")
            assert (tmp_path / "pid").read_text() != first


async def test_a_server_that_comes_back_with_other_tools_is_asked_for_them(tmp_path: Path) -> None:
    async with connected(hostile("reborn", tmp_path)) as host:
        for _ in range(2):
            with pytest.raises(ToolUnavailable, match="exit code 0"):
                await host.call("leave")
        await eventually(lambda: host.registry.find("test:new") is not None)
        assert await host.call("new") == "new"


async def test_a_server_that_will_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    async with connected(hostile("stubborn", tmp_path)):
        pids = [int((tmp_path / name).read_text()) for name in ("pid", "child")]
        assert all(map(is_running, pids))
    assert not any(map(is_running, pids))


# Over HTTP: a server of a few lines, that answers as it is told.


class Canned:
    """Speaks just enough of the older protocol; what it answers to tools/call is the test's to say."""

    def __init__(self) -> None:
        self.answer: bytes | None = None
        self.session = "one"
        self.seen: list[tuple[str, dict[str, str]]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        message = json.loads(body) if body else {}
        self.seen.append((head[0].split()[0] + " " + message.get("method", ""), headers))
        reply = self._reply(head[0], headers, message)
        writer.write(reply)
        await writer.drain()
        return b"content-length" in reply.lower()

    def _reply(self, line: str, headers: dict[str, str], message: dict[str, Any]) -> bytes:
        if not line.startswith("POST"):
            return status(405)
        if headers.get("mcp-session-id", self.session) != self.session:
            return reply({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Session not found"}}, 404)
        match message:
            case {"method": "initialize", "id": request_id, "params": {"protocolVersion": version}}:
                server = {"name": "canned", "version": "0"}
                result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}
                return reply(
                    {"jsonrpc": "2.0", "id": request_id, "result": result}, more=f"mcp-session-id: {self.session}"
                )
            case {"method": "tools/list", "id": request_id}:
                tools = [{"name": "go", "inputSchema": {"type": "object"}}]
                return reply({"jsonrpc": "2.0", "id": request_id, "result": {"tools": tools}})
            case {"method": "tools/call", "id": request_id} if self.answer is None:
                text = [{"type": "text", "text": "went"}]
                return reply({"jsonrpc": "2.0", "id": request_id, "result": {"content": text}})
            case {"method": "tools/call"}:
                assert self.answer is not None
                return self.answer
            case {"id": request_id}:
                return reply({"jsonrpc": "2.0", "id": request_id, "error": {"code": -32601, "message": "unknown"}})
        return status(202)


def status(code: int, more: str = "") -> bytes:
    return f"HTTP/1.1 {code} x\r\ncontent-length: 0\r\n{more}\r\n".encode()


def reply(message: JsonValue, code: int = 200, more: str = "x: y") -> bytes:
    body = json.dumps(message).encode()
    head = f"HTTP/1.1 {code} x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def canned() -> AsyncIterator[tuple[Canned, Connected]]:
    service = Canned()
    listener = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    server = HttpServer(f"http://127.0.0.1:{port}/mcp", headers={"authorization": "Bearer s3cret"})
    try:
        async with connected(McpSource("test", server)) as host:
            yield service, host
    finally:
        listener.close()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (status(503, "retry-after: 7\r\n"), ToolUnavailable, "HTTP 503"),
        (status(429), ToolUnavailable, "HTTP 429"),
        (status(408), ToolUnavailable, "HTTP 408"),
        (status(401), ToolFailed, "HTTP 401"),
        (status(403), ToolFailed, "HTTP 403"),
        (status(200), ToolFailed, "content type"),
        (status(202), ToolFailed, "202"),
        (status(307, "location: http://127.0.0.2:9/elsewhere\r\n"), ToolFailed, "not followed"),
        (b"HTTP/1.1 200 x\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\nnope", ToolError, "JSON"),
        (b"nonsense\r\n\r\n", ToolUnavailable, "RemoteProtocolError"),
        (b"", ToolUnavailable, "disconnected without"),
    ],
)
async def test_http_errors_are_told_apart(answer: bytes, error: type[ToolError], message: str) -> None:
    async with canned() as (service, host):
        service.answer = answer
        with pytest.raises(error, match=message) as caught:
            await host.call("go")
        assert caught.value.retryable is (error is ToolUnavailable)
        assert "s3cret" not in f"{caught.value} {caught.value.details}"
        if b"retry-after" in answer:
            assert caught.value.details == {"retry_after_seconds": 7.0}
        service.answer = None
        assert await host.call("go") == "went"


async def test_a_redirect_takes_no_header_to_another_host() -> None:
    async with canned() as (service, host), canned() as (other, elsewhere):
        del elsewhere
        before = len(other.seen)
        service.answer = status(307, f"location: {other_url(other)}\r\n")
        with pytest.raises(ToolFailed, match="not followed"):
            await host.call("go")
        assert len(other.seen) == before


def other_url(other: Canned) -> str:
    return f"http://{other.seen[0][1]['host']}/mcp"


async def test_an_answer_without_end_is_cut_off() -> None:
    async with canned() as (service, host):
        body = b'{"x": "' + b"x" * 9_000_000
        service.answer = b"HTTP/1.1 200 x\r\ncontent-type: application/json\r\n\r\n" + body
        with pytest.raises((ToolError, PayloadTooLarge), match="8388608"):
            await host.call("go")


async def test_a_session_that_was_forgotten_is_begun_again() -> None:
    async with canned() as (service, host):
        assert await host.call("go") == "went"
        service.session = "two"
        with pytest.raises(ToolUnavailable, match="forgotten the session"):
            await host.call("go")
        assert await host.call("go") == "went"


async def test_headers_go_with_every_request() -> None:
    async with canned() as (service, host):
        await host.call("go")
        assert {"POST initialize", "POST tools/list", "POST tools/call"} <= {what for what, _ in service.seen}
        assert {headers.get("authorization") for _, headers in service.seen} == {"Bearer s3cret"}


async def test_a_connection_that_is_slow_to_come_does_not_keep_its_host(tmp_path: Path) -> None:
    started = time.monotonic()
    async with anyio.create_task_group() as tasks:
        sources = Sources(ToolRegistry(), tasks)
        with anyio.move_on_after(0.5):
            await sources.add(hostile("silent", tmp_path))
        assert sources.reports() == ()
    assert time.monotonic() - started < 20
    assert not is_running(int((tmp_path / "pid").read_text()))
