"""Batches: independent calls at the same time."""

import time

import anyio
import pytest

from gateway.base import MAX_BATCH, JsonValue, ParallelCall
from gateway.chain import Time, Took
from gateway.errors import BudgetExceeded, InvalidInput, ToolError, ToolFailed
from gateway.grant import Grant
from gateway.parallel import MAX_IN_FLIGHT, Access, run_parallel

pytestmark = pytest.mark.anyio


class Calls:
    """Sleeps for `seconds`, and fails when asked to."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0

    async def __call__(
        self,
        tool_id: str,
        arguments: JsonValue,
        *,
        position: int,
        took: Took,
        flaw: ToolError | None = None,
        timeout_seconds: float | None = None,
    ) -> JsonValue:
        self.running += 1
        self.most = max(self.most, self.running)
        await anyio.sleep(arguments.get("seconds", 0))
        self.running -= 1
        if tool_id == "fail":
            raise ToolFailed("ValueError: no")
        if tool_id == "break":
            raise OSError("disk full")
        return arguments["n"]


def independent(call: ParallelCall) -> Access | None:
    """Nothing disturbs anything."""
    return None


async def test_outcomes_come_in_the_order_of_the_calls() -> None:
    calls = [ParallelCall("a", {"n": number, "seconds": 0.1 - number / 100}) for number in range(10)]
    started = time.monotonic()
    outcomes = await run_parallel(calls, Grant(), Calls(), independent, Time(None))
    assert [outcome.value for outcome in outcomes] == list(range(10))
    assert time.monotonic() - started < 0.4
    assert await run_parallel([], Grant(), Calls(), independent, Time(None)) == ()


async def test_a_failure_stays_alone() -> None:
    outcomes = await run_parallel(
        [ParallelCall("a", {"n": 1}), ParallelCall("fail", {}), ParallelCall("a", {"n": 3})],
        Grant(),
        Calls(),
        independent,
        Time(None),
    )
    assert [(outcome.ok, outcome.value) for outcome in outcomes] == [(True, 1), (False, None), (True, 3)]
    assert outcomes[1].error is not None
    assert outcomes[1].error["code"] == "tool_failed"


async def test_the_number_in_flight_is_bounded() -> None:
    calls = Calls()
    batch = [ParallelCall("a", {"n": number, "seconds": 0.001}) for number in range(MAX_BATCH)]
    grant = Grant(tool_calls=MAX_BATCH)
    assert len(await run_parallel(batch, grant, calls, independent, Time(None))) == MAX_BATCH
    assert calls.most == MAX_IN_FLIGHT
    assert grant.used_calls == MAX_BATCH


@pytest.mark.parametrize(("count", "allowed", "limit"), [(3, 2, "tool_calls"), (MAX_BATCH + 1, None, "batch")])
async def test_a_batch_that_does_not_fit_calls_nothing(count: int, allowed: int | None, limit: str) -> None:
    calls = Calls()
    grant = Grant(tool_calls=allowed)
    with pytest.raises(BudgetExceeded) as caught:
        await run_parallel([ParallelCall("a", {"n": 1})] * count, grant, calls, independent, Time(None))
    assert caught.value.details["limit"] == limit
    assert (calls.most, grant.used_calls) == (0, 0)


async def test_the_hosts_own_failure_is_not_a_group() -> None:
    grant = Grant(tool_calls=100)
    with pytest.raises(OSError, match="disk full"):
        await run_parallel(
            [ParallelCall("break", {})] + [ParallelCall("a", {"n": 1, "seconds": 5})] * 99,
            grant,
            Calls(),
            independent,
            Time(None),
        )
    assert grant.used_calls == MAX_IN_FLIGHT


async def test_cancellation_ends_all_of_them() -> None:
    grant = Grant(tool_calls=100)
    with anyio.move_on_after(0.05) as scope:
        await run_parallel([ParallelCall("a", {"n": 1, "seconds": 5})] * 100, grant, Calls(), independent, Time(None))
    assert scope.cancelled_caught
    assert grant.used_calls == MAX_IN_FLIGHT


class Diary:
    """Writes down when each call begins and ends; a call takes as many milliseconds as it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bounds: list[float | None] = []

    async def __call__(
        self,
        tool_id: str,
        arguments: JsonValue,
        *,
        position: int,
        took: Took,
        flaw: ToolError | None = None,
        timeout_seconds: float | None = None,
    ) -> JsonValue:
        if flaw is not None:
            raise flaw
        self.bounds.append(timeout_seconds)
        self.lines.append(f"+{tool_id}")
        await anyio.sleep(arguments.get("ms", 1) / 1000)
        self.lines.append(f"-{tool_id}")
        if arguments.get("fails"):
            raise ToolFailed("ValueError: no")
        return tool_id


def by_name(call: ParallelCall) -> Access | None:
    """`r1` reads resource 1, `w2` writes resource 2, `x` is unknown."""
    kind, resource = call.tool_id[0], call.tool_id[1:2]
    return None if kind == "x" else Access(resource, writes=kind == "w")


def before(lines: list[str], first: str, second: str) -> bool:
    return lines.index(first) < lines.index(second)


async def test_writes_to_one_resource_keep_their_order_whatever_they_take() -> None:
    diary = Diary()
    batch = [ParallelCall(f"w1{number}", {"ms": 30 - 10 * number, "fails": number == 1}) for number in range(3)]
    outcomes = await run_parallel(batch, Grant(), diary, by_name, Time(None))
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    assert diary.lines == ["+w10", "-w10", "+w11", "-w11", "+w12", "-w12"]


async def test_reads_wait_for_writes_before_them_and_writes_for_reads() -> None:
    diary = Diary()
    names = ["r1a", "r1b", "w1c", "r1d", "r1e", "w2f", "x"]
    await run_parallel([ParallelCall(name, {"ms": 20}) for name in names], Grant(), diary, by_name, Time(None))
    lines = diary.lines
    assert before(lines, "+r1b", "-r1a")  # reads are together
    assert before(lines, "-r1a", "+w1c")
    assert before(lines, "-r1b", "+w1c")
    assert before(lines, "-w1c", "+r1d")
    assert before(lines, "+r1e", "-r1d")
    assert before(lines, "+w2f", "-r1a")  # another resource does not wait
    assert before(lines, "+x", "-r1a")


@pytest.mark.parametrize("most", [1, 2])
async def test_fewer_may_be_under_way_and_nobody_waits_for_ever(most: int) -> None:
    diary = Diary()
    names = ["w1a", "w1b", "r1c", "w2d", "w1e", "r2f"]
    outcomes = await run_parallel(
        [ParallelCall(name, {}) for name in names], Grant(), diary, by_name, Time(None), max_concurrent=most
    )
    assert [outcome.value for outcome in outcomes] == names
    under_way = most_under_way = 0
    for line in diary.lines:
        under_way += 1 if line[0] == "+" else -1
        most_under_way = max(most_under_way, under_way)
    assert most_under_way <= most


@pytest.mark.parametrize("most", [0, -1, MAX_IN_FLIGHT + 1])
async def test_how_many_may_be_under_way_is_checked(most: int) -> None:
    with pytest.raises(InvalidInput, match="max_concurrent must be 1 to 32"):
        await run_parallel([ParallelCall("x", {})], Grant(), Diary(), by_name, Time(None), max_concurrent=most)


async def test_what_a_batch_has_no_time_for_is_refused_call_by_call() -> None:
    diary = Diary()
    batch = [ParallelCall(f"w1{number}", {"ms": 60}) for number in range(4)]
    grant = Grant()
    outcomes = await run_parallel(batch, grant, diary, by_name, Time(0.1))
    assert [outcome.ok for outcome in outcomes] == [True, True, False, False]
    assert {outcome.error["code"] for outcome in outcomes if outcome.error} == {"timeout"}
    assert [line for line in diary.lines if line[0] == "+"] == ["+w10", "+w11"]
    assert all(bound is not None and bound <= 0.1 for bound in diary.bounds)
