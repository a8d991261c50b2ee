"""A tool that fails on command, behind policies, with time and chance in the test's hands."""

import itertools
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio

from gateway.base import JsonValue, ToolEvent
from gateway.context import Caller
from gateway.direct import DirectGateway
from gateway.errors import ToolError, ToolUnavailable
from gateway.grant import Grant
from gateway.journal.base import ToolCall
from gateway.journal.memory import MemoryJournal
from gateway.payload import Encoded
from gateway.pipeline import Pipeline
from gateway.policies.base import Call, Policies, Proceed, Services
from gateway.providers.function import function_tool
from gateway.runner import Runner
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch

_executions = itertools.count()


class Time:
    """A clock that stands still unless somebody sleeps by it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 9))
        self.now += seconds
        await anyio.lowlevel.checkpoint()


class Chance(random.Random):
    """Always gives this end of a range: -1 the lower one, 1 the upper one."""

    end = 1.0

    def uniform(self, a: float, b: float) -> float:
        return b if self.end > 0 else a


class Hears:
    """A policy in the outermost slot that keeps what the others tell."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Mapping[str, JsonValue]]] = []

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        call.tell_of = lambda _, kind, details: self.told.append((kind, details))
        return await proceed(call)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]


class Key:
    """A policy that gives every call a key."""

    def key(self, call: Call) -> str:
        return f"key-{call.context.call_index}"

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        return await proceed(call)


def away(**details: Any) -> ToolUnavailable:
    error = ToolUnavailable("the far end", "it is away")
    error.details |= details
    return error


class Faulty:
    """One tool, `work`. It raises the `faults` one after another, and answers when there are none left."""

    def __init__(self, *faults: BaseException | None, read_only: bool | None = True, **policies: Any) -> None:
        self.faults = list(faults)
        self.always: BaseException | None = None
        self.attempts = 0
        self.under_way = 0
        self.most_under_way = 0
        self.during: Callable[[], Any] | None = None
        self.time = Time()
        self.chance = Chance()
        self.hears = Hears()
        chosen = Policies(**{"usage": self.hears, **policies})
        options: dict[str, Any] = {"policies": chosen} | ({} if read_only is None else {"read_only": read_only})
        self.registry = ToolRegistry(
            [
                function_tool(self.work, timeout_seconds=5, **options),
                function_tool(self.other, **options),
                function_tool(self.count, timeout_seconds=5, **options),
            ]
        )
        services = Services(clock=self.time.clock, sleep=self.time.sleep, random=self.chance)
        self.pipeline = Pipeline(Runner(self.registry), services)
        self.calls: tuple[ToolCall, ...] = ()

    async def work(self, n: int = 0) -> int:
        self.attempts += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.during is not None:
                await self.during()
            self._fail()
        finally:
            self.under_way -= 1
        return n

    async def other(self) -> str:
        return "fine"

    async def count(self, before: int = 0) -> AsyncIterator[int]:
        """Give `before` numbers, then fail if there is a fault, then one more."""
        self.attempts += 1
        if self.during is not None:
            await self.during()
        for number in range(before):
            yield number
        self._fail()
        yield -1

    def _fail(self) -> None:
        fault = self.faults.pop(0) if self.faults else self.always
        if fault is not None:
            raise fault

    def gateway(self, execution_id: str = "e", tenant: str = "") -> DirectGateway:
        grant = Grant(execution_id=execution_id, caller=Caller(tenant_id=tenant))
        return DirectGateway(grant, self.pipeline, self.registry, ToolSearch(self.registry), MemoryJournal())

    async def run(self, n: int = 0, *, execution_id: str = "", tenant: str = "", **options: Any) -> JsonValue:
        """One call, as an execution of its own unless one is named; `calls` is its record."""
        gateway = self.gateway(execution_id or f"e{next(_executions)}", tenant)
        try:
            return await gateway.run_tool("work", {"n": n}, **options)
        finally:
            self.calls = gateway.calls

    async def stream(self, before: int, **options: Any) -> list[ToolEvent]:
        """What a stream of `count` says; `calls` is its record."""
        gateway = self.gateway()
        events = gateway.stream_tool("count", {"before": before}, **options)
        try:
            return [event async for event in events]
        finally:
            await events.aclose()
            self.calls = gateway.calls

    async def fails(self, **options: Any) -> ToolError:
        """The error of a call that must fail."""
        try:
            value = await self.run(**options)
        except ToolError as error:
            return error
        raise AssertionError(f"it gave {value!r}")

    @property
    def usage(self) -> Mapping[str, JsonValue]:
        return self.calls[-1].usage
