"""Batches: independent calls at the same time."""

import time

import anyio
import pytest

from gateway.base import MAX_BATCH, JsonValue, ParallelCall
from gateway.errors import BudgetExceeded, ToolError, ToolFailed
from gateway.grant import Grant
from gateway.parallel import MAX_IN_FLIGHT, run_parallel

pytestmark = pytest.mark.anyio


class Calls:
    """Sleeps for `seconds`, and fails when asked to."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0

    async def __call__(self, tool_id: str, arguments: JsonValue, flaw: ToolError | None = None) -> JsonValue:
        self.running += 1
        self.most = max(self.most, self.running)
        await anyio.sleep(arguments.get("seconds", 0))
        self.running -= 1
        if tool_id == "fail":
            raise ToolFailed("ValueError: no")
        if tool_id == "break":
            raise OSError("disk full")
        return arguments["n"]


async def test_outcomes_come_in_the_order_of_the_calls() -> None:
    calls = [ParallelCall("a", {"n": number, "seconds": 0.1 - number / 100}) for number in range(10)]
    started = time.monotonic()
    outcomes = await run_parallel(calls, Grant(), Calls())
    assert [outcome.value for outcome in outcomes] == list(range(10))
    assert time.monotonic() - started < 0.4
    assert await run_parallel([], Grant(), Calls()) == ()


async def test_a_failure_stays_alone() -> None:
    outcomes = await run_parallel(
        [ParallelCall("a", {"n": 1}), ParallelCall("fail", {}), ParallelCall("a", {"n": 3})], Grant(), Calls()
    )
    assert [(outcome.ok, outcome.value) for outcome in outcomes] == [(True, 1), (False, None), (True, 3)]
    assert outcomes[1].error is not None
    assert outcomes[1].error["code"] == "tool_failed"


async def test_the_number_in_flight_is_bounded() -> None:
    calls = Calls()
    batch = [ParallelCall("a", {"n": number, "seconds": 0.001}) for number in range(MAX_BATCH)]
    grant = Grant(tool_calls=MAX_BATCH)
    assert len(await run_parallel(batch, grant, calls)) == MAX_BATCH
    assert calls.most == MAX_IN_FLIGHT
    assert grant.used_calls == MAX_BATCH


@pytest.mark.parametrize(("count", "allowed", "limit"), [(3, 2, "tool_calls"), (MAX_BATCH + 1, None, "batch")])
async def test_a_batch_that_does_not_fit_calls_nothing(count: int, allowed: int | None, limit: str) -> None:
    calls = Calls()
    grant = Grant(tool_calls=allowed)
    with pytest.raises(BudgetExceeded) as caught:
        await run_parallel([ParallelCall("a", {"n": 1})] * count, grant, calls)
    assert caught.value.details["limit"] == limit
    assert (calls.most, grant.used_calls) == (0, 0)


async def test_the_hosts_own_failure_is_not_a_group() -> None:
    grant = Grant(tool_calls=100)
    with pytest.raises(OSError, match="disk full"):
        await run_parallel(
            [ParallelCall("break", {})] + [ParallelCall("a", {"n": 1, "seconds": 5})] * 99, grant, Calls()
        )
    assert grant.used_calls == MAX_IN_FLIGHT


async def test_cancellation_ends_all_of_them() -> None:
    grant = Grant(tool_calls=100)
    with anyio.move_on_after(0.05) as scope:
        await run_parallel([ParallelCall("a", {"n": 1, "seconds": 5})] * 100, grant, Calls())
    assert scope.cancelled_caught
    assert grant.used_calls == MAX_IN_FLIGHT
