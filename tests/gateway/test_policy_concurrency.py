"""A limit on calls at a time: held, fair, and left in order however a call ends."""

import contextlib
import dataclasses
import time
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import DeadlineExceeded, InvalidRequest, ToolError
from gateway.journal.base import CallStatus
from gateway.policies.base import Policies
from gateway.policies.concurrency import ConcurrencyLimit
from gateway.policies.kinds import policies_from_json, policies_json
from gateway.policies.retry import FixedRetry
from sandbox import AsyncExec, ParallelCall
from tests.gateway.faulty import Faulty, away

pytestmark = pytest.mark.anyio


def limited(most: int, **more: Any) -> Faulty:
    return Faulty(concurrency=ConcurrencyLimit(max_in_flight=most, **more))


def kept(world: Faulty) -> int:
    """Of how many tenants places are kept."""
    limiter: Any = world.pipeline.policies("concurrency")["work"]
    return len(limiter._places)


@pytest.mark.parametrize("most", [1, 3])
async def test_no_more_are_under_way_than_permitted(most: int) -> None:
    world = limited(most)
    world.during = lambda: anyio.sleep(0.001)
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(world.run)
    assert (world.most_under_way, world.attempts, kept(world)) == (most, 20, 0)


async def test_whoever_waits_longest_is_next() -> None:
    world = limited(1)
    order: list[int] = []
    go = anyio.Event()

    async def one(number: int) -> None:
        await world.run(number)
        order.append(number)

    world.during = go.wait
    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(one, number)
            await anyio.wait_all_tasks_blocked()
        go.set()
        tasks.start_soon(one, 6)  # comes last, when a place is about to be free
    assert order == list(range(7))


async def test_who_waited_is_told_and_recorded() -> None:
    world = limited(1)
    go = anyio.Event()
    world.during = go.wait
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.run)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(world.run)
        await anyio.wait_all_tasks_blocked()
        assert world.hears.told == [("queued", {"waiting": 1})]
        go.set()
    assert world.usage["decisions"] == ["waited for one of 1 places"]


async def test_waiting_ends_with_the_calls_time() -> None:
    world = limited(1)
    go = anyio.Event()
    world.during = go.wait
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.run)
        await anyio.wait_all_tasks_blocked()
        error = await world.fails(timeout_seconds=0.02)
        assert (error.code, error.retryable, error.details["sent"]) == ("timeout", True, False)
        assert (world.calls[0].status, world.attempts) == (CallStatus.REFUSED, 1)
        gateway = world.gateway()
        gateway.grant.deadline = time.monotonic() + 0.02
        with pytest.raises(DeadlineExceeded):
            await gateway.run_tool("work", {})
        go.set()
    assert await world.run(3) == 3


async def test_waiting_ends_sooner_where_that_is_asked_for() -> None:
    world = limited(1, wait_seconds=0.02)
    go = anyio.Event()
    world.during = go.wait
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.run)
        await anyio.wait_all_tasks_blocked()
        error = await world.fails(timeout_seconds=60)
        assert (error.code, error.details) == ("rate_limited", {"retry_after_seconds": 0.02, "sent": False})
        assert world.hears.kinds == ["queued", "rate_limited"]
        go.set()


async def test_waiting_without_a_deadline_ends_with_the_tools_time() -> None:
    world = limited(1)
    world.during = anyio.sleep_forever
    tool = world.registry.resolve("work").tool
    world.registry.unregister("work")
    world.registry.register(dataclasses.replace(tool, timeout_seconds=0.05))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.fails)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(world.fails)
        assert (await world.fails()).code in {"rate_limited", "timeout"}
    assert kept(world) == 0


async def test_tenants_have_places_of_their_own_where_that_is_asked_for() -> None:
    for per_tenant, under_way in ((False, 1), (True, 2)):
        world = limited(1, per_tenant=per_tenant)
        go = anyio.Event()
        world.during = go.wait
        async with anyio.create_task_group() as tasks:
            for tenant in ("acme", "acme", "zeta"):
                tasks.start_soon(_run_as, world, tenant)
            await anyio.wait_all_tasks_blocked()
            assert world.under_way == under_way
            go.set()
        assert kept(world) == 0


async def _run_as(world: Faulty, tenant: str) -> None:
    await world.run(tenant=tenant)


async def test_a_failure_frees_the_place() -> None:
    world = limited(1)
    world.faults = [away(), LookupError("no row")]
    await world.fails()
    await world.fails()
    assert await world.run(1) == 1


async def test_between_retries_the_place_is_free() -> None:
    world = Faulty(away(), retry=FixedRetry(), concurrency=ConcurrencyLimit(max_in_flight=1))

    async def another(_: float) -> None:
        assert world.under_way == 0
        assert await world.run(2) == 2

    world.pipeline.services = dataclasses.replace(world.pipeline.services, sleep=another)
    assert await world.run(1) == 1


@settings(max_examples=25, deadline=None)
@given(
    most=st.integers(1, 3),
    calls=st.lists(st.tuples(st.sampled_from(["run", "cancel", "fail"]), st.integers(0, 3)), max_size=15),
)
def test_however_calls_end_no_place_is_lost(most: int, calls: list[tuple[str, int]]) -> None:
    world = limited(most)

    async def one(how: str, turns: int) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, how)
                for _ in range(turns * 5):
                    await anyio.lowlevel.checkpoint()
                if how == "cancel":
                    scope.cancel()

    async def call(how: str) -> None:
        world.faults = [away()] if how == "fail" else []
        with contextlib.suppress(ToolError):
            await world.gateway().run_tool("work", {})

    async def during() -> None:
        for _ in range(7):
            await anyio.lowlevel.checkpoint()

    async def main() -> None:
        world.during = during
        async with anyio.create_task_group() as tasks:
            for how, turns in calls:
                tasks.start_soon(one, how, turns)
        world.during, world.faults = None, []
        with anyio.fail_after(5):
            assert await world.run(9) == 9

    anyio.run(main)
    assert world.most_under_way <= most
    assert kept(world) == 0


async def test_a_batch_passes_the_limit_through_exec() -> None:
    most, now = 0, 0
    async with AsyncExec() as exec:

        @exec.tool(read_only=True, policies=Policies(concurrency=ConcurrencyLimit(max_in_flight=2)))
        async def work() -> None:
            nonlocal most, now
            now += 1
            most = max(most, now)
            await anyio.sleep(0.001)
            now -= 1

        outcomes = await exec.run_parallel([ParallelCall("work", {})] * 10)
        assert [outcome.ok for outcome in outcomes] == [True] * 10
        assert most == 2


@pytest.mark.parametrize("numbers", [{"max_in_flight": 0}, {"max_in_flight": -1}, {"max_in_flight": 1.5}])
def test_wrong_numbers_are_refused_when_they_are_written(numbers: Any) -> None:
    with pytest.raises(InvalidRequest, match="max_in_flight"):
        ConcurrencyLimit(**numbers)
    with pytest.raises(InvalidRequest, match="wait_seconds"):
        ConcurrencyLimit(max_in_flight=1, wait_seconds=0)


def test_it_can_be_written_down_and_read_back() -> None:
    policies = Policies(concurrency=ConcurrencyLimit(max_in_flight=4, per_tenant=True, wait_seconds=1.5))
    assert policies_from_json(policies_json(policies)) == policies
    with pytest.raises(InvalidRequest, match="concurrency of kind limit: max_in_flight"):
        policies_from_json({"concurrency": {"kind": "limit"}})
