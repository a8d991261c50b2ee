"""A real MCP server, over pipes and over HTTP: what its tools are here, and what becomes of calls."""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from gateway.artifacts import Artifact
from gateway.base import JsonValue
from gateway.context import Progress, ToolContext
from gateway.errors import (
    InvalidInput,
    InvalidRequest,
    InvalidToolId,
    MissingExtra,
    PayloadTooLarge,
    ToolFailed,
    ToolNotFound,
    ToolTimeout,
    ToolUnavailable,
)
from gateway.providers.mcp import HttpServer, McpSource, StdioServer
from gateway.runner import Runner
from gateway.sources import Sources
from gateway.tools.registry import ToolRegistry

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
SERVER = str(ROOT / "tests" / "mcp_server.py")


class Connected:
    """A registry with the tools of one source, as a host has it."""

    def __init__(self, tasks: Any) -> None:
        self.registry = ToolRegistry()
        self.sources = Sources(self.registry, tasks)
        self.progress: list[Progress] = []
        self.attached: list[Artifact] = []

    async def call(self, name: str, timeout_seconds: float | None = None, **arguments: JsonValue) -> JsonValue:
        context = ToolContext(on_progress=self.progress.append, on_attach=self.attached.append)
        tool = self.registry.resolve(f"test:{name}")
        return await Runner(self.registry).run(tool, arguments, context, timeout_seconds=timeout_seconds)


@asynccontextmanager
async def connected(*sources: McpSource) -> AsyncIterator[Connected]:
    async with anyio.create_task_group() as tasks:
        host = Connected(tasks)
        await host.sources.add(*sources)
        yield host
        await host.sources.aclose()


async def eventually(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not holds():  # noqa: ASYNC110 - other processes set no events
            await anyio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def stdio(folder: Path) -> StdioServer:
    return StdioServer([sys.executable, SERVER, "stdio", str(folder)], env={"PYTHONPATH": str(ROOT)})


class HttpProcess:
    """The server over HTTP, which can be ended and started again at the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._argv = [sys.executable, SERVER, "http", str(folder), str(self.port)]
        self.url = f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        self.popen = subprocess.Popen(
            self._argv, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    async def ready(self) -> None:
        async def answers() -> bool:
            try:
                async with await anyio.connect_tcp("127.0.0.1", self.port):
                    return True
            except OSError:
                return False

        with anyio.fail_after(30):
            while not await answers():  # noqa: ASYNC110 - other processes set no events
                await anyio.sleep(0.02)

    def stop(self) -> None:
        self.popen.kill()
        self.popen.wait()


@pytest.fixture
def http(tmp_path: Path) -> Iterator[HttpProcess]:
    process = HttpProcess(tmp_path)
    process.start()
    yield process
    process.stop()


@pytest.fixture(params=["stdio", "http"])
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connected]:
    server: StdioServer | HttpServer = stdio(tmp_path)
    if request.param == "http":
        process: HttpProcess = request.getfixturevalue("http")
        await process.ready()
        server = HttpServer(process.url)
    async with connected(McpSource("test", server)) as found:
        yield found


async def test_results_keep_what_the_server_sent(host: Connected) -> None:
    assert await host.call("echo", text="héllo") == "héllo"
    assert await host.call("echo", text='{"a": [1]}') == {"a": [1]}
    assert await host.call("echo", text="0123") == "0123"
    assert await host.call("add", a=1, b=2) == {"total": 3}
    assert await host.call("nothing") is None
    text, image, resource = await host.call("picture")
    assert text == {"type": "text", "text": "look"}
    assert (image["type"], image["mimeType"]) == ("image", "image/png")
    assert image["data"].startswith("iVBORw0KGgp")
    assert resource["resource"] == {"uri": "file:///notes", "mimeType": "text/plain", "text": "notes"}


async def test_a_picture_beside_a_result_with_a_schema_is_attached_to_the_call(host: Connected) -> None:
    assert await host.call("chart") == {"total": 3}
    (picture,) = host.attached
    assert picture.path == "content-2.png"
    assert picture.data.startswith(b"\x89PNG")


async def test_a_picture_that_there_is_no_room_for_fails_no_call(
    host: Connected, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(artifact: Artifact) -> None:
        raise PayloadTooLarge("what this execution attached", 17 << 20, 16 << 20)

    monkeypatch.setattr(host, "attached", SimpleNamespace(append=full))
    assert await host.call("chart") == {"total": 3}
    assert "is not kept: what this execution attached of 17825792 bytes is over the limit" in caplog.text


async def test_a_picture_of_a_failure_is_in_its_details(host: Connected) -> None:
    with pytest.raises(ToolFailed, match="torn") as caught:
        await host.call("torn")
    (picture,) = caught.value.details["content"]
    assert (picture["type"], picture["mimeType"]) == ("image", "image/png")
    assert picture["data"].startswith("iVBORw0KGgp")
    assert host.attached == []


async def test_a_tool_is_described_in_the_servers_words(host: Connected) -> None:
    echo = host.registry.resolve("test:echo").tool
    assert (echo.title, echo.description) == ("Echo", "Say it again.")
    assert (echo.read_only, echo.open_world, echo.destructive, echo.idempotent) == (True, False, None, None)
    assert echo.input_schema["required"] == ["text"]
    add = host.registry.resolve("test:add").tool
    assert (add.destructive, add.idempotent, add.read_only) == (True, True, None)
    assert add.output_schema is not None
    assert add.output_schema["required"] == ["total"]


async def test_arguments_are_checked_before_they_are_sent(host: Connected) -> None:
    with pytest.raises(InvalidInput, match="b"):
        await host.call("add", a=1)


async def test_the_error_flag_is_an_error(host: Connected) -> None:
    with pytest.raises(ToolFailed, match="Error executing tool fail") as caught:
        await host.call("fail", text="no such row")
    assert caught.value.details["type"] == "isError"
    assert not caught.value.retryable


async def test_names_that_no_tool_can_have_are_changed(host: Connected) -> None:
    assert await host.call("get_user_by_id") == {"result": "plain"}
    assert await host.call("get_user_by_id_2") == {"result": "slash"}
    assert await host.call("run_tool_tool") == {"result": "reserved"}


async def test_progress_is_passed_on(host: Connected) -> None:
    assert await host.call("slow", seconds=0) == {"result": "done"}
    assert host.progress == [Progress("a quarter", 1, 4), Progress("half", 2, 4)]


async def test_a_timeout_cancels_the_call_at_the_server(host: Connected, tmp_path: Path) -> None:
    with pytest.raises(ToolTimeout):
        await host.call("slow", seconds=1000, timeout_seconds=2)
    await eventually((tmp_path / "cancelled").exists)
    assert await host.call("echo", text="still there") == "still there"


async def test_a_question_to_the_user_is_refused(host: Connected) -> None:
    with pytest.raises(ToolFailed):
        await host.call("ask")


async def test_tools_that_appear_are_there_without_being_asked_for(host: Connected) -> None:
    assert host.registry.find("test:grown") is None
    await host.call("grow")
    await eventually(lambda: host.registry.find("test:grown") is not None)
    assert await host.call("grown") == {"result": "grown"}
    (report,) = host.sources.reports()
    assert "test:grown" in report.tool_ids


async def test_calls_go_on_at_once(host: Connected) -> None:
    answers: dict[int, JsonValue] = {}

    async def one(number: int) -> None:
        answers[number] = await host.call("echo", text=f"n{number}")

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(one, number)
    assert answers == {number: f"n{number}" for number in range(20)}


async def test_a_server_that_dies_is_unavailable_and_is_there_again_at_the_next_call(tmp_path: Path) -> None:
    async with connected(McpSource("test", stdio(tmp_path))) as host:
        first = (tmp_path / "pid").read_text()
        with pytest.raises(ToolUnavailable, match=r"(?s)exit code 3.*I am dying") as caught:
            await host.call("die")
        assert caught.value.retryable
        child = int((tmp_path / "child").read_text())
        await eventually(lambda: not is_running(child))  # what it left behind is gone as well
        assert await host.call("echo", text="again") == "again"
        assert (tmp_path / "pid").read_text() != first


async def test_a_service_that_goes_away_is_unavailable_and_then_back(http: HttpProcess) -> None:
    await http.ready()
    async with connected(McpSource("test", HttpServer(http.url))) as host:
        assert await host.call("echo", text="one") == "one"
        http.stop()
        with pytest.raises(ToolUnavailable):
            await host.call("echo", text="two")
        with pytest.raises(ToolUnavailable):
            await host.call("echo", text="three")
        with pytest.raises(ToolUnavailable) as caught:  # it is left alone for a while, and says for how long
            await host.call("echo", text="four")
        assert 0 < caught.value.details["retry_after_seconds"] <= 1
        assert list((await host.sources.health()).keys()) == ["test"]
        assert "not available" in (await host.sources.health())["test"]
        http.start()
        await http.ready()
        await anyio.sleep(caught.value.details["retry_after_seconds"] * 4)
        assert await host.call("echo", text="five") == "five"
        assert await host.sources.health() == {"test": ""}


async def test_the_process_is_gone_when_the_source_is(tmp_path: Path) -> None:
    async with connected(McpSource("test", stdio(tmp_path))) as host:
        pid = int((tmp_path / "pid").read_text())
        tool = host.registry.resolve("test:echo").tool
        assert is_running(pid)
        await host.sources.remove("test")
        assert not is_running(pid)
        with pytest.raises(ToolNotFound):
            await host.call("echo", text="x")
        with pytest.raises(ToolUnavailable, match="disconnected"):  # for whoever still held it
            await tool.provider.call({"text": "x"}, ToolContext())
        with pytest.raises(ToolUnavailable, match="disconnected"):
            await tool.provider.health()


async def test_the_process_is_gone_when_its_host_is_cancelled(tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        await Sources(ToolRegistry(), tasks).add(McpSource("test", stdio(tmp_path)))
        tasks.cancel_scope.cancel()
    assert not is_running(int((tmp_path / "pid").read_text()))


async def test_the_environment_is_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "only for the host")
    server = StdioServer(stdio(tmp_path).argv, env={"PYTHONPATH": str(ROOT), "TOKEN": lambda: "fresh"})
    async with connected(McpSource("test", server)) as host:
        assert set((await host.call("environment")).split()) - {"LC_CTYPE"} == {"PYTHONPATH", "TOKEN"}
    assert "HOST_SECRET" in os.environ


async def test_headers_are_sent_and_asked_for_each_time(http: HttpProcess) -> None:
    await http.ready()
    tokens = iter(range(1000))
    server = HttpServer(http.url, headers={"Authorization": lambda: f"Bearer {next(tokens)}"})
    async with connected(McpSource("test", server)) as host:
        first, second = await host.call("headers"), await host.call("headers")
        assert first.startswith("Bearer ")
        assert first != second


async def test_two_servers_never_share_a_name(tmp_path: Path) -> None:
    async with connected(McpSource("test", stdio(tmp_path))) as host:
        with pytest.raises(InvalidRequest, match="'test' is connected already"):
            await host.sources.add(McpSource("test", stdio(tmp_path)))
        (tmp_path / "other").mkdir()
        await host.sources.add(McpSource("other", stdio(tmp_path / "other")))
        assert {"test:echo", "other:echo"} <= {tool.id for tool in host.registry.tools()}


async def test_a_service_that_is_not_there_is_told_when_it_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with anyio.create_task_group() as tasks:
        sources = Sources(ToolRegistry(), tasks)
        with pytest.raises(ToolUnavailable, match="MCP server 'test' is not available"):
            await sources.add(McpSource("test", HttpServer(f"http://127.0.0.1:{port}/mcp")))
        assert sources.reports() == ()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: StdioServer("python server.py"), InvalidRequest),
        (lambda: StdioServer([]), InvalidRequest),
        (lambda: StdioServer(["no-such-program"]), InvalidRequest),
        (lambda: StdioServer(["sh", "a\0b"]), InvalidRequest),
        (lambda: StdioServer(["sh"], cwd="here"), InvalidRequest),
        (lambda: HttpServer("ftp://example.com/mcp"), InvalidRequest),
        (lambda: HttpServer("https:///mcp"), InvalidRequest),
        (lambda: HttpServer("https://me:secret@example.com/mcp"), InvalidRequest),
        (lambda: McpSource("a b", StdioServer(["sh"])), InvalidToolId),
        (lambda: McpSource("a", StdioServer(["sh"]), max_tools=0), InvalidRequest),
        (lambda: McpSource("a", StdioServer(["sh"]), connect_seconds=0), InvalidRequest),
    ],
)
def test_mistakes_are_told_when_the_source_is_made(make: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        make()
    assert "secret" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    assert "s3cret" not in repr(HttpServer("https://example.com/mcp", headers={"authorization": "s3cret"}))
    assert "s3cret" not in repr(StdioServer(["sh"], env={"TOKEN": "s3cret"}))


def test_without_the_extra_the_install_line_is_named() -> None:
    code = """
import sys
sys.modules["mcp"] = None
import anyio
from gateway.errors import MissingExtra
from gateway.providers.mcp import McpSource, StdioServer

async def main():
    try:
        async with McpSource("test", StdioServer(["sh"])).open(lambda: None):
            pass
    except MissingExtra as error:
        print(error)

anyio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "pip install 'toolexec[mcp]'" in done.stdout, done.stderr
    assert MissingExtra("MCP servers", "mcp").extra == "mcp"
