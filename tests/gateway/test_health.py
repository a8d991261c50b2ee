"""Health of tools and sources: the four states, what bounds the asking, how long an answer holds, and the summary."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import InvalidRequest, ToolNotFound
from gateway.health import MAX_AT_ONCE, Health, HealthStatus, worst
from gateway.payload import Encoded
from gateway.pipeline import Pipeline
from gateway.policies.base import Call, Policies, Proceed
from gateway.providers.secret import revealed
from gateway.runner import Runner
from gateway.sources import Offer
from gateway.tools.registry import ToolRegistry
from runtimes.mock import MockBackend
from sandbox import AsyncExec, Exec, SecretRef, Tool, ToolGroup, ToolId, ToolUnavailable

pytestmark = pytest.mark.anyio

Check = Callable[[], Any]


class Asked:
    """A provider whose health is what a test says, and that counts how often it was asked."""

    def __init__(self, check: Check | None = None) -> None:
        self.count = self.now = self.most = 0
        self.check = check

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        return None

    async def health(self) -> None:
        self.count += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.check is not None:
                await self.check()
        finally:
            self.now -= 1

    async def aclose(self) -> None: ...


class Circuit:
    """A breaker that is in the state that a test says."""

    def __init__(self) -> None:
        self.now = "closed"

    def state(self, tenant: str | None = None) -> str:
        return self.now

    def reset(self) -> None:
        self.now = "closed"

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        return await proceed(call)


class Source:
    def __init__(self, name: str, check: Check | None = None) -> None:
        self.name = name
        self.check = check

    @asynccontextmanager
    async def open(self, on_change: Callable[[], None]) -> AsyncIterator[None]:
        yield

    async def tools(self) -> Offer:
        return Offer((tool("look", Asked()),))

    async def health(self) -> None:
        if self.check is not None:
            await self.check()


async def broken() -> None:
    raise ConnectionRefusedError("nobody at home")


async def refused() -> None:
    raise ToolUnavailable("the shop", "it is closed")


async def cannot_say() -> None:
    raise NotImplementedError


def sleeps(seconds: float) -> Check:
    async def check() -> None:
        await anyio.sleep(seconds)

    return check


async def turns_cancellation_into_an_error() -> None:
    try:
        await anyio.sleep_forever()
    except BaseException:  # noqa: BLE001 - what some drivers do
        raise OSError("the driver was interrupted") from None


def tool(name: str, provider: Any, **fields: Any) -> Tool:
    return Tool(id=ToolId.parse(name), provider=provider, input_schema={"type": "object"}, **fields)


class World:
    """Health with a clock that a test moves."""

    def __init__(self, *tools: Tool, **options: Any) -> None:
        self.time = 100.0
        self.registry = ToolRegistry(tools)
        options = {"timeout_seconds": 0.05, "slow_seconds": 0.01} | options
        self.health = Health(Pipeline(Runner(self.registry)), clock=lambda: self.time, **options)


@pytest.mark.parametrize(
    ("check", "status", "error_type", "message"),
    [
        (None, "healthy", "", ""),
        (broken, "unhealthy", "ConnectionRefusedError", "ConnectionRefusedError: nobody at home"),
        (refused, "unhealthy", "ToolUnavailable", "the shop is not available: it is closed; try again later"),
        (sleeps(0.02), "degraded", "", "slow: it took"),
        (sleeps(60), "degraded", "", "no answer within 0.05 s"),
        (turns_cancellation_into_an_error, "degraded", "", "no answer within 0.05 s"),
        (cannot_say, "unknown", "", "it cannot be asked"),
    ],
)
async def test_what_a_tool_says_becomes_its_state(
    check: Check | None, status: str, error_type: str, message: str
) -> None:
    found = await World(tool("a:b", Asked(check))).health.tool("a:b")
    assert (found.tool_id, found.status, found.error_type, found.circuit) == ("a:b", status, error_type, "")
    assert found.message.startswith(message)
    assert found.latency_seconds >= 0


@pytest.mark.parametrize(
    ("state", "check", "status", "message"),
    [
        ("closed", None, "healthy", ""),
        ("half_open", None, "degraded", "its circuit is half open"),
        ("open", None, "unhealthy", "its circuit is open"),
        ("half_open", broken, "unhealthy", "ConnectionRefusedError: nobody at home"),
        ("open", sleeps(60), "unhealthy", "no answer within 0.05 s"),
        ("half_open", cannot_say, "degraded", "it cannot be asked"),
    ],
)
async def test_an_open_circuit_is_unhealthy_and_a_half_open_one_degraded(
    state: str, check: Check | None, status: str, message: str
) -> None:
    circuit = Circuit()
    world = World(tool("a", Asked(check), policies=Policies(breaker=circuit)))
    circuit.now = state
    found = await world.health.tool("a")
    assert (found.status, found.circuit, found.message) == (status, state, message)


async def test_a_circuit_is_looked_at_anew_while_the_answer_holds() -> None:
    circuit, asked = Circuit(), Asked()
    world = World(tool("a", asked, policies=Policies(breaker=circuit)))
    seen = []
    for state in ("closed", "open", "half_open", "closed"):
        circuit.now = state
        seen.append((await world.health.tool("a")).status)
    assert seen == ["healthy", "unhealthy", "degraded", "healthy"]
    assert asked.count == 1


async def test_an_answer_holds_for_30_seconds_for_each_tool_of_its_own() -> None:
    first, second = Asked(), Asked()
    world = World(tool("a", first), tool("b", second))
    await world.health.tool("a")
    world.time += 20
    await world.health.summary()
    world.time += 10
    await world.health.summary()
    assert (first.count, second.count) == (1, 1)
    world.time += 0.5
    await world.health.summary()
    assert (first.count, second.count) == (2, 1)
    await world.health.summary(refresh=True)
    assert (first.count, second.count) == (3, 2)


async def test_many_who_ask_at_once_get_one_answer() -> None:
    asked = Asked(sleeps(0.01))
    world = World(tool("a", asked))
    found = []

    async def ask(*, refresh: bool) -> None:
        found.append(await world.health.tool("a", refresh=refresh))

    async with anyio.create_task_group() as asking:
        for number in range(10):
            asking.start_soon(lambda refresh: ask(refresh=refresh), number % 2 == 0)
    assert (asked.count, len(set(found))) == (1, 1)


async def test_who_asks_first_and_is_cancelled_leaves_the_others_an_answer() -> None:
    begun = anyio.Event()

    async def check() -> None:
        if not begun.is_set():
            begun.set()
            await anyio.sleep_forever()

    asked = Asked(check)
    world = World(tool("a", asked), timeout_seconds=60.0, slow_seconds=60.0)
    found = []

    async def ask() -> None:
        found.append((await world.health.tool("a")).status)

    async with anyio.create_task_group() as asking:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as first:
                first.start_soon(world.health.tool, "a")
                await begun.wait()
                asking.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
    assert (found, asked.count) == (["healthy"], 2)


async def test_few_are_asked_at_the_same_time() -> None:
    asked = Asked(sleeps(0.001))
    world = World(*(tool(f"t{number}", asked) for number in range(50)))
    summary = await world.health.summary()
    assert (summary.total, asked.count, asked.most) == (50, 50, MAX_AT_ONCE)


async def test_the_worst_decides_and_disabled_tools_are_counted_apart() -> None:
    world = World(
        tool("a", Asked()), tool("b", Asked(sleeps(60))), tool("c", Asked(broken)), tool("d", Asked(cannot_say))
    )
    summary = await world.health.summary()
    assert summary.status is HealthStatus.UNHEALTHY
    counts = (summary.total, summary.healthy, summary.degraded, summary.unhealthy, summary.unknown, summary.disabled)
    assert counts == (4, 1, 1, 1, 1, 0)
    assert [one.tool_id for one in summary.tools] == ["a", "b", "c", "d"]
    world.registry.disable("c")
    summary = await world.health.summary()
    assert (summary.status, summary.total, summary.disabled) == (HealthStatus.DEGRADED, 3, 1)
    world.registry.disable("b")
    assert (await world.health.summary()).status is HealthStatus.HEALTHY
    with pytest.raises(ToolNotFound):
        await world.health.tool("b")


async def test_nothing_to_ask_is_unknown() -> None:
    summary = await World().health.summary()
    assert (summary.status, summary.total, summary.tools) == (HealthStatus.UNKNOWN, 0, ())
    assert worst([]) is HealthStatus.UNKNOWN
    assert worst([HealthStatus.UNKNOWN, HealthStatus.HEALTHY]) is HealthStatus.HEALTHY


async def test_another_tool_of_the_same_id_is_asked_anew() -> None:
    old, new = Asked(), Asked(broken)
    world = World()
    world.registry.replace_all("s", [tool("a:b", old)])
    assert (await world.health.tool("a:b")).status is HealthStatus.HEALTHY
    world.registry.replace_all("s", [tool("a:b", new)])
    assert (await world.health.tool("a:b")).status is HealthStatus.UNHEALTHY
    world.registry.unregister("a:b")
    assert (world.health._answers, world.health._asking) == ({}, {})


async def test_an_answer_about_a_tool_that_is_gone_is_not_kept() -> None:
    world = World()

    async def check() -> None:
        world.registry.unregister("a")

    world.registry.register(tool("a", Asked(check)))
    await world.health.tool("a")
    assert (world.health._answers, world.health._asking) == ({}, {})


@pytest.mark.parametrize("options", [{"timeout_seconds": 0}, {"slow_seconds": -1}])
async def test_times_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        World(**options)


async def test_an_exec_sums_up_tools_and_sources() -> None:
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        assert (await host.health()).status == "unknown"
        host.register(tool("a", Asked()))
        await host.connect(Source("good"), Source("bad", broken))
        summary = await host.health()
        assert (summary.status, summary.total, summary.healthy) == ("unhealthy", 3, 3)
        assert [(one.name, one.status, one.error_type) for one in summary.sources] == [
            ("bad", "unhealthy", "ConnectionRefusedError"),
            ("good", "healthy", ""),
        ]
        assert (await host.tool_health("good:look")).status == "healthy"
        with pytest.raises(ToolNotFound):
            await host.tool_health("nowhere")


def test_without_an_event_loop() -> None:
    with Exec(backends={"mock": MockBackend}) as exec:
        exec.register(tool("a", Asked(broken)))
        assert exec.health(refresh=True).unhealthy == 1
        assert exec.tool_health("a").status == "unhealthy"


async def test_a_check_may_use_the_secrets_of_the_host_and_none_is_told() -> None:
    secret = "s3cr3t-" + "x" * 20

    async def check() -> None:
        raise PermissionError(f"the key {revealed(SecretRef('key'))} is not known")

    async with AsyncExec(backends={"mock": MockBackend}, secrets={"key": secret}) as host:
        host.register(tool("a", Asked(check)))
        found = await host.tool_health("a")
    assert (found.status, found.error_type) == ("unhealthy", "PermissionError")
    assert secret not in found.message


async def test_a_group_does_not_choose_a_tool_that_said_it_is_unhealthy() -> None:
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        host.register(tool("sick", Asked(broken)), tool("well", Asked()))
        group = ToolGroup("any", ["sick", "well"])
        assert (await host.select_tool(group)).tool_id in group.tools
        await host.health()
        assert {(await host.select_tool(group)).tool_id for _ in range(5)} == {"well"}
