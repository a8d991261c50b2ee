"""One suite for all gateways: in process and over gRPC the same calls give the same results, errors and records."""

import dataclasses
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest

from gateway.base import CallOutcome, ChainStep, Gateway, ParallelCall
from gateway.client import GatewayClient
from gateway.context import Caller
from gateway.direct import DirectGateway
from gateway.endpoint import Endpoint
from gateway.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    InvalidCursor,
    InvalidInput,
    InvalidToolId,
    PayloadTooLarge,
    ToolDenied,
    ToolError,
    ToolFailed,
    ToolNotFound,
    ToolTimeout,
    Unauthenticated,
)
from gateway.journal.base import CallStatus
from gateway.providers.function import function_tool
from gateway.server import GatewayServer
from tests.gateway.raw import RawGuest, Tools, eventually, raw_guest

pytestmark = pytest.mark.anyio

ADD = {"a": 1, "b": 2}


class Opened:
    """A gateway as a guest has it, and the host's end of it."""

    def __init__(self, gateway: Gateway, direct: DirectGateway) -> None:
        self.gateway = gateway
        self.direct = direct

    @property
    def statuses(self) -> list[CallStatus | None]:
        return [call.status for call in self.direct.calls]


Open: TypeAlias = Callable[..., Awaitable[Opened]]


@pytest.fixture
def tools() -> Tools:
    return Tools()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[GatewayServer]:
    async with GatewayServer(tmp_path) as server:
        yield server


@pytest.fixture
async def guest(server: GatewayServer) -> AsyncIterator[RawGuest]:
    async with raw_guest(server) as guest:
        yield guest


@pytest.fixture(params=["direct", "grpc"])
async def opened(request: pytest.FixtureRequest, guest: RawGuest, tools: Tools) -> AsyncIterator[Open]:
    """Opens the gateway under test with the rights it is given."""
    async with GatewayClient(guest.attachment.endpoint) as client:

        async def make(**grant: Any) -> Opened:
            direct = tools.gateway(**grant)
            if request.param == "direct":
                return Opened(direct, direct)
            await guest.attach(direct)
            return Opened(client, direct)

        yield make


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 2**53 + 1, 1.5, 1e-300, "", "ü 日本 🎈 \0 \" \\", [], {}, [[1, [2]]], {"": {"ü": None}}],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
async def test_values_arrive_as_they_are(opened: Open, value: Any) -> None:
    found = await (await opened()).gateway.run_tool("echo", {"value": value})
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("tool_id", "arguments", "kind", "retryable"),
    [
        ("math:add", {"a": "one", "b": 2}, InvalidInput, False),
        ("math:add", {}, InvalidInput, False),
        ("math:add", {"a": 1, "b": 2, "c": 3}, InvalidInput, False),
        ("math:sub", ADD, ToolNotFound, False),
        ("not an id", {}, InvalidToolId, False),
        ("", {}, InvalidToolId, False),
        ("bad:fail", {"text": "no röw"}, ToolFailed, False),
        ("echo", {"value": "x" * (1 << 20)}, PayloadTooLarge, False),
    ],
)
async def test_errors_are_the_same(
    opened: Open, tools: Tools, tool_id: str, arguments: dict[str, Any], kind: type[ToolError], retryable: bool
) -> None:
    with pytest.raises(ToolError) as expected:
        await tools.gateway().run_tool(tool_id, arguments)
    one = await opened()
    with pytest.raises(kind) as caught:
        await one.gateway.run_tool(tool_id, arguments)
    assert type(caught.value) is kind
    assert caught.value.to_json() == expected.value.to_json()
    assert caught.value.retryable is retryable
    assert one.statuses in ([CallStatus.REFUSED], [CallStatus.FAILED])


async def test_what_is_not_granted_is_denied_and_not_seen(opened: Open) -> None:
    one = await opened(allowed_tools=frozenset({"math:*"}))
    with pytest.raises(ToolDenied, match="'echo' is not among"):
        await one.gateway.run_tool("echo", {})
    assert await one.gateway.run_tool("math:add", ADD) == 3
    assert one.statuses == [CallStatus.REFUSED, CallStatus.COMPLETED]
    assert [found.id for found in await one.gateway.search_tools("")] == ["math:add"]
    assert await one.gateway.list_namespaces() == ("math",)
    with pytest.raises(ToolDenied):
        await one.gateway.describe_tool("echo")
    with pytest.raises(ToolDenied):
        await one.gateway.list_tool_examples("echo")


async def test_the_budget_is_held_to_the_call(opened: Open) -> None:
    one = await opened(tool_calls=2)
    for _ in range(2):
        await one.gateway.run_tool("math:add", ADD)
    with pytest.raises(BudgetExceeded) as caught:
        await one.gateway.run_tool("math:add", ADD)
    assert caught.value.details == {"limit": "tool_calls", "allowed": 2, "asked": 1}
    assert one.statuses == [CallStatus.COMPLETED] * 2 + [CallStatus.REFUSED]


async def test_the_budget_is_held_under_concurrency(opened: Open) -> None:
    one = await opened(tool_calls=5)
    ended: list[str] = []

    async def call() -> None:
        try:
            await one.gateway.run_tool("math:add", ADD)
            ended.append("completed")
        except BudgetExceeded as error:
            ended.append(error.code)

    async with anyio.create_task_group() as calls:
        for _ in range(20):
            calls.start_soon(call)
    assert sorted(ended) == ["budget_exceeded"] * 15 + ["completed"] * 5


async def test_a_batch_that_does_not_fit_is_not_begun(opened: Open) -> None:
    one = await opened(tool_calls=2, chain_steps=1)
    with pytest.raises(BudgetExceeded):
        await one.gateway.run_parallel([ParallelCall("math:add", ADD)] * 3)
    with pytest.raises(BudgetExceeded) as caught:
        await one.gateway.run_chain([ChainStep("math:add", ADD)] * 2)
    assert caught.value.details["limit"] == "chain_steps"
    assert one.direct.grant.used_calls == 0


async def test_after_the_deadline_nothing_is_done(opened: Open) -> None:
    one = await opened(deadline=time.monotonic() - 1)
    for call in (
        one.gateway.run_tool("math:add", ADD),
        one.gateway.search_tools("add"),
        one.gateway.list_namespaces(),
        one.gateway.describe_tool("math:add"),
    ):
        with pytest.raises(DeadlineExceeded):
            await call


async def test_a_tool_is_stopped_at_the_deadline(opened: Open, tools: Tools) -> None:
    one = await opened(deadline=time.monotonic() + 0.2)
    with anyio.fail_after(10), pytest.raises(DeadlineExceeded):
        await one.gateway.run_tool("bad:hang", {})
    assert tools.working == 0


async def test_a_chain(opened: Open) -> None:
    gateway = (await opened()).gateway
    steps = [
        ChainStep("math:add", ADD),
        ChainStep("bad:fail", {}, stop_on_error=False),
        ChainStep("echo", {"value": "ü"}),
        ChainStep("math:none", {}),
        ChainStep("echo", {}),
    ]
    result = await gateway.run_chain(steps)
    assert [(step.tool_id, step.ok, step.skipped) for step in result.steps] == [
        ("math:add", True, False),
        ("bad:fail", False, False),
        ("echo", True, False),
        ("math:none", False, False),
        ("echo", False, True),
    ]
    codes = [step.error["code"] if step.error else None for step in result.steps]
    assert codes == [None, "tool_failed", None, "tool_not_found", None]
    assert result.value is None
    assert (await gateway.run_chain([])).steps == ()


async def test_a_chain_hands_on_its_results(opened: Open) -> None:
    one = await opened()
    result = await one.gateway.run_chain(
        [ChainStep("echo", {"value": 1}), ChainStep("math:add", {"a": 1}, use_previous=True)]
    )
    assert not result.steps[1].ok
    assert result.steps[1].error is not None
    assert result.steps[1].error["code"] == "invalid_input"  # it takes no argument `previous`


async def test_a_parallel_batch_keeps_its_order(opened: Open) -> None:
    one = await opened()
    calls = [ParallelCall("echo", {"value": n}) for n in range(20)] + [ParallelCall("bad:fail", {})]
    outcomes = await one.gateway.run_parallel(calls)
    assert [outcome.value for outcome in outcomes[:-1]] == list(range(20))
    assert outcomes[-1].error is not None
    assert outcomes[-1].error["code"] == "tool_failed"
    assert await one.gateway.run_parallel([]) == ()


async def test_tools_are_found_and_described(opened: Open, tools: Tools) -> None:
    gateway, direct = (await opened()).gateway, tools.gateway()
    assert await gateway.search_tools("numbers", 1) == await direct.search_tools("numbers", 1)
    assert await gateway.search_tools("") == await direct.search_tools("")
    for level in ("summary", "schema", "full"):
        assert await gateway.describe_tool("math:add", level) == await direct.describe_tool("math:add", level)
    assert await gateway.list_tool_examples("math:add", 3) == await direct.list_tool_examples("math:add", 3)
    assert await gateway.list_namespaces() == ("", "bad", "math")


@pytest.mark.parametrize("limit", [-1, 0, 101])
async def test_a_limit_out_of_bounds_is_an_error(opened: Open, limit: int) -> None:
    gateway = (await opened()).gateway
    with pytest.raises(InvalidInput):
        await gateway.search_tools("add", limit)
    if limit > 0:
        with pytest.raises(InvalidInput):
            await gateway.list_tool_examples("math:add", limit)
    else:
        assert await gateway.list_tool_examples("math:add", limit) == ()  # none asked for is none


async def test_an_unknown_level_is_an_error(opened: Open) -> None:
    with pytest.raises(InvalidInput):
        await (await opened()).gateway.describe_tool("math:add", "everything")  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), object(), {1, 2}, "\ud800"], ids=lambda value: type(value).__name__
)
async def test_what_is_no_json_is_an_error(opened: Open, value: Any) -> None:
    with pytest.raises(InvalidInput):
        await (await opened()).gateway.run_tool("echo", {"value": value})


# Tokens, which only the remote gateway has


async def refused(endpoint: Endpoint) -> None:
    async with GatewayClient(endpoint) as client:
        for call in (
            client.run_tool("math:add", ADD),
            client.run_chain([]),
            client.run_parallel([]),
            client.search_tools(""),
            client.describe_tool("math:add"),
            client.list_namespaces(),
            client.list_tool_examples("math:add"),
        ):
            with pytest.raises(Unauthenticated) as caught:
                await call
            assert endpoint.token not in str(caught.value) or not endpoint.token


@pytest.mark.parametrize("token", ["", "wrong", "A" * 43])
async def test_a_wrong_or_missing_token(server: GatewayServer, guest: RawGuest, tools: Tools, token: str) -> None:
    await guest.attach(tools.gateway())
    await refused(Endpoint(server.address, token))


async def test_a_token_before_its_execution(guest: RawGuest) -> None:
    await refused(guest.attachment.endpoint)
    await guest.hello()
    await guest.attachment.wait_attached()
    await refused(guest.attachment.endpoint)


async def test_a_token_after_its_execution(guest: RawGuest, tools: Tools) -> None:
    await guest.attach(tools.gateway())
    await guest.finish()
    await guest.attachment.wait_ended()
    await refused(guest.attachment.endpoint)


async def test_a_token_acts_for_its_own_execution_alone(server: GatewayServer, guest: RawGuest, tools: Tools) -> None:
    mine, other = tools.gateway("mine", allowed_tools=frozenset({"echo"})), tools.gateway("other")
    await guest.attach(mine)
    async with raw_guest(server) as neighbour, GatewayClient(guest.attachment.endpoint) as client:
        await neighbour.attach(other)
        with pytest.raises(ToolDenied):
            await client.run_tool("math:add", ADD)
        assert other.calls == ()
        assert [record.execution_id for record in await tools.journal.records("mine")] == ["mine", "mine"]


async def test_a_message_that_is_no_json_is_an_error(guest: RawGuest, tools: Tools) -> None:
    await guest.attach(tools.gateway())
    await guest.call(1, "run_tool", b"\xff")
    assert json.loads((await guest.hear()).tool_reply.error)["code"] == "invalid_input"


async def test_a_stream_gives_chunks_and_an_end(opened: Open) -> None:
    one = await opened()
    events = one.gateway.stream_tool("count", {"to": 3})
    found = [event async for event in events]
    await events.aclose()
    assert [event.data for event in found if event.kind == "chunk"] == [0, 1, 2]
    assert {"message": "at 2", "progress": 2, "total": 3} in [event.data for event in found if event.kind == "progress"]
    assert (found[-1].kind, found[-1].data) == ("done", None)
    assert [(call.via, call.status, call.result) for call in one.direct.calls] == [
        ("stream_tool", CallStatus.COMPLETED, [0, 1, 2])
    ]


@pytest.mark.parametrize(
    ("tool_id", "arguments", "code"),
    [("bad:fail", {}, "tool_failed"), ("math:sub", {}, "tool_not_found"), ("math:add", {}, "invalid_input")],
)
async def test_a_stream_that_fails_ends_with_the_error(
    opened: Open, tool_id: str, arguments: dict[str, Any], code: str
) -> None:
    events = (await opened()).gateway.stream_tool(tool_id, arguments)
    found = [event async for event in events]
    await events.aclose()
    assert [event.kind for event in found] == ["error"]
    assert found[0].error is not None
    assert found[0].error["code"] == code


async def test_a_stream_that_is_closed_ends_the_tool(opened: Open, tools: Tools) -> None:
    one = await opened()
    events = one.gateway.stream_tool("bad:hang", {})
    with anyio.fail_after(5):
        await tools.started.wait()
    await events.aclose()
    await events.aclose()
    await eventually(lambda: tools.working == 0)
    await eventually(lambda: one.statuses == [CallStatus.CANCELLED])


async def test_a_streamed_chain_tells_its_steps_as_a_chain_lists_them(opened: Open) -> None:
    one = await opened()
    steps = [
        ChainStep("echo", {"value": 4}),
        ChainStep("count", {}, mapping={"to": "/previous"}),
        ChainStep("bad:fail", {}),
        ChainStep("echo", {}),
    ]
    events = one.gateway.stream_chain(steps)
    found = [event async for event in events]
    await events.aclose()
    listed = await one.gateway.run_chain(steps)
    told = [event.data for event in found if event.kind == "chunk"]
    assert [CallOutcome(**step | {"duration_seconds": 0}) for step in told] == [
        dataclasses.replace(step, duration_seconds=0) for step in listed.steps
    ]
    assert (found[-1].kind, found[-1].data) == ("done", listed.value)
    progress = [event.data["progress"] for event in found if event.kind == "progress"]
    assert progress == sorted(progress)
    assert {1, 1.5, 2, 3, 4} <= {*progress}
    assert [call.via for call in one.direct.calls] == ["stream_chain"] * 3 + ["run_chain"] * 3


async def test_a_streamed_chain_takes_what_any_call_takes(opened: Open) -> None:
    one = await opened()
    deep: Any = 1
    for _ in range(126):
        deep = [deep]
    events = one.gateway.stream_chain([ChainStep("echo", {"value": deep}), ChainStep("bad\ntool " + "x" * 500, {})])
    found = [event async for event in events]
    await events.aclose()
    steps = [event.data for event in found if event.kind == "chunk"]
    assert steps[0]["value"] == deep
    assert (len(steps[1]["tool_id"]), steps[1]["error"]["code"]) == (400, "invalid_tool_id")
    assert len(found[-2].data["tool_id"]) == 400
    assert found[-1].kind == "done"


async def test_a_streamed_chain_that_does_not_fit_is_not_begun(opened: Open) -> None:
    one = await opened(chain_steps=1)
    events = one.gateway.stream_chain([ChainStep("math:add", ADD)] * 2)
    found = [event async for event in events]
    await events.aclose()
    assert [event.kind for event in found] == ["error"]
    assert found[0].error is not None
    assert (found[0].error["code"], found[0].error["details"]["limit"]) == ("budget_exceeded", "chain_steps")
    assert [(call.via, call.status) for call in one.direct.calls] == [("stream_chain", CallStatus.REFUSED)]


async def test_a_streamed_chain_that_is_closed_ends_the_tool(opened: Open, tools: Tools) -> None:
    one = await opened()
    events = one.gateway.stream_chain([ChainStep("bad:hang", {}), ChainStep("math:add", ADD)])
    with anyio.fail_after(5):
        await tools.started.wait()
    await events.aclose()
    await eventually(lambda: tools.working == 0)
    await eventually(lambda: one.statuses == [CallStatus.CANCELLED])
    assert one.direct.grant.used_calls == 1


async def test_tools_are_listed_by_page_and_filter(opened: Open) -> None:
    one = await opened()
    first = await one.gateway.list_tools(2)
    rest = await one.gateway.list_tools(100, first.cursor)
    assert [tool.id for tool in (*first.tools, *rest.tools)] == ["bad:fail", "bad:hang", "count", "echo", "math:add"]
    assert rest.cursor is None
    assert [tool.id for tool in (await one.gateway.list_tools(namespace="bad")).tools] == ["bad:fail", "bad:hang"]
    assert (await one.gateway.list_tools(query="numbers")).tools[0].id == "math:add"
    assert await one.gateway.search_tools("numbers", namespace="bad") == ()
    assert (await one.gateway.list_tools(tags=["nothing"])).tools == ()
    for cursor in ("forged", "", (first.cursor or "")[:-2]):
        with pytest.raises(InvalidCursor):
            await one.gateway.list_tools(2, cursor)
    with pytest.raises(InvalidCursor):
        await one.gateway.list_tools(2, first.cursor, namespace="bad")
    for limit in (0, 101):
        with pytest.raises(InvalidInput):
            await one.gateway.list_tools(limit)


async def test_a_caller_has_the_tools_of_its_role(opened: Open, tools: Tools) -> None:
    tools.registry.register(function_tool(tools.echo, name="secret", roles=["admin"]))
    one = await opened(caller=Caller(role="system"))
    assert "secret" not in [tool.id for tool in (await one.gateway.list_tools()).tools]
    assert await one.gateway.search_tools("secret") == ()
    for refused in (one.gateway.run_tool("secret", {}), one.gateway.describe_tool("secret")):
        with pytest.raises(ToolDenied):
            await refused
    assert one.statuses == [CallStatus.REFUSED]


async def test_a_caller_of_the_role_may_call(opened: Open, tools: Tools) -> None:
    tools.registry.register(function_tool(tools.echo, name="secret", roles=["admin"]))
    one = await opened(caller=Caller(role="ADMIN"))
    assert await one.gateway.run_tool("secret", {"value": 1}) == 1


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_bounds_are_above_zero(opened: Open, seconds: float) -> None:
    gateway = (await opened()).gateway
    for refused in (
        gateway.run_tool("echo", {}, timeout_seconds=seconds),
        gateway.run_chain([ChainStep("echo", {})], timeout_seconds=seconds),
        gateway.run_chain([ChainStep("echo", {}, timeout_seconds=seconds)]),
        gateway.run_parallel([ParallelCall("echo", {})], timeout_seconds=seconds),
        gateway.run_parallel([ParallelCall("echo", {}, timeout_seconds=seconds)]),
    ):
        with pytest.raises(InvalidInput, match="above 0"):
            await refused
    with pytest.raises(InvalidInput, match="max_concurrent"):
        await gateway.run_parallel([ParallelCall("echo", {})], max_concurrent=0)


async def test_a_bound_ends_the_call(opened: Open, tools: Tools) -> None:
    one = await opened()
    with pytest.raises(ToolTimeout):
        await one.gateway.run_tool("bad:hang", {}, timeout_seconds=0.05)
    chain = await one.gateway.run_chain([ChainStep("bad:hang", {}), ChainStep("echo", {})], timeout_seconds=0.05)
    assert [step.skipped for step in chain.steps] == [False, True]
    batch = await one.gateway.run_parallel(
        [ParallelCall("bad:hang", {}), ParallelCall("echo", {})], timeout_seconds=0.05
    )
    assert [outcome.ok for outcome in batch] == [False, True]
    assert tools.working == 0


async def test_a_step_takes_arguments_from_earlier_results(opened: Open) -> None:
    steps = [ChainStep("echo", {"value": {"n": 4}}), ChainStep("math:add", {"b": 3}, mapping={"a": "/previous/n"})]
    assert (await (await opened()).gateway.run_chain(steps)).value == 7
