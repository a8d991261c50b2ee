"""The gateway in process: what a guest may do, what it costs, and what is recorded."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.base import ChainStep, Gateway, JsonValue, ParallelCall
from gateway.direct import MAX_REFUSED, DirectGateway
from gateway.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    InvalidInput,
    InvalidToolId,
    PayloadTooLarge,
    ToolDenied,
    ToolFailed,
    ToolNotFound,
    ToolTimeout,
)
from gateway.grant import Grant
from gateway.journal.base import Blob, CallFinished, CallStarted, CallStatus, Lease, Record, ToolCall
from gateway.journal.memory import MemoryJournal
from gateway.pipeline import Pipeline
from gateway.providers.function import function_tool
from gateway.runner import Runner
from gateway.tools.model import ToolExample, ToolId
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch

pytestmark = pytest.mark.anyio


class World:
    """A registry of small tools, and what they did."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        add = function_tool(self.add, namespace="math", examples=[ToolExample("one", {"n": 1}, "2")])
        self.registry = ToolRegistry(
            [
                add,
                dataclasses.replace(add, id=ToolId("old", "math", "1.0.0")),
                dataclasses.replace(add, id=ToolId("old", "math", "2.0.0")),
                function_tool(self.echo),
                function_tool(self.fail, namespace="bad"),
                function_tool(self.sleep, namespace="bad", read_only=True),
                function_tool(self.spoil, namespace="bad"),
            ]
        )
        self.journal = MemoryJournal()

    def gateway(self, on_call: Callable[[ToolCall], None] | None = None, **grant: Any) -> DirectGateway:
        granted = Grant(execution_id="e", **grant)
        registry = self.registry
        return DirectGateway(granted, Pipeline(Runner(registry)), registry, ToolSearch(registry), self.journal, on_call)

    async def add(self, n: int, to: int = 1) -> int:
        """Add numbers."""
        self.done.append(n)
        return n + to

    async def echo(self, value: Any = None) -> Any:
        self.done.append(value)
        return value

    async def fail(self) -> None:
        self.done.append("fail")
        raise LookupError("no row")

    async def sleep(self, seconds: float = 10) -> None:
        self.done.append("sleep")
        await anyio.sleep(seconds)

    async def spoil(self, items: list[Any]) -> list[Any]:
        items.append("spoilt")
        return items

    async def records(self) -> tuple[Record, ...]:
        return tuple(await self.journal.records("e"))


@pytest.fixture
def world() -> World:
    return World()


async def test_a_call_is_made_counted_and_recorded(world: World) -> None:
    told: list[ToolCall] = []
    gateway = world.gateway(told.append, tool_calls=3)
    contract: Gateway = gateway
    assert await contract.run_tool("math:add", {"n": 1}) == 2
    (call,) = gateway.calls
    assert (call.index, call.tool_id, call.arguments, call.via) == (0, "math:add", {"n": 1}, "run_tool")
    assert (call.status, call.result, call.error, call.attempts) == (CallStatus.COMPLETED, 2, None, 1)
    assert 0 < call.duration_seconds < 1
    assert [heard.status for heard in told] == [None, CallStatus.COMPLETED]
    assert gateway.grant.used_calls == 1
    started, finished = await world.records()
    assert isinstance(started, CallStarted)
    assert isinstance(finished, CallFinished)
    assert (started.index, started.tool_id, started.execution_id) == (0, "math:add", "e")
    assert started.arguments.as_json() == {"n": 1}
    assert (finished.index, finished.status, finished.result) == (0, CallStatus.COMPLETED, Blob.of_json(2))


class RefusingJournal(MemoryJournal):
    """Cannot write."""

    async def append(self, *records: Record, lease: Lease | None = None) -> None:
        raise OSError("disk full")


async def test_a_call_that_cannot_be_recorded_is_not_made(world: World) -> None:
    world.journal = RefusingJournal()
    gateway = world.gateway()
    with pytest.raises(OSError, match="disk full"):
        await gateway.run_tool("echo", {})
    with pytest.raises(OSError, match="disk full"):
        await gateway.run_parallel([ParallelCall("echo", {})] * 3)
    assert world.done == []


@pytest.mark.parametrize(
    ("tool_id", "arguments", "error"),
    [
        ("echo", {}, ToolDenied),
        ("math:no", {}, ToolNotFound),
        ("not an id", {}, InvalidToolId),
        ("x" * 100_000, {}, InvalidToolId),
        ("bad \ud800", {}, InvalidToolId),
        ("math:add", [1], InvalidInput),
        ("math:add", None, InvalidInput),
        ("math:add", {"n": float("nan")}, InvalidInput),
    ],
)
async def test_refused_calls_are_recorded_and_cost_nothing(
    world: World, tool_id: str, arguments: Any, error: type[Exception]
) -> None:
    gateway = world.gateway(tool_calls=1, allowed_tools=frozenset({"math:*"}))
    with pytest.raises(error):
        await gateway.run_tool(tool_id, arguments)
    (call,) = gateway.calls
    assert call.status is CallStatus.REFUSED
    assert call.error is not None
    assert call.attempts == 0
    assert len(call.tool_id) <= 400
    assert [type(record) for record in await world.records()] == [CallStarted, CallFinished]
    assert gateway.grant.used_calls == 0
    assert world.done == []
    assert await gateway.run_tool("math:add", {"n": 1}) == 2


@pytest.mark.parametrize(
    ("tool_id", "arguments", "error", "attempts"),
    [
        ("bad:fail", {}, ToolFailed, 1),
        ("math:add", {"n": "x"}, InvalidInput, 0),
        ("echo", {"value": "x" * 2_000_000}, PayloadTooLarge, 0),
    ],
)
async def test_permitted_calls_cost_even_when_they_fail(
    world: World, tool_id: str, arguments: Any, error: type[Exception], attempts: int
) -> None:
    gateway = world.gateway(tool_calls=1)
    with pytest.raises(error):
        await gateway.run_tool(tool_id, arguments)
    (call,) = gateway.calls
    assert (call.status, call.attempts) == (CallStatus.FAILED, attempts)
    with pytest.raises(BudgetExceeded):
        await gateway.run_tool("echo", {})


@settings(max_examples=25, deadline=None)
@given(budget=st.integers(1, 12), calls=st.integers(0, 50), batch=st.integers(1, 6))
def test_a_budget_is_exact_under_concurrency(budget: int, calls: int, batch: int) -> None:
    world = World()
    gateway = world.gateway(tool_calls=budget)
    refused: list[int] = []

    async def one(number: int) -> None:
        try:
            if number % 3:
                await gateway.run_tool("echo", {"value": number})
            else:
                await gateway.run_parallel([ParallelCall("echo", {"value": number})] * batch)
        except BudgetExceeded:
            refused.append(number)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(calls):
                tasks.start_soon(one, number)

    anyio.run(main)
    assert gateway.grant.used_calls == len(world.done) <= budget
    completed = [call for call in gateway.calls if call.status is CallStatus.COMPLETED]
    assert len(completed) == len(world.done)
    assert len(gateway.calls) == len(completed) + len(refused)
    assert [call.index for call in gateway.calls] == list(range(len(gateway.calls)))


async def test_fifty_calls_for_ten_places(world: World) -> None:
    gateway = world.gateway(tool_calls=10)
    refused: list[str] = []

    async def one() -> None:
        try:
            await gateway.run_tool("bad:sleep", {"seconds": 0.01})
        except BudgetExceeded as error:
            refused.append(error.message)

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
    assert (len(world.done), len(refused), gateway.grant.used_calls) == (10, 40, 10)
    assert refused[0] == "limit tool_calls=10 is used up: 1 more asked for"


class SlowJournal(MemoryJournal):
    """Takes a moment for every record, as a database does."""

    async def append(self, *records: Record, lease: Lease | None = None) -> None:
        await anyio.sleep(0.02)
        await super().append(*records, lease=lease)


@pytest.mark.parametrize("journal", [MemoryJournal, SlowJournal])
async def test_a_cancelled_call_is_recorded(world: World, journal: type[MemoryJournal]) -> None:
    world.journal = journal()
    gateway = world.gateway()
    with anyio.move_on_after(0.1) as scope:
        await gateway.run_tool("bad:sleep", {})
    assert scope.cancelled_caught
    (call,) = gateway.calls
    assert call.status is CallStatus.CANCELLED
    assert call.error is not None
    assert call.error["code"] == "cancelled"
    finished = (await world.records())[-1]
    assert isinstance(finished, CallFinished)
    assert finished.status is CallStatus.CANCELLED


async def test_a_cancelled_batch_is_recorded_and_gives_its_budget_back(world: World) -> None:
    gateway = world.gateway(tool_calls=100)
    with anyio.move_on_after(0.05):
        await gateway.run_parallel([ParallelCall("bad:sleep", {})] * 50)
    assert {call.status for call in gateway.calls} == {CallStatus.CANCELLED}
    assert gateway.grant.used_calls == len(gateway.calls) == 32


async def test_time_that_is_up_is_not_a_slow_tool(world: World) -> None:
    gateway = world.gateway(deadline=time.monotonic() + 0.05)
    with pytest.raises(DeadlineExceeded):
        await gateway.run_tool("bad:sleep", {})
    assert gateway.calls[0].error is not None
    assert gateway.calls[0].error["code"] == "deadline_exceeded"
    for late in (gateway.run_tool("echo", {}), gateway.list_namespaces(), gateway.search_tools("x")):
        with pytest.raises(DeadlineExceeded):
            await late
    assert [call.status for call in gateway.calls] == [CallStatus.FAILED, CallStatus.REFUSED]


async def test_a_slow_tool_is_not_time_that_is_up(world: World) -> None:
    slow = function_tool(world.sleep, name="slow", timeout_seconds=0.05)
    world.registry.register(slow)
    with pytest.raises(ToolTimeout):
        await world.gateway(deadline=time.monotonic() + 60).run_tool("slow", {})


async def test_a_closed_grant_permits_nothing(world: World) -> None:
    gateway = world.gateway()
    gateway.grant.closed = True
    with pytest.raises(DeadlineExceeded):
        await gateway.run_tool("echo", {})


async def test_large_values_are_recorded_by_their_head(world: World) -> None:
    gateway = world.gateway()
    value = "x" * 100_000
    assert await gateway.run_tool("echo", {"value": value}) == value
    (call,) = gateway.calls
    assert call.arguments == {"truncated": True, "bytes": 100_012, "head": '{"value":"' + "x" * 990}
    assert call.result == {"truncated": True, "bytes": 100_002, "head": '"' + "x" * 999}


async def test_nobody_can_alter_a_record_by_altering_a_value(world: World) -> None:
    gateway = world.gateway()
    arguments: dict[str, JsonValue] = {"items": [1]}
    result = await gateway.run_tool("bad:spoil", arguments)
    assert result == [1, "spoilt"]
    result.clear()
    assert arguments == {"items": [1]}
    arguments["items"].clear()
    (call,) = gateway.calls
    assert (call.arguments, call.result) == ({"items": [1]}, [1, "spoilt"])


async def test_what_is_not_granted_is_not_seen(world: World) -> None:
    gateway = world.gateway(allowed_tools=frozenset({"math:add"}))
    assert [found.id for found in await gateway.search_tools("")] == ["math:add"]
    assert await gateway.search_tools("echo") == ()
    assert await gateway.list_namespaces() == ("math",)
    assert (await gateway.describe_tool("math:add"))["signature"].startswith("tools.math.add(n: int")
    assert [found["title"] for found in await gateway.list_tool_examples("math:add")] == ["one"]
    with pytest.raises(ToolDenied):
        await gateway.describe_tool("echo")
    with pytest.raises(ToolDenied):
        await gateway.list_tool_examples("echo")
    for unknown in ("eco", "bad:fial", "math:ad"):
        with pytest.raises(ToolNotFound) as caught:
            await gateway.run_tool(unknown, {})
        assert set(caught.value.details["near"]) <= {"math:add"}


async def test_a_grant_of_the_short_id_is_one_of_the_newest_version(world: World) -> None:
    gateway = world.gateway(allowed_tools=frozenset({"math:old"}))
    assert await gateway.run_tool("math:old", {"n": 1}) == 2
    assert await gateway.run_tool("math:old:2.0.0", {"n": 1}) == 2
    with pytest.raises(ToolDenied):
        await gateway.run_tool("math:old:1.0.0", {"n": 1})
    pinned = world.gateway(allowed_tools=frozenset({"math:old:1.0.0"}))
    assert await pinned.run_tool("math:old:1.0.0", {"n": 1}) == 2
    with pytest.raises(ToolDenied):
        await pinned.run_tool("math:old", {"n": 1})
    assert [call.tool_id for call in gateway.calls] == ["math:old:2.0.0"] * 2 + ["math:old:1.0.0"]


async def test_any_mapping_holds_arguments(world: World) -> None:
    gateway = world.gateway()
    assert await gateway.run_tool("math:add", MappingProxyType({"n": 1})) == 2
    assert gateway.calls[0].arguments == {"n": 1}


@pytest.mark.parametrize("limit", [0, -1, 101])
async def test_a_search_has_bounds(world: World, limit: int) -> None:
    gateway = world.gateway()
    with pytest.raises(InvalidInput, match="1 to 100"):
        await gateway.search_tools("x", limit)


async def test_no_examples_asked_for_are_none_and_too_many_an_error(world: World) -> None:
    gateway = world.gateway()
    assert await gateway.list_tool_examples("echo", 0) == ()
    assert await gateway.list_tool_examples("echo", -1) == ()
    with pytest.raises(InvalidInput, match="1 to 100"):
        await gateway.list_tool_examples("echo", 101)


async def test_a_guest_that_floods_is_reported_and_not_recorded_for_ever(world: World) -> None:
    gateway = world.gateway(tool_calls=1)
    await gateway.run_tool("echo", {})
    started = time.monotonic()
    for number in range(MAX_REFUSED + 10):
        assert gateway.flooded is (number > MAX_REFUSED)
        with pytest.raises(ToolNotFound if number < MAX_REFUSED else BudgetExceeded):
            await gateway.run_tool(f"nothing{number}", {})
    assert gateway.flooded
    assert len(gateway.calls) == MAX_REFUSED + 1
    assert time.monotonic() - started < 5


async def test_a_batch_that_does_not_fit_calls_nothing_and_is_recorded(world: World) -> None:
    gateway = world.gateway(tool_calls=2, chain_steps=5)
    for asked, error in (
        (gateway.run_chain([ChainStep("echo", {})] * 3), "tool_calls=2"),
        (gateway.run_chain([ChainStep("echo", {})] * 6), "chain_steps=5"),
        (gateway.run_parallel([ParallelCall("echo", {})] * 3), "tool_calls=2"),
        (gateway.run_parallel([ParallelCall("echo", {})] * 1001), "batch=1000"),
    ):
        with pytest.raises(BudgetExceeded, match=error):
            await asked
    assert world.done == []
    assert gateway.grant.used_calls == 0
    assert [(call.tool_id, call.status) for call in gateway.calls] == [
        ("run_chain", CallStatus.REFUSED),
        ("run_chain", CallStatus.REFUSED),
        ("run_parallel", CallStatus.REFUSED),
        ("run_parallel", CallStatus.REFUSED),
    ]


async def test_refused_members_of_a_batch_give_their_budget_back(world: World) -> None:
    gateway = world.gateway(tool_calls=4, allowed_tools=frozenset({"math:*"}))
    steps = [
        ChainStep("echo", {}, stop_on_error=False),
        ChainStep("math:add", {"n": 1, "previous": 1}, use_previous=True, stop_on_error=False),
        ChainStep("math:add", {"n": 1}),
    ]
    assert (await gateway.run_chain(steps)).value == 2
    assert gateway.grant.used_calls == 1
    outcomes = await gateway.run_parallel([ParallelCall("math:add", {"n": 1}), ParallelCall("no", {})])
    assert [outcome.ok for outcome in outcomes] == [True, False]
    assert gateway.grant.used_calls == 2
    assert [(call.via, call.status) for call in gateway.calls] == [
        ("run_chain", CallStatus.REFUSED),
        ("run_chain", CallStatus.REFUSED),
        ("run_chain", CallStatus.COMPLETED),
        ("run_parallel", CallStatus.COMPLETED),
        ("run_parallel", CallStatus.REFUSED),
    ]


def failing_listener() -> Iterator[Callable[[ToolCall], None]]:
    def at_start(call: ToolCall) -> None:
        if call.status is None:
            raise RuntimeError("listener")

    def at_end(call: ToolCall) -> None:
        if call.status is not None:
            raise RuntimeError("listener")

    yield at_start
    yield at_end


@pytest.mark.parametrize("listener", list(failing_listener()))
async def test_a_listener_that_fails_is_heard_and_the_record_still_complete(
    world: World, listener: Callable[[ToolCall], None]
) -> None:
    with pytest.raises(RuntimeError, match="listener"):
        await world.gateway(listener).run_tool("echo", {})
    assert [type(record) for record in await world.records()] == [CallStarted, CallFinished]


async def test_deprecated_arguments_are_used_and_warned_of(world: World) -> None:
    schema = {"type": "object", "properties": {"value": {}, "old": {"deprecated": True, "default": 1}}}

    def anything(**more: Any) -> Any:
        return more

    world.registry.register(dataclasses.replace(function_tool(anything, name="aged"), input_schema=schema))
    gateway = world.gateway()
    assert await gateway.run_tool("aged", {"old": 5}) == {"old": 5}
    assert await gateway.run_tool("aged", {"value": 5}) == {"value": 5, "old": 1}
    assert [call.warnings for call in gateway.calls] == [("the argument 'old' is deprecated",), ()]
    started = [record for record in await world.journal.records("e") if isinstance(record, CallStarted)]
    assert [record.warnings for record in started] == [call.warnings for call in gateway.calls]
