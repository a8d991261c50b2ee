"""Policies around calls: their order, what they may do, how long they live, and what is recorded of it."""

import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from gateway.base import JsonValue
from gateway.direct import DirectGateway
from gateway.errors import InvalidInput, InvalidRequest, RateLimited, ToolFailed
from gateway.grant import Grant
from gateway.journal.base import CallStarted, CallStatus
from gateway.journal.memory import MemoryJournal
from gateway.payload import Encoded, normalise
from gateway.pipeline import MAX_UNREGISTERED, Pipeline
from gateway.policies.base import SLOTS, Call, Policies, Policy, Proceed, Services
from gateway.policies.cache import ResultCache
from gateway.policies.idempotency import Idempotency
from gateway.providers.function import function_tool
from gateway.runner import Runner
from gateway.tools.model import Tool, ToolId
from gateway.tools.registry import RegisteredTool, ToolRegistry
from gateway.tools.search import ToolSearch
from sandbox import AsyncExec

pytestmark = pytest.mark.anyio


@dataclass
class Passed:
    """A policy that says when a call comes by."""

    name: str
    seen: list[str]

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        self.seen.append(self.name)
        try:
            return await proceed(call)
        finally:
            self.seen.append(f"/{self.name}")


class Twice:
    """Makes every attempt twice."""

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        await proceed(call)
        return await proceed(call)


class Refuses:
    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        call.usage.decisions.append("no room")
        raise RateLimited(call.tool.id, 2.0)


class Elsewhere:
    """Has the result already; its key is that of the call."""

    def key(self, call: Call) -> str:
        if call.arguments.get("n") == 0:
            raise InvalidInput("0 has no key")
        return f"key-{call.arguments['n']}"

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        call.usage.idempotency_reused = True
        return normalise(["known", call.key])


@dataclass(frozen=True)
class Doubling:
    """A config of two attempts."""

    kind: ClassVar[str] = "doubling"
    on: bool = True

    def build(self, tool: RegisteredTool, services: Services) -> Policy | None:
        return Twice() if self.on else None


class World:
    def __init__(self, policies: Policies, **more: Any) -> None:
        self.calls: list[JsonValue] = []
        self.registry = ToolRegistry(
            [
                function_tool(self.take, policies=policies),
                function_tool(self.numbers, policies=policies),
                function_tool(self.fail, policies=policies),
            ]
        )
        self.journal = MemoryJournal()
        self.pipeline = Pipeline(Runner(self.registry), **more)
        registry = self.registry
        self.gateway = DirectGateway(
            Grant(execution_id="e"), self.pipeline, registry, ToolSearch(registry), self.journal
        )

    async def take(self, n: int, items: list[int] | None = None) -> int:
        """Spoil the arguments."""
        self.calls.append([n, list(items or ())])
        if items is not None:
            items.clear()
        return n

    async def numbers(self, n: int) -> AsyncIterator[int]:
        self.calls.append(n)
        for number in range(n):
            yield number

    async def fail(self, n: int) -> None:
        self.calls.append(n)
        raise LookupError("no row")


def size(n: int) -> int:
    return n


async def test_a_call_passes_every_slot_in_order_and_then_the_tool() -> None:
    seen: list[str] = []
    world = World(Policies(**{slot: Passed(slot, seen) for slot in reversed(SLOTS)}))
    assert await world.gateway.run_tool("take", {"n": 1}) == 1
    assert seen == [*SLOTS, *(f"/{slot}" for slot in reversed(SLOTS))]
    assert SLOTS.index("access") < SLOTS.index("egress") < SLOTS.index("idempotency") < SLOTS.index("cache")
    assert SLOTS.index("cache") < SLOTS.index("rate_limit") < SLOTS.index("breaker") < SLOTS.index("retry")


async def test_a_default_leaves_alone_the_tools_that_it_does_not_fit() -> None:
    defaults = Policies(cache=ResultCache(similar="query"), idempotency=Idempotency(key_fields=("order",)))
    async with AsyncExec(tool_policies=defaults) as exec:
        ran: list[str] = []

        @exec.tool(read_only=True)
        def read(query: str = "") -> None:
            ran.append("read")

        @exec.tool(read_only=True)
        def look() -> None:
            ran.append("look")

        @exec.tool
        def pay(order: str = "1") -> None:
            ran.append("pay")

        @exec.tool
        def write() -> None:
            ran.append("write")

        for name in ("read", "look", "pay", "write") * 2:
            await exec.run_tool(name)
        assert sorted(ran) == ["look", "look", "pay", "read", "write", "write"]
        for own in (Policies(cache=ResultCache(similar="query")), Policies(idempotency=defaults.idempotency)):
            with pytest.raises(InvalidRequest, match="has no argument"):
                exec.tool(name="mine", read_only=own.cache is not None, policies=own)(look)


class Odd:
    """A validator: no even numbers."""

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        if call.arguments["n"] % 2 == 0:
            raise InvalidInput(f"n must be odd, not {call.arguments['n']}")
        return await proceed(call)


async def test_a_validator_of_ones_own() -> None:
    world = World(Policies(access=Odd()))
    assert await world.gateway.run_tool("take", {"n": 1}) == 1
    with pytest.raises(InvalidInput, match="n must be odd, not 2"):
        await world.gateway.run_tool("take", {"n": 2})
    assert world.calls == [[1, []]]
    assert [call.status for call in world.gateway.calls] == [CallStatus.COMPLETED, CallStatus.REFUSED]


async def test_what_does_not_fit_meets_no_policy() -> None:
    seen: list[str] = []
    world = World(Policies(access=Passed("access", seen)))
    with pytest.raises(InvalidInput):
        await world.gateway.run_tool("take", {"n": "x"})
    assert seen == []


async def test_every_attempt_has_arguments_of_its_own() -> None:
    world = World(Policies(retry=Twice()))
    assert await world.gateway.run_tool("take", {"n": 1, "items": [1, 2]}) == 1
    assert world.calls == [[1, [1, 2]], [1, [1, 2]]]
    assert world.gateway.calls[0].attempts == 2


async def test_a_refusal_is_recorded_with_what_was_decided_and_reaches_nothing() -> None:
    world = World(Policies(rate_limit=Refuses()))
    with pytest.raises(RateLimited):
        await world.gateway.run_tool("take", {"n": 1})
    call = world.gateway.calls[0]
    assert (call.status, call.attempts, world.calls) == (CallStatus.REFUSED, 0, [])
    assert call.usage == {"input_bytes": 7, "decisions": ["no room"]}


async def test_a_tool_that_failed_was_not_refused() -> None:
    world = World(Policies(rate_limit=Passed("rate_limit", [])))
    with pytest.raises(ToolFailed):
        await world.gateway.run_tool("fail", {"n": 1})
    assert (world.gateway.calls[0].status, world.gateway.calls[0].attempts) == (CallStatus.FAILED, 1)


async def test_the_key_is_recorded_before_the_call_is_made() -> None:
    world = World(Policies(idempotency=Elsewhere()))
    assert await world.gateway.run_tool("take", {"n": 7}) == ["known", "key-7"]
    started = (await world.journal.records("e"))[0]
    assert isinstance(started, CallStarted)
    assert started.key == "key-7"
    call = world.gateway.calls[0]
    assert (call.key, call.attempts, call.usage["idempotency_reused"]) == ("key-7", 0, True)


async def test_a_call_whose_key_cannot_be_made_is_recorded_and_not_made() -> None:
    world = World(Policies(idempotency=Elsewhere()))
    with pytest.raises(InvalidInput, match="0 has no key"):
        await world.gateway.run_tool("take", {"n": 0})
    assert (world.gateway.calls[0].status, world.calls) == (CallStatus.FAILED, [])


async def test_streams_pass_policies_too() -> None:
    seen: list[str] = []
    world = World(Policies(access=Passed("access", seen)))
    events = world.gateway.stream_tool("numbers", {"n": 3})
    found = [(event.kind, event.data) async for event in events]
    await events.aclose()
    assert found == [("chunk", 0), ("chunk", 1), ("chunk", 2), ("done", None)]
    assert seen == ["access", "/access"]
    assert (world.gateway.calls[0].result, world.gateway.calls[0].usage["output_bytes"]) == ([0, 1, 2], 7)


async def test_a_policy_lives_as_long_as_its_tool_is_registered() -> None:
    world = World(Policies(retry=Doubling()))
    first = world.pipeline.policy(world.registry.resolve("take"), "retry")
    await world.gateway.run_tool("take", {"n": 1})
    assert world.pipeline.policy(world.registry.resolve("take"), "retry") is first
    tool = world.registry.resolve("take").tool
    world.registry.unregister("take")
    world.registry.register(tool)
    assert world.pipeline.policy(world.registry.resolve("take"), "retry") is not first


async def test_an_update_of_the_tool_keeps_the_state_of_its_policies() -> None:
    doubling = Doubling()
    tool = function_tool(size, policies=Policies(retry=doubling))
    registry = ToolRegistry()
    registry.replace_all("source", [tool])
    pipeline = Pipeline(Runner(registry))
    before = pipeline.policy(registry.resolve("size"), "retry")
    registry.replace_all("source", [dataclasses.replace(tool, description="another")])
    assert pipeline.policy(registry.resolve("size"), "retry") is before
    registry.replace_all("source", [dataclasses.replace(tool, policies=Policies())])
    assert pipeline.policy(registry.resolve("size"), "retry") is None


async def test_defaults_are_for_tools_that_choose_none_and_slots_can_be_disabled() -> None:
    seen: list[str] = []
    own = Policies(access=Passed("own", seen))
    defaults = Policies(access=Passed("default", seen), cache=Passed("cache", seen), retry=Passed("retry", seen))
    world = World(own, defaults=defaults, disabled=frozenset({"cache"}))
    await world.gateway.run_tool("take", {"n": 1})
    assert seen == ["own", "retry", "/retry", "/own"]
    assert set(world.pipeline.policies("retry")) == {"take", "numbers", "fail"}
    assert world.pipeline.policies("cache") == {}


async def test_a_config_may_say_that_there_is_nothing_to_do() -> None:
    world = World(Policies(retry=Doubling(on=False)))
    assert await world.gateway.run_tool("take", {"n": 1}) == 1
    assert world.pipeline.policies("retry") == {}


@pytest.mark.parametrize("choice", [3, "fixed", object(), Passed])
def test_what_is_no_policy_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidRequest, match="policy retry"):
        Policies(retry=choice)


class Fussy:
    """A config that fits no tool."""

    kind: ClassVar[str] = "fussy"

    def build(self, tool: RegisteredTool, services: Services) -> Policy | None:
        raise InvalidRequest(f"{tool.id} is not good enough")


async def test_a_tool_whose_policies_do_not_fit_is_not_added_in_whichever_way() -> None:
    world = World(Policies())
    fussy = function_tool(size, policies=Policies(retry=Fussy()))
    with pytest.raises(InvalidRequest, match="size is not good enough"):
        world.registry.register_all([function_tool(size, name="fine"), fussy])
    with pytest.raises(InvalidRequest, match="size is not good enough"):
        world.registry.replace_all("source", [fussy])
    assert {tool.id for tool in world.registry.tools()} == {"take", "numbers", "fail"}


async def test_a_refused_replacement_leaves_the_policies_in_use_alone() -> None:
    doubling = Doubling()
    tool = function_tool(size, policies=Policies(retry=doubling))
    registry = ToolRegistry()
    pipeline = Pipeline(Runner(registry))
    registry.replace_all("source", [tool])
    before = pipeline.policy(registry.resolve("size"), "retry")
    with pytest.raises(InvalidRequest):
        registry.replace_all("source", [dataclasses.replace(tool, policies=Policies(retry=Fussy()))])
    assert pipeline.policy(registry.resolve("size"), "retry") is before


async def test_policies_of_tools_that_are_not_registered_are_kept_for_so_many() -> None:
    policies = Policies(retry=Doubling())

    def resolve(tool_id: ToolId) -> Tool:
        return function_tool(size, name=tool_id.name, policies=policies)

    registry = ToolRegistry([function_tool(size, policies=policies)], resolvers=[resolve])
    pipeline = Pipeline(Runner(registry))
    own = pipeline.policy(registry.resolve("size"), "retry")
    first = await registry.lookup("t0")
    assert first is not None
    kept = pipeline.policy(first, "retry")
    for number in range(1, MAX_UNREGISTERED + 1):
        found = await registry.lookup(f"t{number}")
        assert found is not None
        pipeline.policy(found, "retry")
    assert pipeline.policy(registry.resolve("size"), "retry") is own
    assert pipeline.policy(first, "retry") is not kept
