"""Many calls for a while: nothing is left when they have ended, and nothing grows while they go on.

`TOOLEXEC_SOAK_SECONDS` makes it longer: `make soak` takes a minute.
"""

import asyncio
import dataclasses
import gc
import logging
import os
import time
import types
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gateway.events import CallEvent
from gateway.journal.base import Lease, Record
from gateway.journal.memory import MemoryJournal
from gateway.policies.base import Policies
from gateway.policies.kinds import policies_from_json
from gateway.providers.http import HttpApi
from runtimes.mock import MockBackend, MockGuest
from sandbox import AsyncExec, Caller, ParallelCall
from tests.gateway.http_server import response, serving

pytestmark = [pytest.mark.anyio, pytest.mark.alone]

SECONDS = float(os.environ.get("TOOLEXEC_SOAK_SECONDS", "2"))
LOOPS, AT_ONCE = 20, 5
_ELSEWHERE = (type, types.ModuleType, types.FunctionType, types.FrameType, asyncio.AbstractEventLoop, asyncio.Future)
"""From these everything can be reached, what a test keeps for itself too."""


class Forgetful(MemoryJournal):
    """Keeps nothing, so that what grows is not the records."""

    async def append(self, *records: Record, lease: Lease | None = None) -> None: ...


async def double(n: int) -> int:
    """Double."""
    await anyio.lowlevel.checkpoint()
    return 2 * n


def thread(n: int) -> int:
    """Triple, in a thread."""
    return 3 * n


async def script(guest: MockGuest) -> Any:
    return await guest.run_tool("double", {"n": 1})


def held(root: Any) -> int:
    """How many things are in all containers that can be reached from here."""
    seen, found, todo = {id(root)}, 0, deque([root])
    while todo:
        one = todo.popleft()
        if isinstance(one, dict | list | set | deque):
            found += len(one)
        for inner in gc.get_referents(one):
            if id(inner) not in seen and not isinstance(inner, _ELSEWHERE):
                seen.add(id(inner))
                todo.append(inner)
    return found


class World:
    def __init__(self, host: AsyncExec) -> None:
        self.host = host
        self.made = self.failed = self.heard = 0

    async def work(self, number: int, until: float) -> None:
        """Batches of five, as one of a few tenants; now and then one that is cancelled."""
        caller = Caller(tenant_id=f"tenant-{number % 4}", user_id=f"user-{number}", role="clerk")
        batch = [
            *(ParallelCall(tool, {"n": number % 3}) for tool in ("double", "thread", "shop:get", "shop:get")),
            ParallelCall(f"nowhere-{self.made}", {}),
        ]
        while time.monotonic() < until:
            outcomes = await self.host.run_parallel(batch, caller=caller, max_concurrent=AT_ONCE)
            self.made += len(outcomes)
            self.failed += sum(not outcome.ok for outcome in outcomes)
            result = await self.host.execute_code("…", profile="dev", caller=caller)
            assert result.value == 2
            with anyio.move_on_after(0.0005):
                await self.host.run_tool("shop:get", {"n": 7}, caller=caller)

    async def round(self, seconds: float) -> None:
        async with anyio.create_task_group() as loops:
            for number in range(LOOPS):
                loops.start_soon(self.work, number, time.monotonic() + seconds)

    async def hear(self, _: CallEvent) -> None:
        self.heard += 1

    def held(self) -> int:
        gc.collect()
        return held(self.host)


def policies() -> Policies:
    return policies_from_json(
        {
            "retry": {"kind": "exponential", "max_attempts": 2, "base_delay_seconds": 0.001},
            "breaker": {"kind": "standard", "failure_threshold": 1_000_000, "per_tenant": True},
            "concurrency": {"kind": "limit", "max_in_flight": 50},
            "rate_limit": {"kind": "token_bucket", "calls": 1_000_000, "per_seconds": 1, "scope": "user"},
            "cache": {"kind": "lru", "ttl_seconds": 0.05, "max_entries": 2},
            "idempotency": {"kind": "default", "ttl_seconds": 0.05},
        }
    )


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """pytest keeps every line of a log, which is growth of its own; and what earlier tests left is not of this one."""
    with warnings.catch_warnings(action="ignore"):
        gc.collect()
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(60 + 3 * SECONDS)
async def test_calls_for_a_while_leave_nothing_and_nothing_grows() -> None:
    busy = 0

    async def answer(seen: Any, writer: Any) -> None:
        nonlocal busy
        busy += 1
        writer.write(response("1", status="503 Busy") if busy % 7 == 0 else response("1"))

    before = asyncio.all_tasks()
    async with serving(answer) as server:
        mock = MockBackend.scripted(script)
        host = AsyncExec(backends={"mock": mock}, journal=Forgetful(), metrics=True, tool_policies=policies())
        world = World(host)
        host.observe(world.hear, max_behind=100)
        host.observe(lambda _: time.sleep(0.001), max_behind=100)
        host.tool(read_only=True)(double)
        host.tool(thread)
        get = HttpApi(base_url=server.url).tool("shop:get", "GET", "/{n}")
        host.register(dataclasses.replace(get, read_only=True))
        await world.round(SECONDS / 2)
        first = world.held()
        await world.round(SECONDS / 2)
        second = world.held()
        await host.aclose()
        with anyio.fail_after(5):
            while server.open:  # noqa: ASYNC110 - a server hears of the end of a connection when it does
                await anyio.sleep(0.01)
    assert world.made >= LOOPS * AT_ONCE
    assert world.heard
    assert world.failed >= world.made // 5
    assert second <= first * 1.05 + 200, (first, second, world.made)
    assert asyncio.all_tasks() <= before
