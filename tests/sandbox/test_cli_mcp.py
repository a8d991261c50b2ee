"""`toolexec mcp`, started as clients start it, and asked by the official client."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from sandbox import Exec
from sandbox._exit import ExitCode
from sandbox.server.mcp.stdio import MAX_LINE_BYTES
from tests.conftest import require
from tests.sandbox.command import COMMAND, environment, process, toolexec

pytestmark = pytest.mark.anyio

TOOLS = '''
import asyncio
import sys

def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    print("a line that is no message")
    return a + b

def hear() -> str:
    return sys.stdin.read()

async def slow(file: str) -> None:
    open(file, "w").close()
    try:
        await asyncio.sleep(1000)
    finally:
        open(file + ".ended", "w").close()

ALL = {"math": {"add": add}, "slow": slow, "hear": hear}
'''
TOKEN = "0123456789abcdef-test"
UNSAFE = ("--profile", "dev", "--allow-unsafe")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_tools.py").write_text(TOOLS)
    return tmp_path


@asynccontextmanager
async def client_of(folder: Path, *options: str, era: str = "auto") -> AsyncIterator[Client]:
    argv = ["mcp", "--tools", "my_tools:ALL", *options]
    server = StdioServerParameters(command=COMMAND, args=argv, env=environment(), cwd=str(folder))
    async with Client(server, mode=era) as client:
        yield client


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_a_client_starts_it_and_calls_tools(folder: Path, era: str) -> None:
    async with client_of(folder, "--expose", "both", era=era) as client:
        assert "execute_code" in (client.instructions or "")
        listed = {tool.name for tool in (await client.list_tools()).tools}
        assert {"math__add", "slow", "search_tools", "execute_code"} <= listed
        found = await client.call_tool("math__add", {"a": 40})
        assert found.structured_content == {"result": 42}
        assert (await client.call_tool("hear")).structured_content == {"result": ""}
        wrong = await client.call_tool("math__add", {"a": "x"})
        assert (wrong.is_error, wrong.structured_content["code"]) == (True, "invalid_input")


async def test_code_runs_in_a_sandbox_that_calls_tools(folder: Path, shared_exec: Exec) -> None:
    found = shared_exec.probe()["wasm"]
    if not found.usable:
        require("wasm", found.reason)
    async with client_of(folder, "--limit", "wall_seconds=20", "--no-code") as client:
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("execute_code", {"code": "1"})
    async with client_of(folder, "--limit", "wall_seconds=20") as client:
        result = await client.call_tool("execute_code", {"code": "sum(tools.math.add(a=n) for n in range(3))"})
        assert (result.structured_content["value"], result.structured_content["profile"]) == (9, "standard")
        assert len(result.structured_content["tool_calls"]) == 3
        more = await client.call_tool("execute_code", {"code": "1", "limits": {"wall_seconds": 21}})
        assert more.structured_content["message"] == "limit wall_seconds may be at most 20 here, not 21"


async def test_a_role_and_a_list_hold(folder: Path) -> None:
    async with client_of(folder, "--allow-tool", "math:*") as client:
        found = await client.call_tool("search_tools", {"query": ""})
        assert [tool["id"] for tool in found.structured_content["tools"]] == ["math:add"]
        denied = await client.call_tool("run_tool", {"tool_id": "hear"})
        assert denied.structured_content["code"] == "tool_denied"


# Over pipes, by hand


class Pipes:
    """A server at whose pipes we are ourselves."""

    def __init__(self, folder: Path, *options: str) -> None:
        argv = [COMMAND, "mcp", "--tools", "my_tools:ALL", *options]
        self.process = subprocess.Popen(
            argv, cwd=folder, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.ask("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "t", "version": "1"})
        self.answer()
        self.say({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def ask(self, method: str, **params: Any) -> None:
        self.say({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})

    def say(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 30)[0]
        return json.loads(self.process.stdout.readline())


@pytest.fixture
def pipes(folder: Path) -> Iterator[Pipes]:
    found = Pipes(folder, *UNSAFE)
    with found.process:
        yield found
        found.process.kill()


async def eventually(file: Path) -> None:
    found = anyio.Path(file)
    with anyio.fail_after(20):
        while not await found.exists():  # noqa: ASYNC110 - other processes set no events
            await anyio.sleep(0.01)


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "close"])
async def test_it_ends_when_it_is_told_to_and_so_do_calls(end: str, pipes: Pipes, tmp_path: Path) -> None:
    pipes.ask("tools/call", name="run_tool", arguments={"tool_id": "slow", "arguments": {"file": str(tmp_path / "s")}})
    await eventually(tmp_path / "s")
    if end == "close":
        assert pipes.process.stdin is not None
        pipes.process.stdin.close()
    else:
        pipes.process.send_signal(getattr(signal, end))
    code = await anyio.to_thread.run_sync(pipes.process.wait, 20)
    assert code == (ExitCode.INTERRUPTED if end == "SIGINT" else 0)
    assert (tmp_path / "s.ended").exists()


async def test_what_is_no_message_is_told_and_what_has_no_end_ends_it(pipes: Pipes) -> None:
    assert pipes.process.stdin is not None
    pipes.process.stdin.write(b"{nonsense\n\xff\xfe\n")
    pipes.ask("ping")
    assert pipes.answer()["result"] == {}
    with pytest.raises(BrokenPipeError):  # noqa: PT012 - any of these writes may be the one
        for _ in range(2 * MAX_LINE_BYTES >> 20):
            pipes.process.stdin.write(b"x" * (1 << 20))
            pipes.process.stdin.flush()
            await anyio.sleep(0.05)
    assert await anyio.to_thread.run_sync(pipes.process.wait, 20) == 0


async def test_a_client_that_goes_away_leaves_no_traceback(folder: Path) -> None:
    with Pipes(folder, *UNSAFE).process as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 7, "method": "ping"}\n')
        process.stdin.close()
        assert await anyio.to_thread.run_sync(process.wait, 20) == 0
        assert b"Traceback" not in process.stderr.read()


# Over HTTP


@contextmanager
def serving(folder: Path, *options: str, **env: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its URL."""
    argv = [COMMAND, "mcp", "--http", "--port", "0", "--tools", "my_tools:ALL", *options]
    with subprocess.Popen(argv, cwd=folder, env=environment() | env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("serving MCP at http://127.0.0.1:")
        yield process, line.split()[-1]
        process.kill()


async def test_over_http_with_a_token(folder: Path) -> None:
    (folder / "token").write_text(f"{TOKEN}\n")
    with serving(folder, "--token-file", "token") as (process, url):
        async with httpx2.AsyncClient() as plain:
            assert (await plain.post(url, json={})).status_code == 401
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}) as http,
            Client(streamable_http_client(url, http_client=http), mode="legacy") as client,
        ):
            found = await client.call_tool("run_tool", {"tool_id": "math:add", "arguments": {"a": 1}})
            assert found.structured_content == {"result": 3}
            process.send_signal(signal.SIGTERM)  # while the client listens
            assert await anyio.to_thread.run_sync(process.wait, 20) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


async def test_the_token_may_stand_in_the_environment(folder: Path) -> None:
    with serving(folder, TOOLEXEC_MCP_TOKEN=TOKEN) as (_, url):
        async with httpx2.AsyncClient() as plain:
            assert (await plain.post(url, json={})).status_code == 401
            admitted = await plain.post(url, json={}, headers={"authorization": f"bearer {TOKEN}"})
            assert admitted.status_code != 401


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--http", "--host", "0.0.0.0"], "need a token"),
        (["--http", "--token-file", "missing"], "cannot be read"),
        (["--http", "--host", "192.0.2.1", "--token-file", "token"], "cannot listen"),
        (["--expose", "everything"], "expose must be"),
    ],
)
def test_what_makes_no_sense_is_refused(options: list[str], words: str, folder: Path) -> None:
    (folder / "token").write_text(TOKEN)
    done = (toolexec if "--http" in options else process)("mcp", *options, cwd=folder)  # else our own streams are its
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_extra_it_says_what_to_install(folder: Path) -> None:
    code = "import sys; sys.modules['mcp'] = None; from sandbox.cli import main; sys.argv = ['toolexec', 'mcp']; main()"
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.HOST_FAILED
    assert "pip install 'toolexec[mcp]'" in done.stderr
