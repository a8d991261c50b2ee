"""What a host does with tools: call, find, describe, export, check; on whose behalf; and how providers end."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

from gateway.base import JsonValue
from gateway.errors import Closed, InvalidRequest, ToolDenied, ToolNotFound
from runtimes.mock import MockBackend
from sandbox import (
    AsyncExec,
    Caller,
    ChainStep,
    Offer,
    Outcome,
    ParallelCall,
    Tool,
    ToolContext,
    ToolId,
    ToolUnavailable,
)

pytestmark = pytest.mark.anyio

ADMIN = Caller(user_id="ada", role="admin")


class Recorder:
    """A provider that keeps what it was told."""

    def __init__(self, *, sick: bool = False) -> None:
        self.contexts: list[ToolContext] = []
        self.closed = 0
        self._sick = sick

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        self.contexts.append(context)
        return arguments

    async def health(self) -> None:
        if self._sick:
            raise ToolUnavailable("the recorder", "it is out of paper")

    async def aclose(self) -> None:
        self.closed += 1
        if self._sick:
            raise OSError("it will not close")


def tool(name: str, provider: Recorder, **fields: Any) -> Tool:
    return Tool(id=ToolId.parse(name), provider=provider, input_schema={"type": "object"}, **fields)


@pytest.fixture
async def host() -> AsyncIterator[AsyncExec]:
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        yield host


async def test_the_provider_is_told_on_whose_behalf(host: AsyncExec) -> None:
    recorder = Recorder()
    host.register(tool("log:write", recorder))
    await host.run_tool("log:write", {"a": 1}, caller=ADMIN)
    await host.run_chain([ChainStep("log:write", {}), ChainStep("log:write", {})], caller=ADMIN)
    await host.run_parallel([ParallelCall("log:write", {})], caller=ADMIN)
    assert [event.kind async for event in host.stream_tool("log:write", caller=ADMIN)] == ["done"]
    await host.run_tool("log:write")
    assert [context.caller for context in recorder.contexts] == [ADMIN] * 5 + [Caller()]
    assert [context.call_index for context in recorder.contexts] == [0, 0, 1, 0, 0, 0]
    assert {context.tool_id for context in recorder.contexts} == {"log:write"}
    assert len({context.execution_id for context in recorder.contexts}) == 5


async def test_a_snippet_calls_on_behalf_of_whoever_asked_for_it() -> None:
    async def script(guest: Any) -> Any:
        return await guest.run_tool("log:write", {})

    recorder = Recorder()
    async with AsyncExec(backends={"mock": MockBackend.scripted(script)}) as host:
        host.register(tool("log:write", recorder, roles=frozenset({"admin"})))
        allowed = await host.execute_code("x", caller=ADMIN)
        refused = await host.execute_code("x", caller=Caller(role="system"))
    assert (allowed.outcome, refused.outcome) == (Outcome.COMPLETED, Outcome.RAISED)
    assert recorder.contexts[0].caller == ADMIN
    assert recorder.contexts[0].execution_id == allowed.execution_id
    assert recorder.contexts[0].deadline is not None
    assert [str(call.status) for call in refused.tool_calls] == ["refused"]


@pytest.mark.parametrize(
    ("roles", "role", "admitted"),
    [
        ([], "", True),
        (["*"], "", True),
        (["Admin"], "aDMIN", True),
        (["admin"], "", False),
        (["admin", "system"], "system", True),
        (["admin"], "system", False),
        (["admin"], "*", False),
    ],
)
async def test_a_role_is_a_role_and_none_is_magic(host: AsyncExec, roles: list[str], role: str, admitted: bool) -> None:
    host.register(tool("log:write", Recorder(), roles=frozenset(roles)))
    caller = Caller(role=role)
    seen = [found.id for found in await host.search_tools("write", caller=caller)]
    listed = [found.id for found in (await host.list_tools(caller=caller)).tools]
    exported = list((await host.export_tools("mcp", caller=caller)).ids.values())
    assert seen == listed == exported == (["log:write"] if admitted else [])
    assert ("write" in await host.tool_stubs(caller=caller)) is admitted
    assert await host.list_namespaces(caller=caller) == (("log",) if admitted else ())
    if not admitted:
        for refused in (host.run_tool("log:write", caller=caller), host.describe_tool("log:write", caller=caller)):
            with pytest.raises(ToolDenied):
                await refused


async def test_a_disabled_tool_is_not_there_until_it_is_enabled(host: AsyncExec) -> None:
    host.register(tool("log:write", Recorder()), tool("log:read", Recorder()))
    changes: list[tuple[str, str]] = []
    stop = host.registry.subscribe(lambda change: changes.append((change.kind, change.tool_id)))
    host.registry.disable("log:write")
    with pytest.raises(ToolNotFound):
        await host.run_tool("log:write")
    assert [found.id for found in (await host.list_tools()).tools] == ["log:read"]
    host.registry.enable("log:write")
    assert await host.run_tool("log:write", {"a": 1}) == {"a": 1}
    host.unregister("log:read")
    stop()
    host.unregister("log:write")
    assert changes == [("disabled", "log:write"), ("enabled", "log:write"), ("removed", "log:read")]


async def test_exports_and_stubs_have_the_tools_that_are_asked_for(host: AsyncExec) -> None:
    host.register(
        tool("log:write", Recorder(), description="Write."), tool("log:read", Recorder(), description="Read.")
    )
    exported = await host.export_tools("openai", allowed_tools=["log:read"])
    assert [one["function"]["name"] for one in exported.tools] == ["log__read"]
    assert "Write." not in await host.tool_stubs(allowed_tools=["log:read"])
    assert "Write." in await host.tool_stubs(allowed_tools=["log:*"])
    with pytest.raises(InvalidRequest, match="unknown format"):
        await host.export_tools("fax")  # type: ignore[arg-type]  # what a caller may do


async def test_code_is_checked_against_the_tools_it_may_call(host: AsyncExec) -> None:
    @host.tool(namespace="math")
    def add(a: int, b: int = 2) -> int:
        return a + b

    assert await host.check_code("x = tools.math.add(a=1)\nreturn x + 1") == ()
    [wrong] = await host.check_code("y = 1\nawait tools.aio.math.add(a='one')")
    assert (wrong.line, "Expected `int`" in wrong.message) == (2, True)
    [unknown] = await host.check_code("tools.math.add(a=1)", allowed_tools=[])
    assert unknown.line == 1


async def test_flawed_code_is_not_run_and_recorded_all_the_same(host: AsyncExec) -> None:
    host.register(tool("log:write", Recorder()))
    result = await host.execute_code("x = 1\ntools.log.wrote()\ntools.log.rote()", check=True)
    assert result.outcome is Outcome.RAISED
    assert result.error is not None
    assert (result.error.type, result.error.line) == ("TypeCheckError", 2)
    assert "(and 1 more)" in result.error.message
    assert result.error.traceback.count("\n") == 1
    assert result.duration_seconds == 0
    records = [type(record).__name__ for record in await host._journal.records(result.execution_id)]
    assert records == ["ExecutionStarted", "ExecutionFinished"]
    assert (await host.execute_code("tools.log.write(a=1)", check=True)).outcome is Outcome.COMPLETED


async def test_every_provider_is_closed_once_whatever_the_others_do() -> None:
    shared, sick = Recorder(), Recorder(sick=True)
    host = AsyncExec(backends={"mock": MockBackend})
    host.register(tool("log:a", shared), tool("log:b", shared), tool("log:c", sick))
    await host.check_tool("log:a")
    with pytest.raises(ToolUnavailable, match="out of paper"):
        await host.check_tool("log:c")
    await host.aclose()
    await host.aclose()
    assert (shared.closed, sick.closed) == (1, 1)
    for refused in (host.run_tool("log:a"), host.list_tools()):
        with pytest.raises(Closed):
            await refused


class Shelf:
    """A source whose tools change."""

    def __init__(self, name: str, *names: str) -> None:
        self.name = name
        self.names = list(names)
        self.is_open = False
        self.changed: Callable[[], None] = lambda: None

    def open(self, on_change: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[None]:
            if "broken" in self.names:
                raise ToolUnavailable("the shelf", "it fell down")
            self.is_open, self.changed = True, on_change
            yield
            self.is_open = False

        return opened()

    async def tools(self) -> Offer:
        return Offer(tuple(tool(name, Recorder()) for name in self.names))

    async def health(self) -> None:
        """It stands."""


async def test_a_source_brings_its_tools_and_takes_them_away(host: AsyncExec) -> None:
    shelf = Shelf("shelf", "one", "two")
    [report] = await host.connect(shelf)
    assert report.tool_ids == ("shelf:one", "shelf:two")
    assert await host.run_tool("shelf:one", {"a": 1}) == {"a": 1}
    shelf.names.append("three")
    shelf.changed()
    with anyio.fail_after(5):
        while not await host.search_tools("three"):  # noqa: ASYNC110 - the registry tells, but that is tested elsewhere
            await anyio.sleep(0.02)
    assert await host.check_sources() == {"shelf": ""}
    assert [source.name for source in await host.sources()] == ["shelf"]
    await host.disconnect("shelf")
    assert not shelf.is_open
    with pytest.raises(ToolNotFound):
        await host.run_tool("shelf:one")


async def test_a_source_that_fails_takes_those_before_it_along(host: AsyncExec) -> None:
    first = Shelf("first", "one")
    with pytest.raises(ToolUnavailable, match="fell down"):
        await host.connect(first, Shelf("second", "broken"))
    assert not first.is_open
    assert (await host.list_tools()).tools == ()


async def test_closing_the_host_closes_its_sources() -> None:
    shelf = Shelf("shelf", "one")
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        await host.connect(shelf)
        assert shelf.is_open
        assert (await host.refresh("shelf"))[0].error == ""
    assert not shelf.is_open


class ByLength:
    """Texts of like length mean alike."""

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[float(len(text)), 40.0] for text in texts]


async def test_a_host_may_find_tools_by_meaning() -> None:
    async with AsyncExec(backends={"mock": MockBackend}, embedder=ByLength(), alpha=0) as host:
        host.register(tool("log:write", Recorder(), description="x" * 90), tool("log:read", Recorder()))
        assert (await host.search_tools("zebra"))[0].id == "log:read"
        assert (await host.search_tools("zebra " * 20))[0].id == "log:write"
    with pytest.raises(InvalidRequest, match="alpha must be 0"):
        AsyncExec(alpha=1.5)
