"""The MCP server, asked by the official client over HTTP, in both eras of the protocol."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, Tool, ToolListChangedNotification

from gateway.errors import InvalidInput, InvalidRequest, PolicyDenied, ToolDenied
from gateway.grant import Grant
from gateway.journal.base import CallFinished, Lease, Record
from gateway.journal.memory import MemoryJournal
from gateway.providers.function import function_tool
from gateway.tools.registry import ToolRegistry
from gateway.tools.validation import SchemaValidator
from runtimes.mock import MockBackend, MockGuest
from runtimes.unsafe import UnsafeBackend
from sandbox import AsyncExec, Caller, Limits, ToolContext
from sandbox.server.mcp import McpServer
from sandbox.server.mcp.calls import CallRights, Calls
from sandbox.server.mcp.code import CodeRights
from sandbox.server.mcp.metatools import METATOOLS

pytestmark = pytest.mark.anyio

TOKEN = "0123456789abcdef-test"


class Host:
    """What the tools here have seen."""

    def __init__(self) -> None:
        self.begun, self.ended = anyio.Event(), anyio.Event()
        self.kept: list[Record] = []

    async def hang(self, guest: MockGuest | None = None) -> None:
        del guest
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.ended.set()


class KeepingJournal(MemoryJournal):
    """Keeps the records of executions whose ids the test never learns."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host

    async def append(self, *records: Record, lease: Lease | None = None) -> None:
        self._host.kept += records
        await super().append(*records, lease=lease)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
async def ours(host: Host) -> AsyncIterator[AsyncExec]:
    async def script(guest: MockGuest) -> Any:
        """The snippet is JSON: what to do."""
        wanted = json.loads(guest.code)
        if "hang" in wanted:
            await host.hang()
        if "leave" in wanted:
            guest.leave("notes.txt", b"x" * wanted["leave"])
        if "raise" in wanted:
            raise ValueError(wanted["raise"])
        await guest.write("working")
        return [await guest.run_tool(tool_id, given) for tool_id, given in wanted.get("calls", [])]

    found = AsyncExec(backends={"mock": MockBackend.scripted(script)}, journal=KeepingJournal(host))

    @found.tool(namespace="math", read_only=True)
    def add(a: int, b: int = 2) -> int:
        """Add two numbers."""
        return a + b

    @found.tool(namespace="crm", roles=frozenset({"agent"}))
    def lookup(name: str) -> dict[str, str]:
        """Look a customer up."""
        return {"name": name}

    @found.tool
    def fail() -> None:
        """Never works."""
        raise LookupError("no row")

    @found.tool
    async def slow() -> None:
        """Takes for ever."""
        await host.hang()

    @found.tool
    def spell(text: str, context: ToolContext) -> Iterator[str]:
        """Letter by letter."""
        context.report("begins", progress=0.5, total=9)
        context.report("goes back", progress=0.2, total=9)  # which MCP does not know
        yield from text

    yield found
    await found.aclose()


@pytest.fixture(params=["legacy", "auto"])
def era(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@asynccontextmanager
async def served(server: McpServer, token: str | None = None) -> AsyncIterator[str]:
    """The URL of the server."""

    async def serve(*, task_status: Any) -> None:
        await server.serve_http(port=0, token=token, started=task_status.started)

    async with anyio.create_task_group() as tasks:
        yield await tasks.start(serve)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def client_of(
    server: McpServer, era: str = "auto", token: str | None = None, **more: Any
) -> AsyncIterator[Client]:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with (
        served(server, token) as url,
        httpx2.AsyncClient(headers=headers, timeout=20) as http,
        Client(streamable_http_client(url, http_client=http), mode=era, **more) as client,
    ):
        yield client


def code_of(result: CallToolResult) -> str:
    """The code of the error that the result is."""
    assert result.is_error
    assert set(result.structured_content) == {"code", "message", "retryable", "details"}
    (text,) = result.content
    assert text.type == "text"
    assert text.text == f"{result.structured_content['code']}: {result.structured_content['message']}"
    found: str = result.structured_content["code"]
    return found


async def names(client: Client) -> set[str]:
    return {tool.name for tool in (await client.list_tools()).tools}


# What can be asked


async def test_every_metatool_answers_as_its_schema_says(ours: AsyncExec, era: str) -> None:
    asked: dict[str, dict[str, Any]] = {
        "search_tools": {"query": "number"},
        "list_tools": {"limit": 1},
        "list_namespaces": {},
        "describe_tool": {"tool_id": "math:add", "level": "full"},
        "list_tool_examples": {"tool_id": "math:add"},
        "run_tool": {"tool_id": "math:add", "arguments": {"a": 1}},
        "run_chain": {"steps": [{"tool_id": "math:add", "arguments": {"a": 1}}, {"tool_id": "fail"}]},
        "run_parallel": {"calls": [{"tool_id": "math:add", "arguments": {"a": 1}}, {"tool_id": "fail"}]},
        "execute_code": {"code": '{"calls": [["math:add", {"a": 3}]], "leave": 3}'},
    }
    answers: dict[str, Any] = {}
    async with client_of(McpServer(ours), era) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert listed.keys() == asked.keys()
        for name, arguments in asked.items():
            SchemaValidator(listed[name].input_schema).validate_input(arguments)
            result = await client.call_tool(name, arguments)
            assert not result.is_error, result
            assert listed[name].output_schema is not None
            SchemaValidator(dict(listed[name].output_schema or {})).validate_output(result.structured_content)
            answers[name] = result.structured_content
    assert [tool["id"] for tool in answers["search_tools"]["tools"]] == ["math:add"]
    assert answers["list_tools"]["cursor"] is not None
    assert answers["list_namespaces"] == {"namespaces": ["", "math"]}
    assert answers["describe_tool"]["signature"] == "tools.math.add(a: int, b: int = 2) -> int"
    assert answers["run_tool"] == {"result": 3}
    assert [step["ok"] for step in answers["run_chain"]["steps"]] == [True, False]
    assert [one["value"] for one in answers["run_parallel"]["outcomes"]] == [3, None]
    assert answers["execute_code"]["value"] == [5]
    assert answers["execute_code"]["stdout"] == "working"
    assert [call["tool_id"] for call in answers["execute_code"]["tool_calls"]] == ["math:add"]
    (left,) = answers["execute_code"]["artifacts"]
    assert (left["path"], base64.b64decode(left["data"])) == ("notes.txt", b"xxx")


async def test_tools_are_called_by_names_of_their_own(ours: AsyncExec, era: str) -> None:
    server = McpServer(ours, expose="tools", caller=Caller(role="agent"))
    async with client_of(server, era) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(listed) == {"math__add", "crm__lookup", "fail", "slow", "spell"}
        assert listed["math__add"].annotations is not None
        assert listed["math__add"].annotations.read_only_hint
        number = await client.call_tool("math__add", {"a": 1})
        record = await client.call_tool("crm__lookup", {"name": "Ada"})
        letters = await client.call_tool("spell", {"text": "ab"})
        with pytest.raises(MCPError, match="Unknown tool: execute_code"):
            await client.call_tool("execute_code", {"code": "{}"})
    assert (number.structured_content, number.content[0].text) == ({"result": 3}, "3")  # type: ignore[union-attr]
    assert record.structured_content == {"name": "Ada"}
    assert json.loads(record.content[0].text) == {"name": "Ada"}  # type: ignore[union-attr]
    assert letters.structured_content == {"result": ["a", "b"]}


async def test_everything_may_be_listed_together(ours: AsyncExec) -> None:
    async with client_of(McpServer(ours, expose="both", execute_code=False)) as client:
        found = await names(client)
        assert {"math__add", "search_tools", "run_tool"} < found
        assert "execute_code" not in found
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("execute_code", {"code": "{}"})


async def test_a_tool_cannot_take_the_place_of_a_metatool(ours: AsyncExec) -> None:
    ours.register(function_tool(lambda: "mine", name="execute_code"))
    async with client_of(McpServer(ours, expose="both")) as client:
        listed: list[Tool] = (await client.list_tools()).tools
        (own,) = [tool for tool in listed if tool.name == "execute_code"]
        assert "sandbox" in (own.description or "")
        (other,) = [tool for tool in listed if tool.name.startswith("execute_code_")]
        assert (await client.call_tool(other.name)).structured_content == {"result": "mine"}


async def test_long_lists_come_in_pages(ours: AsyncExec, era: str) -> None:
    for number in range(250):
        ours.register(function_tool(lambda: None, name=f"t{number:03}", namespace="many"))
    async with client_of(McpServer(ours, expose="both", allowed_tools=["many:*"]), era) as client:
        found, cursor, pages = list[str](), None, 0
        while pages == 0 or cursor is not None:
            page = await client.list_tools(cursor=cursor)
            found, cursor, pages = found + [tool.name for tool in page.tools], page.next_cursor, pages + 1
        assert pages == 3
        assert found[9:] == [f"many__t{number:03}" for number in range(250)]
        with pytest.raises(MCPError, match="cursor"):
            await client.list_tools(cursor="Zm9yZ2Vk")
    async with client_of(McpServer(ours), era) as client:
        with pytest.raises(MCPError, match="one page"):
            await client.list_tools(cursor="Zm9yZ2Vk")


async def test_a_call_reports_how_far_it_is(ours: AsyncExec, era: str) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    async with client_of(McpServer(ours, expose="both"), era) as client:
        direct = await client.call_tool("spell", {"text": "ab"}, progress_callback=hear)
        asked = {"tool_id": "spell", "arguments": {"text": ""}}
        through = await client.call_tool("run_tool", asked, progress_callback=hear)
        code = await client.call_tool("execute_code", {"code": "{}"}, progress_callback=hear)
        failing = await client.call_tool("fail", {}, progress_callback=hear)
    assert direct.structured_content == {"result": ["a", "b"]}
    assert through.structured_content == {"result": []}
    assert code.structured_content["ok"]
    assert code_of(failing) == "tool_failed"
    assert [message for *_, message in heard] == ["begins", "a", "b", "begins", "working"]
    assert heard[0][:2] == (0.5, 9)
    assert 0.5 < heard[1][0] < heard[2][0]  # MCP wants the number to rise


async def test_a_chain_reports_its_steps(ours: AsyncExec, era: str) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    steps = [{"tool_id": "math:add", "arguments": {"a": 1}}, {"tool_id": "spell", "arguments": {"text": "a"}}]
    asked = {"steps": steps}
    async with client_of(McpServer(ours), era) as client:
        plain = await client.call_tool("run_chain", asked)
        watched = await client.call_tool("run_chain", asked, progress_callback=hear)
        failing = await client.call_tool("run_chain", {"steps": steps * 501}, progress_callback=hear)
    assert watched.structured_content["value"] == plain.structured_content["value"] == ["a"]
    answers = [answer.structured_content["steps"] for answer in (watched, plain)]
    assert [[step | {"duration_seconds": 0} for step in answer] for answer in answers] == [
        [
            {"tool_id": "math:add", "ok": True, "value": 3, "error": None, "skipped": False, "duration_seconds": 0},
            {"tool_id": "spell", "ok": True, "value": ["a"], "error": None, "skipped": False, "duration_seconds": 0},
        ]
    ] * 2
    numbers = [number for number, *_ in heard]
    assert numbers == sorted({*numbers})
    told = [(number, total, message) for number, total, message in heard if total is not None]
    assert told[0] == (1, 2, "math:add completed")
    assert told[-1] == (2, 2, "spell completed")
    assert code_of(failing) == "budget_exceeded"


class Watched:
    """Somebody who wants to hear of progress, or nobody. As `Reports`."""

    def __init__(self, *, wanted: bool) -> None:
        self.wanted = wanted

    async def progress(self, message: str, progress: float | None, total: float | None) -> None: ...

    async def part(self, part: Any) -> None: ...


@pytest.mark.parametrize(
    ("name", "asked", "code"),
    [
        ("run_tool", {"steps": [{"tool_id": "math:add", "arguments": {"a": 1}}]}, "invalid_input"),
        ("run_chain", {"tool_id": "math:add", "arguments": {"a": 1}}, "invalid_input"),
        ("run_chain", {}, "invalid_input"),
        ("run_chain", {"steps": [{"tool_id": "large"}] * 3 + [{"tool_id": "math:add", "arguments": {"a": 1}}]}, ""),
    ],
)
async def test_asking_for_progress_changes_nothing_else(
    ours: AsyncExec, name: str, asked: dict[str, Any], code: str
) -> None:
    @ours.tool
    def large() -> str:
        """Three of these are more than one result may have."""
        return "x" * 1_500_000

    rights = CallRights(grant=Grant(), code=None, metatools=METATOOLS, call_seconds=30, max_calls=4)
    listing: Any = None  # only metatools are called
    answers: list[Any] = []
    for wanted in (False, True):
        reports: Any = Watched(wanted=wanted)
        answers.append(await Calls(ours, listing, rights).answer(name, asked, reports))
    plain, watched = [answer.structured_content for answer in answers]
    if code:
        assert plain == watched
        assert plain["code"] == code
    else:
        assert plain["value"] == watched["value"] == 3
        assert len(plain["steps"]) == len(watched["steps"]) == 4


async def test_clients_hear_that_the_list_changes(ours: AsyncExec, era: str) -> None:
    heard = anyio.Event()

    async def hear(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            heard.set()

    def grown() -> None:
        """Came later."""

    async with client_of(McpServer(ours, expose="both"), era, message_handler=hear) as client:
        assert client.server_capabilities.tools is not None
        assert client.server_capabilities.tools.list_changed
        assert "grown" not in await names(client)
        with anyio.fail_after(20):
            if era == "legacy":
                ours.tool(grown)
                await heard.wait()
            else:
                async with client.listen(tools_list_changed=True) as changes:
                    ours.tool(grown)
                    await anext(aiter(changes))
        assert "grown" in await names(client)
    async with client_of(McpServer(ours), era) as client:  # the metatools never change
        assert client.server_capabilities.tools is not None
        assert not client.server_capabilities.tools.list_changed


# What is refused


async def test_errors_can_be_read_by_a_model(ours: AsyncExec, era: str) -> None:
    async with client_of(McpServer(ours, expose="both"), era) as client:
        wrong = await client.call_tool("math__add", {"a": "one"})
        assert code_of(wrong) == "invalid_input"
        assert wrong.structured_content["details"]["errors"][0]["path"] == "a"
        assert code_of(await client.call_tool("fail")) == "tool_failed"
        unknown = await client.call_tool("run_tool", {"tool_id": "math:ad"})
        assert code_of(unknown) == "tool_not_found"
        assert unknown.structured_content["details"]["near"] == ["math:add"]
        assert code_of(await client.call_tool("run_tool", {"tool_id": "math:add", "argument": {}})) == "invalid_input"
        assert code_of(await client.call_tool("run_tool", {})) == "invalid_input"
        assert code_of(await client.call_tool("search_tools", {"query": "x", "limit": 0})) == "invalid_input"
        assert code_of(await client.call_tool("execute_code", {})) == "invalid_input"
        with pytest.raises(MCPError, match="Unknown tool: math:add") as caught:
            await client.call_tool("math:add", {"a": 1})
        assert caught.value.error.code == -32602


async def test_a_role_and_a_list_decide_what_there_is(ours: AsyncExec, era: str) -> None:
    async with client_of(McpServer(ours, expose="both", allowed_tools=["crm:*", "fail"]), era) as client:
        assert {"math__add", "crm__lookup"}.isdisjoint(await names(client))
        assert "fail" in await names(client)
        for tool_id in ("crm:lookup", "math:add"):
            assert code_of(await client.call_tool("run_tool", {"tool_id": tool_id})) == "tool_denied"
            assert code_of(await client.call_tool("describe_tool", {"tool_id": tool_id})) == "tool_denied"
            with pytest.raises(MCPError, match="Unknown tool"):
                await client.call_tool(tool_id.replace(":", "__"))
        code = await client.call_tool("execute_code", {"code": '{"calls": [["math:add", {"a": 1}]]}'})
        assert code.is_error
        assert code.structured_content["error"]["message"].startswith("tool_denied: tool 'math:add' is not among")
        assert [call["status"] for call in code.structured_content["tool_calls"]] == ["refused"]
        found = await client.call_tool("search_tools", {"query": ""})
        assert [tool["id"] for tool in found.structured_content["tools"]] == ["fail"]


async def test_code_that_fails_is_an_error_with_its_result(ours: AsyncExec) -> None:
    async with client_of(McpServer(ours)) as client:
        result = await client.call_tool("execute_code", {"code": '{"raise": "no luck"}'})
    assert result.is_error
    assert result.structured_content["outcome"] == "raised"
    assert result.structured_content["error"]["message"] == "no luck"


MORE: list[tuple[dict[str, Any], str]] = [
    ({"limits": {"wall_seconds": 6}}, "invalid_input"),
    ({"limits": {"memory_bytes": 1 << 40}}, "invalid_input"),
    ({"limits": {"time": 1}}, "invalid_input"),
    ({"limits": {"wall_seconds": 0}}, "invalid_input"),
    ({"limits": {"wall_seconds": None}}, "invalid_input"),
    ({"profile": "dev"}, "policy_denied"),
    ({"profile": "none"}, "invalid_input"),
    ({"allowed_tools": ["crm:lookup"]}, "tool_denied"),
    ({"allowed_tools": ["math:*"]}, "tool_denied"),
    ({"env": {"PATH": "/"}}, "invalid_input"),
    ({"backend": "unsafe"}, "invalid_input"),
    ({"caller": {"role": "agent"}}, "invalid_input"),
]


async def test_a_client_cannot_ask_for_more(ours: AsyncExec, host: Host) -> None:
    async with client_of(McpServer(ours, limits={"wall_seconds": 5}, allowed_tools=["math:add"])) as client:
        for asked, code in MORE:
            result = await client.call_tool("execute_code", {"code": '{"hang": 1}', **asked})
            assert (asked, code_of(result)) == (asked, code)
    assert not host.begun.is_set()


async def test_a_client_may_ask_for_less(ours: AsyncExec) -> None:
    asked = {"limits": {"tool_calls": 1}, "profile": "hardened", "allowed_tools": ["math:add"]}
    async with client_of(McpServer(ours, limits={"wall_seconds": 5})) as client:
        one = await client.call_tool("execute_code", {"code": '{"calls": [["math:add", {"a": 1}]]}', **asked})
        two = await client.call_tool(
            "execute_code", {"code": json.dumps({"calls": [["math:add", {"a": 1}]] * 2}), **asked}
        )
        other = await client.call_tool("execute_code", {"code": '{"calls": [["fail", {}]]}', **asked})
    assert (one.structured_content["value"], one.structured_content["profile"]) == ([3], "hardened")
    assert "tool_calls=1 is used up" in two.structured_content["error"]["message"]
    assert "is not among the tools" in other.structured_content["error"]["message"]


async def test_what_no_backend_here_may_run_is_refused(host: Host) -> None:
    async with AsyncExec(backends={"unsafe": UnsafeBackend}) as ours, client_of(McpServer(ours)) as client:
        result = await client.call_tool("execute_code", {"code": "1 + 1"})
        assert code_of(result) == "policy_denied"
        assert "unsafe" in result.structured_content["message"]


async def test_cancelling_ends_code_and_calls(ours: AsyncExec, host: Host, era: str) -> None:
    for name, arguments in (("execute_code", {"code": '{"hang": 1}'}), ("run_tool", {"tool_id": "slow"})):
        host.begun, host.ended = anyio.Event(), anyio.Event()
        async with client_of(McpServer(ours), era) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, name, arguments)
            with anyio.fail_after(20):
                await host.begun.wait()
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await host.ended.wait()
    ended = [record for record in host.kept if isinstance(record, CallFinished)]
    assert [record.status for record in ended] == ["cancelled"]


async def test_a_call_has_an_end_and_there_are_so_many_at_once(ours: AsyncExec, host: Host) -> None:
    results = []

    async def ask() -> None:
        results.append(await client.call_tool("run_tool", {"tool_id": "slow"}))

    async with client_of(McpServer(ours, max_calls=1, call_seconds=1)) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        with anyio.fail_after(20):
            await host.begun.wait()
        second = await client.call_tool("list_namespaces")
        assert code_of(second) == "unavailable"
        assert second.structured_content["retryable"]
    assert [code_of(result) for result in results] == ["deadline_exceeded"]


async def test_what_fails_on_the_host_is_for_its_log(
    ours: AsyncExec, era: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_record: Record) -> None:
        raise OSError("disk of db-7.internal is full")

    monkeypatch.setattr(ours._journal, "append", broken)
    async with client_of(McpServer(ours), era) as client:
        with pytest.raises(MCPError, match="its log has the reason") as caught:
            await client.call_tool("run_tool", {"tool_id": "math:add", "arguments": {"a": 1}})
    assert "db-7" not in str(caught.value.error)
    assert "db-7" in caplog.text


async def test_a_server_that_stops_ends_what_is_under_way(ours: AsyncExec, host: Host, era: str) -> None:
    told: list[str] = []

    async def serve(*, task_status: Any) -> None:
        with anyio.CancelScope() as scope:
            await McpServer(ours).serve_http(port=0, started=lambda url: task_status.started((url, scope)))

    async def ask() -> None:
        try:
            told.append(code_of(await client.call_tool("run_tool", {"tool_id": "slow"})))
        except MCPError as error:
            told.append(error.message)

    async with anyio.create_task_group() as tasks:
        url, scope = await tasks.start(serve)
        async with Client(url, mode=era) as client, anyio.create_task_group() as asking:
            asking.start_soon(ask)
            with anyio.fail_after(20):
                await host.begun.wait()
                scope.cancel()
                await host.ended.wait()
    assert told in (["unavailable"], ["Connection closed"])


# Over HTTP

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
ACCEPT = {"accept": "application/json, text/event-stream"}


WITHOUT_TOKEN: list[list[tuple[str, str]]] = [
    [],
    [("authorization", f"Bearer {TOKEN}x")],
    [("authorization", f"Bearer {TOKEN[:-1]}")],
    [("authorization", f"Basic {TOKEN}")],
    [("authorization", TOKEN)],
    [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")],
    [("cookie", f"token={TOKEN}")],
]


async def test_without_the_token_nothing_is_answered(ours: AsyncExec) -> None:
    async with served(McpServer(ours), TOKEN) as url, httpx2.AsyncClient() as http:
        for path in (url, url.removesuffix("/mcp") + "/other", f"{url}?token={TOKEN}"):
            for headers in WITHOUT_TOKEN:
                answer = await http.post(path, json=HELLO, headers=[*ACCEPT.items(), *headers])
                assert (headers, answer.status_code) == (headers, 401)
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert "jsonrpc" not in answer.text


async def test_with_the_token_a_client_is_served(ours: AsyncExec, era: str) -> None:
    async with client_of(McpServer(ours), era, TOKEN) as client:
        assert (await client.call_tool("run_tool", {"tool_id": "math:add", "arguments": {"a": 1}})).structured_content


async def test_a_page_in_a_browser_cannot_reach_a_server_without_token(ours: AsyncExec) -> None:
    async with served(McpServer(ours)) as url, httpx2.AsyncClient() as http:
        good = await http.post(url, json=HELLO, headers=ACCEPT)
        assert good.status_code == 200
        rebound = await http.post(url, json=HELLO, headers=ACCEPT | {"host": "attacker.example:8080"})
        assert rebound.status_code == 421
        foreign = await http.post(url, json=HELLO, headers=ACCEPT | {"origin": "https://attacker.example"})
        assert foreign.status_code == 403


async def test_a_request_has_a_size(ours: AsyncExec) -> None:
    async with served(McpServer(ours)) as url, httpx2.AsyncClient() as http:
        answer = await http.post(url, content=b" " * (5 << 20), headers=ACCEPT | {"content-type": "application/json"})
        assert answer.status_code == 413


@pytest.mark.parametrize("host_name", ["0.0.0.0", "::", "", "192.0.2.1", "example.com", "127.0.0.1.example.com"])
async def test_beyond_this_machine_a_token_is_needed(host_name: str, ours: AsyncExec) -> None:
    with pytest.raises(InvalidRequest, match="need a token"):
        await McpServer(ours).serve_http(host=host_name, port=0)


@pytest.mark.parametrize("token", ["", "short", "with spaces in it, many of them", "ünïcödé-ünïcödé-ünïcödé", "a" * 15])
async def test_a_weak_token_is_refused(token: str, ours: AsyncExec) -> None:
    with pytest.raises(InvalidRequest, match="the token must be"):
        await McpServer(ours).serve_http(port=0, token=token)
    with pytest.raises(InvalidRequest, match="the token must be"):
        McpServer(ours).http_app(token=token)


@pytest.mark.parametrize(
    "options",
    [
        {"expose": "everything"},
        {"call_seconds": 0},
        {"call_seconds": float("inf")},
        {"max_calls": 0},
        {"profile": "soft"},
        {"limits": {"wall_seconds": -1}},
        {"allowed_tools": "math:add"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        McpServer(AsyncExec(backends={}), **options)


# Rights


def rights(*allowed: str) -> CodeRights:
    grant = Grant(allowed_tools=frozenset(allowed) or None)
    return CodeRights(profile="standard", limits=Limits(wall_seconds=5, tool_calls=10), grant=grant)


def test_what_is_not_bounded_may_be_asked_for() -> None:
    found = rights().narrowed({"code": "", "limits": {"pids": 5, "wall_seconds": 5}}, ToolRegistry())
    assert found["limits"] == Limits(wall_seconds=5, tool_calls=10, pids=5)
    assert (found["profile"], found["allowed_tools"]) == ("standard", None)
    with pytest.raises(InvalidInput, match="may be at most 10"):
        rights().narrowed({"code": "", "limits": {"tool_calls": 11}}, ToolRegistry())
    with pytest.raises(PolicyDenied):
        rights().narrowed({"code": "", "profile": "dev"}, ToolRegistry())


async def test_tools_are_asked_for_by_any_id_and_granted_by_the_operators(ours: AsyncExec) -> None:
    ours.register(function_tool(lambda: 1, name="lookup", namespace="hr", version="1.0.0"))
    ours.register(function_tool(lambda: 2, name="lookup", namespace="hr", version="2.0.0"))

    def granted(rights: CodeRights, *asked: str) -> set[str]:
        return {*rights.narrowed({"code": "", "allowed_tools": [*asked]}, ours.registry)["allowed_tools"]}

    assert granted(rights("hr:*"), "hr:lookup", "hr:*") == {"hr:lookup", "hr:*"}
    assert granted(rights("hr:lookup:2.0.0"), "hr:lookup") == {"hr:lookup:2.0.0"}  # and not what it means later
    assert granted(rights("hr:lookup"), "hr:lookup:2.0.0") == {"hr:lookup"}
    assert granted(rights("hr:lookup")) == set()
    for refused in ("hr:lookup:1.0.0", "hr:*", "math:add", "hr:unknown"):
        with pytest.raises(ToolDenied):
            granted(rights("hr:lookup"), refused)
