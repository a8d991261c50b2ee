"""Retries: when, how often, how long in between, and never where a thing could be done twice."""

import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.context import ToolContext
from gateway.errors import (
    CallInProgress,
    CircuitOpen,
    DeadlineExceeded,
    EgressDenied,
    InvalidInput,
    InvalidOutput,
    InvalidRequest,
    RateLimited,
    ToolError,
    ToolFailed,
    ToolTimeout,
    ToolUnavailable,
    Unauthorized,
)
from gateway.journal.base import CallStatus
from gateway.payload import Encoded
from gateway.policies.base import Call, Policies, Proceed
from gateway.policies.kinds import policies_from_json, policies_json
from gateway.policies.retry import CustomRetry, ExponentialRetry, FixedRetry, NoRetry, RetryConfig
from gateway.tools.model import ToolSpec
from gateway.tools.spec import spec_from_json, spec_json
from sandbox import AsyncExec, Exec, Outcome
from tests.gateway.faulty import Chance, Faulty, Key, away

pytestmark = pytest.mark.anyio

CATCH = "try:\n    {}\nexcept tools.ToolError as error:\n    result = [error.code, error.retryable]\nresult"
ONCE = FixedRetry(max_attempts=2, delay_seconds=0.5)


async def test_it_tries_again_until_it_works() -> None:
    world = Faulty(away(), away(), retry=FixedRetry())
    assert await world.run(7) == 7
    assert (world.attempts, world.time.slept) == (3, [1.0, 1.0])
    assert (world.calls[0].status, world.calls[0].attempts) == (CallStatus.COMPLETED, 3)
    assert world.usage["retries"] == 2
    assert world.usage["decisions"] == ["retried after 1 s: unavailable"] * 2
    assert world.hears.told == [
        ("retrying", {"attempt": 2, "delay_seconds": 1.0, "code": "unavailable"}),
        ("retrying", {"attempt": 3, "delay_seconds": 1.0, "code": "unavailable"}),
    ]


async def test_the_last_error_comes_out_unchanged() -> None:
    last = away(last=True)
    world = Faulty(away(), away(), last, away(), retry=FixedRetry())
    error = await world.fails()
    assert error is last
    assert error.__cause__ is None
    assert error.__context__ is None
    assert world.attempts == 3
    assert world.calls[0].error is not None
    assert world.calls[0].error["details"] == {"last": True}


async def test_what_an_inner_call_did_not_send_says_nothing_of_the_call_around_it() -> None:
    charged: list[int] = []
    async with AsyncExec(workers=1, pool_size=1) as exec:

        @exec.tool(policies=Policies(retry=FixedRetry(max_attempts=3, delay_seconds=0.001)))
        async def pay(context: ToolContext) -> None:
            charged.append(1)
            assert context.call_tool is not None
            await context.call_tool("notify", {})

        @exec.tool(policies=Policies(retry=FixedRetry(max_attempts=2, delay_seconds=0.001)))
        async def notify() -> None:
            error = ToolUnavailable("the server", "it refused the connection")
            error.details["sent"] = False
            raise error

        with pytest.raises(ToolUnavailable):
            await exec.run_tool("pay")
        result = await exec.execute_code("tools.pay()")
    assert charged == [1, 1]
    assert [call.attempts for call in result.tool_calls] == [1, 2]  # the inner one is tried again by itself


async def test_a_tool_that_works_is_called_once() -> None:
    world = Faulty(retry=FixedRetry())
    assert await world.run(1) == 1
    assert (world.attempts, world.time.slept, "retries" in world.usage, world.hears.told) == (1, [], False, [])


async def test_no_retry_is_one_attempt() -> None:
    world = Faulty(away(), retry=NoRetry())
    await world.fails()
    assert (world.attempts, world.pipeline.policies("retry")) == (1, {})


@pytest.mark.parametrize(
    ("config", "end", "slept"),
    [
        (FixedRetry(max_attempts=3, delay_seconds=1.0, jitter_seconds=0.25), 1, [1.25, 1.25]),
        (FixedRetry(max_attempts=3, delay_seconds=1.0, jitter_seconds=0.25), -1, [0.75, 0.75]),
        (FixedRetry(max_attempts=2, delay_seconds=0.1, jitter_seconds=5), -1, [0.0]),
        (FixedRetry(max_attempts=2, delay_seconds=0), 1, [0.0]),
        (ExponentialRetry(jitter=0), 1, [0.2, 0.4]),
        (ExponentialRetry(max_attempts=7, jitter=0), 1, [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]),
        (ExponentialRetry(max_attempts=5, base_delay_seconds=1, max_delay_seconds=60, jitter=0), 1, [1, 2, 4, 8]),
        (ExponentialRetry(max_attempts=4, multiplier=3, max_delay_seconds=60, jitter=0), 1, [0.2, 0.6, 1.8]),
        (ExponentialRetry(max_attempts=4), 1, [0.22, 0.44, 0.88]),
        (ExponentialRetry(max_attempts=4), -1, [0.18, 0.36, 0.72]),
        # The jitter is a share of the delay, and the longest delay holds for both together.
        (ExponentialRetry(max_attempts=3, base_delay_seconds=1.9, jitter=0.5), 1, [2.0, 2.0]),
        (ExponentialRetry(max_attempts=3, base_delay_seconds=1.9, jitter=0.5), -1, [0.95, 1.0]),
        (ExponentialRetry(max_attempts=2, jitter=1), -1, [0.0]),
    ],
)
async def test_the_delays_are_exact(config: RetryConfig, end: float, slept: list[float]) -> None:
    world = Faulty(retry=config)
    world.always, world.chance.end = away(), end
    await world.fails()
    assert world.time.slept == slept
    assert world.attempts == config.max_attempts


@given(
    base=st.floats(0, 1e300),
    most=st.floats(1e-9, 1e300),
    multiplier=st.floats(1, 100),
    jitter=st.floats(0, 1),
    retry=st.integers(1, 99),
    seed=st.integers(),
)
def test_no_delay_is_below_zero_or_over_the_longest(
    base: float, most: float, multiplier: float, jitter: float, retry: int, seed: int
) -> None:
    config = ExponentialRetry(
        base_delay_seconds=base, max_delay_seconds=most, multiplier=multiplier, jitter=jitter, max_attempts=100
    )
    assert 0 <= config.delay_seconds_before(retry, Chance(seed)) <= most


def never() -> ToolError:
    error = away()
    error.retryable = False
    return error


PASSING: list[Exception] = [
    away(),
    ToolTimeout("work", 5),
    RateLimited("work", 0.1),
    ToolError("busy", retryable=True),
    ToolFailed("conflict", retryable=True),
    ConnectionResetError("gone"),
    TimeoutError(),
]
FINAL: list[Exception] = [
    LookupError("no row"),
    FileNotFoundError("an OSError, and no lost connection"),
    PermissionError("likewise"),
    ToolFailed("it raised"),
    InvalidInput("a misfit"),
    InvalidOutput("a misfit"),
    Unauthorized("work"),
    EgressDenied("there", "no"),
    CircuitOpen("work", 0.1),
    CallInProgress("work"),
    never(),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
async def test_what_may_pass_is_tried_again(error: Exception) -> None:
    world = Faulty(error, retry=ONCE)
    assert await world.run(1) == 1


@pytest.mark.parametrize("error", FINAL, ids=repr)
async def test_what_will_not_pass_is_not(error: Exception) -> None:
    world = Faulty(error, retry=ONCE)
    await world.fails()
    assert (world.attempts, world.time.slept) == (1, [])


async def test_codes_of_ones_own_replace_the_usual_ones() -> None:
    retry = FixedRetry(retry_on=frozenset({"tool_failed", "invalid_output"}))
    world = Faulty(LookupError("no row"), InvalidOutput("misfit"), retry=retry)
    assert await world.run(1) == 1
    world = Faulty(away(), retry=retry)
    assert (await world.fails()).code == "unavailable"
    assert world.attempts == 1


@pytest.mark.parametrize(
    ("asked", "slept"),
    [
        (7.5, [7.5]),
        (0.2, [0.5]),  # never sooner than asked for, and no sooner than the policy says
        (60, [60.0]),
        (60.1, []),
        (float("inf"), []),
        (float("nan"), [0.5]),
        (-3, [0.5]),
        ("7", [0.5]),
        (True, [0.5]),
        (10**400, []),
    ],
)
async def test_retry_after_is_honoured(asked: Any, slept: list[float]) -> None:
    world = Faulty(retry=ONCE)
    world.always = away(retry_after_seconds=asked)
    await world.fails()
    assert world.time.slept == slept


async def test_how_long_a_server_is_waited_for_can_be_set() -> None:
    world = Faulty(retry=dataclasses.replace(ONCE, max_retry_after_seconds=600.0))
    world.always = away(retry_after_seconds=599)
    await world.fails()
    assert world.time.slept == [599.0]


async def test_a_wait_that_does_not_fit_into_the_call_is_not_begun() -> None:
    world = Faulty(retry=FixedRetry(max_attempts=5, delay_seconds=4))
    world.always = away()
    error = await world.fails(timeout_seconds=3.9)
    assert (error.code, world.attempts, world.time.slept) == ("unavailable", 1, [])
    assert "retries" not in world.usage
    error = await world.fails(timeout_seconds=60)
    assert (world.attempts, len(world.time.slept)) == (6, 4)


async def test_a_server_that_asks_for_more_than_is_left_is_not_waited_for() -> None:
    world = Faulty(away(retry_after_seconds=30), retry=FixedRetry())
    assert (await world.fails(timeout_seconds=10)).details["retry_after_seconds"] == 30
    assert (world.attempts, world.time.slept) == (1, [])


async def test_a_call_whose_time_is_up_is_not_tried_again() -> None:
    world = Faulty(retry=FixedRetry(delay_seconds=0))
    world.during = anyio.sleep_forever
    assert (await world.fails(timeout_seconds=0.02)).code == "timeout"
    assert world.attempts == 1


async def test_each_attempt_has_the_time_of_the_tool() -> None:
    world = Faulty(retry=ONCE)

    async def during() -> None:
        if world.attempts == 1:
            await anyio.sleep_forever()

    world.during = during
    tool = world.registry.resolve("work").tool
    world.registry.unregister("work")
    world.registry.register(dataclasses.replace(tool, timeout_seconds=0.02))
    assert await world.run(3) == 3
    assert world.usage["decisions"] == ["retried after 0.5 s: timeout"]


@pytest.mark.parametrize(
    ("read_only", "idempotent", "key", "sent", "again"),
    [
        (None, None, False, None, False),
        (False, False, False, None, False),
        (True, None, False, None, True),
        (None, True, False, None, True),
        (None, None, True, None, True),
        (None, None, False, False, True),
        (None, None, False, True, False),
        (None, None, False, 0, False),  # only False itself says that nothing was sent
    ],
)
@pytest.mark.parametrize("make", [lambda: ONCE, lambda: CustomRetry(just_again)], ids=["config", "custom"])
async def test_a_tool_with_effects_is_tried_again_only_when_that_is_safe(
    make: Callable[[], Any], read_only: bool | None, idempotent: bool | None, key: bool, sent: Any, again: bool
) -> None:
    fault = away() if sent is None else away(sent=sent)
    world = Faulty(fault, read_only=read_only, retry=make(), **({"idempotency": Key()} if key else {}))
    if idempotent is not None:
        tool = world.registry.resolve("work").tool
        world.registry.unregister("work")
        world.registry.register(dataclasses.replace(tool, idempotent=idempotent))
    if again:
        assert await world.run(1) == 1
    else:
        assert await world.fails() is fault
    assert world.attempts == 1 + again


async def test_a_stream_is_begun_again_only_before_its_first_chunk() -> None:
    world = Faulty(away(), retry=FixedRetry(max_attempts=2))
    assert [(event.kind, event.data) for event in await world.stream(0)] == [("chunk", -1), ("done", None)]
    assert world.attempts == 2
    world = Faulty(away(), retry=FixedRetry(max_attempts=2))
    *chunks, last = await world.stream(2)
    assert [(event.kind, event.data) for event in chunks] == [("chunk", 0), ("chunk", 1)]
    assert last.error is not None
    assert (last.error["code"], world.attempts, world.calls[0].attempts) == ("unavailable", 1, 1)


async def test_a_cancelled_wait_ends_at_once() -> None:
    world = Faulty(away(), retry=FixedRetry())

    async def forever(_: float) -> None:
        await anyio.sleep_forever()

    world.pipeline.services = dataclasses.replace(world.pipeline.services, sleep=forever)
    with anyio.move_on_after(0.02) as scope:
        await world.run()
    assert scope.cancelled_caught
    assert (world.attempts, world.calls[0].status, world.usage["retries"]) == (1, CallStatus.CANCELLED, 1)


async def just_again(attempt: Callable[[], Awaitable[Encoded]], number: int, error: ToolError) -> Encoded:
    return await attempt()


async def test_a_function_is_told_the_number_and_the_last_error() -> None:
    asked: list[tuple[int, ToolError]] = []

    async def again(attempt: Callable[[], Awaitable[Encoded]], number: int, error: ToolError) -> Encoded:
        asked.append((number, error))
        return await attempt()

    faults = [away(n=1), away(n=2), away(n=3)]
    world = Faulty(*faults, retry=CustomRetry(again))
    assert await world.run(5) == 5
    assert asked == [(1, faults[0]), (2, faults[1]), (3, faults[2])]
    assert (world.usage["retries"], world.calls[0].attempts) == (3, 4)
    assert world.usage["decisions"] == ["retried: unavailable"] * 3
    assert world.hears.kinds == ["retrying"] * 3


async def test_a_function_is_asked_ten_times() -> None:
    world = Faulty(retry=CustomRetry(just_again))
    world.always = last = away()
    assert await world.fails() is last
    assert world.attempts == 11


async def test_what_a_function_raises_ends_the_call() -> None:
    enough = ToolError("that is enough")

    async def stop(attempt: Callable[[], Awaitable[Encoded]], number: int, error: ToolError) -> Encoded:
        if number == 2:
            raise enough
        return await attempt()

    world = Faulty(retry=CustomRetry(stop))
    world.always = away()
    assert await world.fails() is enough
    assert world.attempts == 2


async def test_a_function_may_raise_the_last_error_again() -> None:
    async def stop(attempt: Callable[[], Awaitable[Encoded]], number: int, error: ToolError) -> Encoded:
        if number == 3:
            raise error
        return await attempt()

    world = Faulty(retry=CustomRetry(stop))
    world.always = last = away()
    assert await world.fails() is last
    assert world.attempts == 3


async def test_a_fault_of_the_function_is_the_hosts() -> None:
    async def broken(attempt: Callable[[], Awaitable[Encoded]], number: int, error: ToolError) -> Encoded:
        raise KeyError("typo")

    world = Faulty(away(), retry=CustomRetry(broken))
    with pytest.raises(KeyError, match="typo"):
        await world.run()
    assert world.attempts == 1


async def test_a_function_cannot_make_two_attempts_of_one_asking() -> None:
    async def greedy(attempt: Callable[[], Awaitable[Encoded]], number: int, error: ToolError) -> Encoded:
        await attempt()
        return await attempt()

    world = Faulty(away(sent=False), read_only=None, retry=CustomRetry(greedy))
    with pytest.raises(InvalidRequest, match="one attempt"):
        await world.run()
    assert world.attempts == 2


@pytest.mark.parametrize("error", [InvalidInput("misfit"), CircuitOpen("work", 1), Unauthorized("work")], ids=repr)
async def test_a_function_is_not_asked_about_refusals(error: ToolError) -> None:
    world = Faulty(error, retry=CustomRetry(just_again))
    assert await world.fails() is error
    assert world.attempts == 1


async def test_a_function_that_waits_too_long_ends_with_the_call() -> None:
    async def patient(attempt: Callable[[], Awaitable[Encoded]], number: int, error: ToolError) -> Encoded:
        await anyio.sleep_forever()
        return await attempt()

    fault = away()
    world = Faulty(fault, retry=CustomRetry(patient))
    assert await world.fails(timeout_seconds=0.03) is fault


@pytest.mark.parametrize("function", [None, 3, "again"])
def test_what_cannot_be_called_is_no_retry(function: Any) -> None:
    with pytest.raises(InvalidRequest, match="needs a function"):
        CustomRetry(function)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: FixedRetry(max_attempts=0), "max_attempts"),
        (lambda: ExponentialRetry(max_attempts=-1), "max_attempts"),
        (lambda: FixedRetry(max_attempts=101), "max_attempts"),
        (lambda: FixedRetry(max_attempts=2.5), "max_attempts"),  # type: ignore[arg-type]  # the point of the test
        (lambda: FixedRetry(max_attempts=True), "max_attempts"),
        (lambda: FixedRetry(delay_seconds=-0.1), "delay_seconds"),
        (lambda: FixedRetry(jitter_seconds=-0.1), "jitter_seconds"),
        (lambda: FixedRetry(delay_seconds=float("nan")), "delay_seconds"),
        (lambda: FixedRetry(delay_seconds=float("inf")), "delay_seconds"),
        (lambda: FixedRetry(delay_seconds="1"), "delay_seconds"),  # type: ignore[arg-type]  # the point of the test
        (lambda: FixedRetry(max_retry_after_seconds=0), "max_retry_after_seconds"),
        (lambda: ExponentialRetry(base_delay_seconds=-1), "base_delay_seconds"),
        (lambda: ExponentialRetry(max_delay_seconds=0), "max_delay_seconds"),
        (lambda: ExponentialRetry(multiplier=0.5), "multiplier"),
        (lambda: ExponentialRetry(jitter=1.1), "jitter"),
        (lambda: ExponentialRetry(retry_on=frozenset()), "retry_on"),
        (lambda: ExponentialRetry(retry_on="timeout"), "retry_on"),  # type: ignore[arg-type]  # the point of the test
        (lambda: FixedRetry(retry_on=frozenset({"timeout", "circuit_open"})), "retry_on may not have circuit_open"),
        (lambda: FixedRetry(retry_on=frozenset({"invalid_input"})), "retry_on may not have invalid_input"),
    ],
)
def test_wrong_numbers_are_refused_when_they_are_written(make: Callable[[], Any], name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        make()


@pytest.mark.parametrize(
    "config",
    [
        NoRetry(),
        FixedRetry(max_attempts=4, delay_seconds=0.5, jitter_seconds=0.1),
        ExponentialRetry(),
        ExponentialRetry(retry_on=frozenset({"timeout", "tool_failed"}), max_retry_after_seconds=5),
    ],
)
def test_configs_can_be_written_down_and_read_back(config: Any) -> None:
    policies = Policies(retry=config)
    assert policies_from_json(policies_json(policies)) == policies
    spec = ToolSpec(id=Faulty().registry.resolve("work").tool.id, input_schema={"type": "object"}, policies=policies)
    assert spec_from_json(spec_json(spec)).policies == policies


def test_what_is_written_wrongly_is_told() -> None:
    with pytest.raises(InvalidRequest, match="max_attempts must be a whole number"):
        policies_from_json({"retry": {"kind": "fixed", "max_attempts": 0}})
    with pytest.raises(InvalidRequest, match="unknown kind 'sometimes' of policy retry; there are exponential, fixed"):
        policies_from_json({"retry": {"kind": "sometimes"}})
    with pytest.raises(InvalidRequest, match="retry of kind none: attempts"):
        policies_from_json({"retry": {"kind": "none", "attempts": 3}})
    with pytest.raises(InvalidRequest, match="object of your own"):
        policies_json(Policies(retry=CustomRetry(just_again)))


class Insists:
    """A policy of one's own: one more attempt, whatever went wrong."""

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        try:
            return await proceed(call)
        except ToolError as error:
            call.usage.retries += 1
            call.usage.decisions.append(f"insisted: {error.code}")
            return await proceed(call)


async def test_a_retry_of_ones_own() -> None:
    world = Faulty(LookupError("no row"), retry=Insists())
    assert await world.run(2) == 2
    assert world.usage["decisions"] == ["insisted: tool_failed"]
    assert (world.usage["retries"], world.calls[0].attempts) == (1, 2)


async def test_a_schedule_of_ones_own() -> None:
    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Squares(RetryConfig):
        kind = "squares"

        def delay_seconds_before(self, retry: int, random: Any) -> float:
            return float(retry**2)

    world = Faulty(away(), away(), away(), retry=Squares(max_attempts=4))
    assert await world.run(2) == 2
    assert world.time.slept == [1.0, 4.0, 9.0]


async def test_retries_through_exec() -> None:
    left = [ConnectionRefusedError("not yet"), ConnectionRefusedError("not yet")]
    async with AsyncExec() as exec:

        @exec.tool(read_only=True, policies=Policies(retry=ExponentialRetry(base_delay_seconds=0.001)))
        async def work() -> str:
            if left:
                raise left.pop()
            return "done"

        assert await exec.run_tool("work") == "done"
        assert left == []


def test_a_snippet_sees_the_error_and_the_record_the_attempts(shared_exec: Exec) -> None:
    def flaky(times: int) -> str:
        made.append(times)
        if len(made) <= times:
            raise ToolUnavailable("the far end", "it is away")
        return "there"

    made: list[int] = []
    retry = FixedRetry(max_attempts=2, delay_seconds=0.001)
    shared_exec.tool(namespace="retried", read_only=True, policies=Policies(retry=retry))(flaky)
    try:
        result = shared_exec.execute_code("tools.retried.flaky(times=1)", backend="wasm")
        assert (result.outcome, result.value) == (Outcome.COMPLETED, "there")
        assert result.tool_calls[0].attempts == 2
        assert result.tool_calls[0].usage["retries"] == 1
        made.clear()
        result = shared_exec.execute_code(CATCH.format("tools.retried.flaky(times=9)"), backend="wasm")
        assert result.value == ["unavailable", True]
        assert result.tool_calls[0].attempts == 2
        assert result.tool_calls[0].usage["decisions"] == ["retried after 0.001 s: unavailable"]
    finally:
        shared_exec.unregister("retried:flaky")


async def test_an_execution_that_ends_meanwhile_says_so() -> None:
    world = Faulty(retry=FixedRetry(delay_seconds=0))
    world.during = anyio.sleep_forever
    gateway = world.gateway()
    gateway.grant.deadline = time.monotonic() + 0.02
    with pytest.raises(DeadlineExceeded):
        await gateway.run_tool("work", {})
    assert world.attempts == 1
