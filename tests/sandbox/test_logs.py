"""Logs: silent until the host says otherwise, ids on every line, and nothing private in them."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.context import ToolContext
from gateway.errors import InvalidRequest, MissingExtra
from gateway.ids import current_ids
from runtimes.mock import MockBackend
from sandbox import AsyncExec, Caller, ToolError
from sandbox.logs import LOGGERS, CallIds, configure_logs

pytestmark = pytest.mark.anyio

ADA = Caller(tenant_id="acme", user_id="ada-lovelace")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is configured by a test is taken back after it."""
    before = {name: (logging.getLogger(name).level, [*logging.getLogger(name).handlers]) for name in LOGGERS}
    yield io.StringIO()
    for name, (level, handlers) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).handlers[:] = handlers


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def greet(name: str, password: str = "") -> dict[str, str]:
    """Greet, and log as a tool does."""
    logging.getLogger("gateway.test").info("greeting", extra={"api_key": "sk-123", "size": 3})
    return {"token": "tok-456", "hello": name}


def threaded(context: ToolContext) -> str:
    """Log from a thread."""
    logging.getLogger("gateway.test").info("in a thread")
    return str(current_ids()["tool_id"])


async def fail() -> None:
    """Fail."""
    raise LookupError("password hunter2")


async def script(guest: Any) -> Any:
    return await guest.run_tool("greet", {"name": "Bob", "password": "hunter2"})


async def test_every_line_has_its_ids(stream: io.StringIO) -> None:
    configure_logs("json", logging.DEBUG, stream)
    async with AsyncExec(backends={"mock": MockBackend.scripted(script)}) as host:
        host.tool(greet)
        host.tool(threaded)
        result = await host.execute_code("…", profile="dev", caller=ADA)
        assert await host.run_tool("threaded", caller=ADA) == "threaded"
    found = [line for line in lines(stream) if line.get("execution_id") == result.execution_id]
    assert [line["event"] for line in found] == [
        "execution started",
        "tool call started",
        "greeting",
        "tool call completed",
        "execution ended",
    ]
    assert {line["tenant_id"] for line in found} == {"acme"}
    assert [(line["tool_id"], line["call_index"]) for line in found[1:4]] == [("greet", 0)] * 3
    assert (found[3]["attempts"], found[3]["code"], found[3]["level"]) == (1, "", "info")
    assert (found[4]["outcome"], found[4]["backend"], found[4]["profile"]) == ("completed", "mock", "dev")
    assert all("timestamp" in line and "logger" in line for line in found)
    (thread,) = [line for line in lines(stream) if line["event"] == "in a thread"]
    assert (thread["tool_id"], thread["tenant_id"]) == ("threaded", "acme")
    assert current_ids() == {}


async def test_nothing_private_is_in_a_line(stream: io.StringIO) -> None:
    configure_logs("json", logging.DEBUG, stream)
    async with AsyncExec(backends={"mock": MockBackend.scripted(script)}) as host:
        host.tool(greet)
        host.tool(fail)
        await host.execute_code("…", profile="dev", caller=ADA)
        with pytest.raises(ToolError):
            await host.run_tool("fail")
    text = stream.getvalue()
    for private in ("sk-123", "tok-456", "hunter2", "ada-lovelace", "Bob"):
        assert private not in text
    (greeting,) = [line for line in lines(stream) if line["event"] == "greeting"]
    assert (greeting["api_key"], greeting["size"]) == ("***", 3)


async def test_failures_are_warnings_and_the_rest_is_not(stream: io.StringIO) -> None:
    configure_logs("json", logging.WARNING, stream)
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        host.tool(greet)
        host.tool(fail)
        await host.run_tool("greet", {"name": "Bob"})
        for name in ("fail", "nowhere"):
            with pytest.raises(ToolError):
                await host.run_tool(name)
    assert [(line["event"], line["code"]) for line in lines(stream)] == [
        ("tool call failed", "tool_failed"),
        ("tool call refused", "tool_not_found"),
    ]


async def test_text_is_one_line_each_whatever_a_guest_made_up(stream: io.StringIO) -> None:
    configure_logs("text", logging.INFO, stream)
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        host.tool(greet)
        await host.run_tool("greet", {"name": "Bob"})
        with pytest.raises(ToolError):
            await host.run_tool("x\nlevel=error event=forged\x1b[2J")
    text = stream.getvalue()
    assert [line.split()[1:3] for line in text.splitlines()] == [
        ["level=info", "logger=gateway.test"],
        ["level=info", "logger=gateway.calls"],
        ["level=warning", "logger=gateway.calls"],
    ]
    assert "\x1b" not in text
    assert "tool_id=greet" in text


async def test_configuring_again_replaces_what_was_there(stream: io.StringIO) -> None:
    other = io.StringIO()
    configure_logs("json", stream=other)
    configure_logs("json", stream=stream)
    logging.getLogger("sandbox.x").info("once")
    assert (len(lines(stream)), other.getvalue()) == (1, "")


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="json or text"):
        configure_logs("xml")


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "structlog", None)
    with pytest.raises(MissingExtra, match=r"toolexec\[logs\]"):
        configure_logs("json")


def test_own_fields_of_a_record_are_left_as_they_are() -> None:
    record = logging.makeLogRecord({"tool_id": "its own"})
    assert CallIds().filter(record)
    assert record.__dict__["tool_id"] == "its own"


SILENT = """
import logging, sys
from sandbox import AsyncExec
from runtimes.mock import MockBackend
import anyio

async def fail():
    "Fail."
    raise LookupError("no")

async def main():
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        host.tool(fail)
        host.observe(lambda event: 1 / 0)
        try:
            await host.run_tool("fail")
        except Exception:
            pass
        await anyio.sleep(0.05)

anyio.run(main)
print(logging.getLogger().handlers, logging.getLogger().level, "structlog" in sys.modules)
"""


def test_nothing_is_written_and_the_root_logger_not_touched_unless_the_host_asks() -> None:
    done = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, timeout=50, check=True)
    assert (done.stdout, done.stderr) == ("[] 30 False\n", "")
