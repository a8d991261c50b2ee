"""Circuit breakers: when they open, whom they let through, how they close again, and what never opens them."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import anyio
import interlock
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.errors import (
    CircuitOpen,
    InvalidInput,
    InvalidRequest,
    RateLimited,
    ToolError,
    ToolFailed,
    ToolNotFound,
    ToolTimeout,
    ToolUnavailable,
    Unauthorized,
)
from gateway.journal.base import CallStatus
from gateway.payload import Encoded
from gateway.policies.adaptive_breaker import AdaptiveBreaker
from gateway.policies.base import Call, CircuitState, HasCircuits, Policies, Proceed
from gateway.policies.breaker import MAX_TENANTS, Breaker, BreakerConfig, NoBreaker, StandardBreaker
from gateway.policies.circuit import Circuit, Tally
from gateway.policies.concurrency import ConcurrencyLimit
from gateway.policies.kinds import policies_from_json, policies_json
from gateway.policies.retry import CustomRetry, FixedRetry
from sandbox import AsyncExec, Exec
from tests.gateway.faulty import Faulty, Key, Time, away

pytestmark = pytest.mark.anyio

THREE = StandardBreaker(failure_threshold=3)
KINDS: list[Any] = [
    pytest.param(StandardBreaker(failure_threshold=3, recovery_seconds=30), id="standard"),
    pytest.param(AdaptiveBreaker(base_threshold=3, max_threshold=3, recovery_seconds=30), id="adaptive"),
]


def state(world: Faulty, tenant: str | None = None) -> CircuitState:
    breaker = world.pipeline.policies("breaker")["work"]
    assert isinstance(breaker, HasCircuits)
    return breaker.state(tenant)


def reset(world: Faulty) -> None:
    breaker = world.pipeline.policies("breaker")["work"]
    assert isinstance(breaker, HasCircuits)
    breaker.reset()


async def opened(breaker: Any, **more: Any) -> Faulty:
    """A world whose circuit has opened just now."""
    world = Faulty(away(), away(), away(), breaker=breaker, **more)
    for _ in range(3):
        await world.fails()
    assert state(world) == "open"
    return world


@pytest.mark.parametrize("breaker", KINDS)
async def test_it_opens_refuses_recovers_by_itself_and_closes(breaker: Any) -> None:
    world = Faulty(breaker=breaker)
    world.always = original = away()
    for _ in range(2):
        await world.fails()
        assert (state(world), "circuit_opened" in world.usage) == ("closed", False)
    assert await world.fails() is original  # the call that opens it still tells what was wrong
    assert (state(world), world.usage["circuit_opened"]) == ("open", True)
    world.time.now += 12
    refused = await world.fails()
    assert isinstance(refused, CircuitOpen)
    assert (refused.details["retry_after_seconds"], world.attempts) == (18.0, 3)
    assert (world.calls[0].status, world.calls[0].attempts) == (CallStatus.REFUSED, 0)
    assert world.usage["decisions"] == ["refused: the circuit is open, for 18 s"]
    world.time.now += 18
    assert state(world) == "half_open"
    world.always = None
    assert await world.run(1) == 1
    assert state(world) == "closed"
    assert world.usage["decisions"] == ["circuit half open: this call tries the tool", "circuit closed"]
    assert world.hears.kinds == ["circuit_opened", "circuit_open", "circuit_half_open", "circuit_closed"]
    for _ in range(2):
        world.faults.append(away())
        await world.fails()
    assert state(world) == "closed"  # and it counts from zero again


@pytest.mark.parametrize("breaker", KINDS)
async def test_a_probe_that_fails_opens_it_anew(breaker: Any) -> None:
    world = await opened(breaker)
    world.time.now += 31
    world.faults = [away()]
    assert (await world.fails()).code == "unavailable"
    assert (state(world), world.usage["circuit_opened"]) == ("open", True)
    world.time.now += 29.9
    assert isinstance(await world.fails(), CircuitOpen)
    world.time.now += 0.1
    assert await world.run(1) == 1


@pytest.mark.parametrize("breaker", KINDS)
@pytest.mark.parametrize("probes", [1, 3])
async def test_as_many_probes_as_permitted_and_no_more(breaker: Any, probes: int) -> None:
    world = await opened(dataclasses.replace(breaker, half_open_max_calls=probes))
    world.time.now += 30
    go = anyio.Event()
    world.during = go.wait
    refused: list[ToolError] = []

    async def one() -> None:
        try:
            await world.run()
        except CircuitOpen as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        assert (world.under_way, len(refused)) == (probes, 20 - probes)
        assert state(world) == "half_open"
        assert refused[0].details["retry_after_seconds"] == 30
        go.set()
    assert (world.attempts, state(world)) == (3 + probes, "closed")


@pytest.mark.parametrize("breaker", KINDS)
async def test_a_cancelled_probe_gives_its_place_back(breaker: Any) -> None:
    world = await opened(breaker)
    world.time.now += 30
    world.during = anyio.sleep_forever
    with anyio.move_on_after(0.02):
        await world.run()
    assert state(world) == "half_open"
    world.during = None
    assert await world.run(4) == 4
    assert state(world) == "closed"


@pytest.mark.parametrize("breaker", KINDS)
async def test_what_began_before_it_opened_says_nothing_afterwards(breaker: Any) -> None:
    world = Faulty(breaker=breaker)
    go = anyio.Event()
    world.during = go.wait
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.run)
        await anyio.wait_all_tasks_blocked()
        world.during = None
        world.faults = [away(), away(), away()]
        for _ in range(3):
            await world.fails()
        go.set()
    assert state(world) == "open"


@pytest.mark.parametrize("breaker", KINDS)
async def test_a_success_begins_the_count_anew(breaker: Any) -> None:
    world = Faulty(*[away(), away(), None] * 4, breaker=breaker)
    for _ in range(4):
        await world.fails()
        await world.fails()
        await world.run()
    assert state(world) == "closed"


@pytest.mark.parametrize("breaker", KINDS)
@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("misfit"),
        Unauthorized("work"),
        RateLimited("work", 1),
        CircuitOpen("another", 1),
        ToolFailed("the server answered 404", details={"status": 404}),
        ToolError("of the tool's own"),
    ],
    ids=repr,
)
async def test_what_is_not_the_tools_fault_opens_nothing(breaker: Any, error: ToolError) -> None:
    world = Faulty(breaker=breaker)
    world.always = error
    for _ in range(20):
        assert await world.fails() is error
    assert (state(world), world.attempts) == ("closed", 20)
    # As a probe it neither closes nor opens anything, and leaves its place to the next.
    world = await opened(breaker)
    world.time.now += 30
    world.faults = [error]
    assert await world.fails() is error
    assert state(world) == "half_open"
    assert await world.run(1) == 1


async def test_arguments_that_do_not_fit_never_come_so_far() -> None:
    world = Faulty(breaker=THREE)
    gateway = world.gateway()
    for _ in range(20):
        with pytest.raises(InvalidInput):
            await gateway.run_tool("work", {"n": "x"})
    assert state(world) == "closed"


@pytest.mark.parametrize("breaker", KINDS)
async def test_one_execution_cannot_open_it_by_making_the_tool_raise(breaker: Any) -> None:
    world = Faulty(breaker=breaker)
    world.always = ZeroDivisionError("by a guest's zero")
    for _ in range(20):
        await world.fails(execution_id="hostile")
    assert (state(world), world.attempts) == ("closed", 20)
    await world.fails(execution_id="another")
    assert state(world) == "closed"
    await world.fails(execution_id="a third")
    assert state(world) == "open"  # three that have nothing to do with each other: it is the tool
    world.time.now += 30
    await world.fails(execution_id="hostile")
    assert state(world) == "half_open"  # nor can it keep it open
    world.always = None
    await world.run()
    assert state(world) == "closed"


async def test_an_execution_whose_probe_fails_again_waits_before_the_next() -> None:
    world = Faulty(breaker=StandardBreaker(failure_threshold=1, recovery_seconds=30))
    world.always = ZeroDivisionError("broken")
    codes = [(await world.fails(execution_id="one")).code for _ in range(2)]
    assert codes == ["tool_failed", "circuit_open"]
    world.time.now += 30
    for attempts in (2, 3, 4):
        assert (await world.fails(execution_id="one")).code == "tool_failed"
        assert state(world) == "half_open"
        world.time.now += 12
        refused = await world.fails(execution_id="one")
        assert isinstance(refused, CircuitOpen)
        assert (refused.details["retry_after_seconds"], world.attempts) == (18.0, attempts)
        assert world.usage["decisions"] == ["refused: the circuit is half_open, for 18 s"]
        world.time.now += 18
    assert world.hears.kinds.count("circuit_half_open") == 1


async def test_others_may_probe_while_one_execution_waits() -> None:
    world = Faulty(breaker=StandardBreaker(failure_threshold=1, recovery_seconds=30))
    world.always = ZeroDivisionError("broken")
    await world.fails(execution_id="one")
    world.time.now += 30
    await world.fails(execution_id="one")
    world.time.now += 10
    assert (await world.fails(execution_id="another")).code == "tool_failed"
    assert state(world) == "open"  # news, and it has a timer of its own
    world.time.now += 29
    assert isinstance(await world.fails(execution_id="one"), CircuitOpen)
    world.time.now += 1
    world.always = None
    assert await world.run(1, execution_id="one") == 1
    assert state(world) == "closed"
    assert world.hears.kinds.count("circuit_half_open") == 2


async def test_slow_answers_of_one_execution_are_held_back_as_well() -> None:
    world = Faulty(breaker=StandardBreaker(failure_threshold=1, recovery_seconds=30, slow_seconds=1))

    async def takes_long() -> None:
        world.time.now += 2

    world.during = takes_long
    assert await world.run(1, execution_id="one") == 1
    world.time.now += 30
    assert await world.run(1, execution_id="one") == 1
    assert state(world) == "half_open"
    assert isinstance(await world.fails(execution_id="one"), CircuitOpen)


def test_those_who_are_held_back_are_bounded() -> None:
    time = Time()
    circuit = Circuit(StandardBreaker(failure_threshold=1).tally(), 30.0, 10_000, time.clock)
    names = [f"e{number}" for number in range(1000)]
    period = circuit.admit()
    assert period is not None
    circuit.settle(period, failed=True, blamed=names[0])
    for _ in range(3):
        for name in names:
            time.now += 31
            period = circuit.admit(name)
            assert period is not None
            circuit.settle(period, failed=True, blamed=name)
    assert len(circuit._held) <= 1000
    assert len(circuit._blamed) <= 1000


async def test_within_retries_what_the_tool_raises_counts_once_for_a_call() -> None:
    breaker = StandardBreaker(failure_threshold=2, scope="attempt")
    world = Faulty(breaker=breaker, retry=FixedRetry(max_attempts=5, retry_on=frozenset({"tool_failed"})))
    world.always = ZeroDivisionError("broken")
    assert (await world.fails()).code == "tool_failed"
    assert (state(world), world.attempts) == ("closed", 5)
    await world.fails()
    assert (state(world), world.attempts) == ("open", 6)


async def test_a_servers_error_is_another_matter() -> None:
    world = Faulty(breaker=THREE)
    world.always = away(status=503)
    for _ in range(3):
        await world.fails(execution_id="the same")
    assert state(world) == "open"


async def test_a_caller_in_a_hurry_opens_nothing() -> None:
    world = Faulty(breaker=THREE)
    world.during = anyio.sleep_forever
    for _ in range(4):
        assert (await world.fails(timeout_seconds=0.01)).code == "timeout"
    assert state(world) == "closed"


async def test_a_reader_in_a_hurry_opens_nothing() -> None:
    world = Faulty(breaker=THREE)
    world.during = anyio.sleep_forever
    for _ in range(4):
        (event,) = await world.stream(0, timeout_seconds=0.01)
        assert event.error is not None
        assert event.error["code"] == "timeout"
    breaker = world.pipeline.policies("breaker")["count"]
    assert isinstance(breaker, Breaker)
    assert breaker.state() == "closed"


async def test_a_tool_that_takes_too_long_opens_it() -> None:
    world = Faulty(breaker=THREE)
    world.always = ToolTimeout("work", 5)
    for _ in range(3):
        await world.fails(timeout_seconds=60)
    assert state(world) == "open"


async def test_codes_of_ones_own() -> None:
    world = Faulty(breaker=StandardBreaker(failure_threshold=1, trip_codes=frozenset({"invalid_output"})))
    world.always = away()
    await world.fails()
    assert state(world) == "closed"


async def test_answers_that_take_too_long_count_where_that_is_asked_for() -> None:
    world = Faulty(breaker=dataclasses.replace(THREE, slow_seconds=2.0))

    async def takes(seconds: float) -> None:
        world.time.now += seconds

    world.during = lambda: takes(2.0)
    for _ in range(5):
        await world.run()
    assert state(world) == "closed"
    world.during = lambda: takes(2.1)
    for _ in range(5):
        assert await world.run(1, execution_id="one guest") == 1
    assert state(world) == "closed"
    assert await world.run(1) == 1
    assert await world.run(1) == 1
    assert (state(world), world.usage["decisions"]) == ("open", ["circuit opened: slow"])


async def test_circuits_of_tools_are_their_own() -> None:
    world = await opened(THREE)
    assert await world.gateway().run_tool("other", {}) == "fine"


@pytest.mark.parametrize("breaker", KINDS)
async def test_tenants_share_a_circuit_unless_they_have_their_own(breaker: Any) -> None:
    for per_tenant in (False, True):
        world = Faulty(breaker=dataclasses.replace(breaker, per_tenant=per_tenant))
        world.always = away()
        for _ in range(3):
            await world.fails(tenant="acme")
        world.always = None
        assert state(world, "acme") == "open"
        assert state(world) == "open"
        assert state(world, "zeta") == ("closed" if per_tenant else "open")
        if per_tenant:
            assert await world.run(1, tenant="zeta") == 1
        else:
            assert isinstance(await world.fails(tenant="zeta"), CircuitOpen)


async def test_circuits_of_tenants_are_bounded_and_open_ones_are_kept() -> None:
    world = Faulty(breaker=dataclasses.replace(THREE, failure_threshold=1, per_tenant=True))
    world.faults = [away()]
    await world.fails(tenant="first")
    for number in range(MAX_TENANTS + 50):
        await world.run(tenant=f"tenant {number}")
    breaker: Any = world.pipeline.policies("breaker")["work"]
    assert len(breaker._circuits) == MAX_TENANTS
    assert state(world, "first") == "open"


async def test_it_can_be_closed_by_hand() -> None:
    world = await opened(THREE)
    reset(world)
    assert state(world) == "closed"
    world.faults = [away(), away()]
    await world.fails()
    await world.fails()
    assert state(world) == "closed"


async def test_calls_under_way_no_longer_count_after_that() -> None:
    world = Faulty(breaker=StandardBreaker(failure_threshold=1))
    go = anyio.Event()
    world.during = go.wait
    world.always = away()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.fails)
        await anyio.wait_all_tasks_blocked()
        reset(world)
        go.set()
    assert state(world) == "closed"


async def test_no_breaker_is_none() -> None:
    world = Faulty(breaker=NoBreaker())
    world.always = away()
    for _ in range(20):
        assert (await world.fails()).code == "unavailable"
    assert (world.attempts, world.pipeline.policies("breaker")) == (20, {})


async def test_a_host_failure_says_nothing_of_the_tool() -> None:
    class Broken:
        async def apply(self, call: Call, proceed: Proceed) -> Encoded:
            raise OSError("disk full")

    world = Faulty(breaker=StandardBreaker(failure_threshold=1), concurrency=Broken())
    with pytest.raises(OSError, match="disk full"):
        await world.run()
    assert state(world) == "closed"


# Together with retries, keys and deadlines


async def test_around_retries_a_call_counts_once() -> None:
    world = Faulty(breaker=THREE, retry=FixedRetry(max_attempts=4))
    world.always = away()
    for _ in range(2):
        await world.fails()
    assert (state(world), world.attempts) == ("closed", 8)
    await world.fails()
    assert (state(world), world.attempts) == ("open", 12)


async def test_within_retries_every_attempt_counts() -> None:
    world = Faulty(breaker=dataclasses.replace(THREE, scope="attempt"), retry=FixedRetry(max_attempts=10))
    world.always = original = away()
    assert await world.fails() is original
    assert (state(world), world.attempts, world.time.slept) == ("open", 3, [1.0, 1.0])
    assert world.usage["circuit_opened"] is True
    assert isinstance(await world.fails(), CircuitOpen)
    assert (world.attempts, len(world.time.slept)) == (3, 2)


async def test_an_open_circuit_is_not_tried_again() -> None:
    for scope in ("call", "attempt"):
        world = await opened(StandardBreaker(failure_threshold=3, scope=scope), retry=FixedRetry(max_attempts=1))
        world.time.slept.clear()
        assert isinstance(await world.fails(), CircuitOpen)
        assert world.time.slept == []


@pytest.mark.parametrize("scope", ["call", "attempt"])
@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize("read_only", [None, True])
@pytest.mark.parametrize("seconds", [None, 2.5])
@pytest.mark.parametrize("threshold", [1, 2, 5])
async def test_retry_breaker_key_and_deadline_together(
    scope: Any, key: bool, read_only: bool | None, seconds: float | None, threshold: int
) -> None:
    """Waits of 2, 4 and 8 seconds: a call of 2.5 s has time for the first."""
    waits = iter([2.0, 4.0, 8.0])

    class Growing(FixedRetry):
        def delay_seconds_before(self, retry: int, random: Any) -> float:
            return next(waits)

    world = Faulty(
        read_only=read_only,
        breaker=StandardBreaker(failure_threshold=threshold, scope=scope),
        retry=Growing(max_attempts=4),
        **({"idempotency": Key()} if key else {}),
    )
    world.always = original = away()
    assert await world.fails(timeout_seconds=seconds) is original
    by_safety = 4 if key or read_only else 1
    by_time = 4 if seconds is None else 2
    by_circuit = threshold if scope == "attempt" else 4
    assert world.attempts == min(by_safety, by_time, by_circuit) == world.calls[0].attempts
    failures = world.attempts if scope == "attempt" else 1
    assert state(world) == ("open" if failures >= threshold else "closed")
    assert world.usage.get("retries", 0) == world.attempts - 1
    assert world.calls[0].key == ("key-0" if key else "")


async def test_a_custom_retry_does_not_go_on_with_an_open_circuit_either() -> None:
    async def again(attempt: Any, number: int, error: ToolError) -> Encoded:
        found: Encoded = await attempt()
        return found

    world = Faulty(breaker=StandardBreaker(failure_threshold=2, scope="attempt"), retry=CustomRetry(again))
    world.always = original = away()
    assert await world.fails() is original
    assert world.attempts == 2


async def test_waiting_for_a_place_is_not_the_tools_fault() -> None:
    world = Faulty(
        breaker=StandardBreaker(failure_threshold=1), concurrency=ConcurrencyLimit(max_in_flight=1, wait_seconds=0.01)
    )
    go = anyio.Event()
    world.during = go.wait
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.run)
        await anyio.wait_all_tasks_blocked()
        assert (await world.fails()).code == "rate_limited"
        assert (await world.fails(timeout_seconds=0.005)).code == "timeout"
        assert state(world) == "closed"
        go.set()


# The adaptive threshold


async def streak_that_opens(config: AdaptiveBreaker, history: list[bool]) -> int:
    """How many failures in a row it takes after these outcomes, where no outcome opens it before."""
    world = Faulty(breaker=config)
    for failed in history:
        world.faults = [away()] if failed else []
        await (world.fails() if failed else world.run())
        assert state(world) == "closed"
    world.always = away()
    for number in range(1, 100):
        await world.fails()
        if state(world) == "open":
            return number
    raise AssertionError("it never opens")


@pytest.mark.parametrize(
    ("history", "streak"),
    [
        ([], 2),  # the threshold begins at the base, and cannot fall below it
        ([False] * 3, 4),  # three successes: 5; the fourth of seven is over the rate, and makes it 4
        ([False] * 20, 6),  # up to the highest, and no further
        ([True, False] * 4, 2),
    ],
)
async def test_the_threshold_follows_the_errors(history: list[bool], streak: int) -> None:
    config = AdaptiveBreaker(base_threshold=2, max_threshold=6, window_size=10)
    assert await streak_that_opens(config, history) == streak


async def test_the_threshold_does_not_move_before_there_are_enough_calls() -> None:
    config = AdaptiveBreaker(base_threshold=2, max_threshold=6, window_size=10, minimum_calls=8)
    assert await streak_that_opens(config, [False] * 5) == 2
    assert await streak_that_opens(config, [False] * 8) == 5  # it grows while errors are under a quarter


class Model:
    """The rule of the adaptive breaker, written as it is told."""

    def __init__(self, config: AdaptiveBreaker) -> None:
        self.config = config
        self.outcomes: list[bool] = []
        self.threshold = config.base_threshold
        self.streak = 0
        self.opened_at: float | None = None

    def outcome(self, failed: bool, now: float) -> None:
        config = self.config
        self.outcomes = [*self.outcomes, failed][-config.window_size :]
        rate = sum(self.outcomes) / len(self.outcomes)
        if len(self.outcomes) >= (config.minimum_calls or 1):
            if rate < config.error_rate_threshold / 2:
                self.threshold = min(self.threshold + 1, config.max_threshold)
            elif rate > config.error_rate_threshold:
                self.threshold = max(self.threshold - 1, config.base_threshold)
        self.streak = self.streak + 1 if failed else 0
        if not failed:
            self.opened_at = None
        elif self.opened_at is not None or self.streak >= self.threshold:
            self.opened_at = now

    def state(self, now: float) -> CircuitState:
        if self.opened_at is None:
            return "closed"
        return "open" if now < self.opened_at + self.config.recovery_seconds else "half_open"


@given(
    config=st.builds(
        AdaptiveBreaker,
        base_threshold=st.integers(1, 4),
        max_threshold=st.integers(4, 8),
        error_rate_threshold=st.floats(0.05, 1),
        window_size=st.integers(3, 12),
        minimum_calls=st.one_of(st.none(), st.integers(1, 3)),
        recovery_seconds=st.just(10.0),
    ),
    steps=st.lists(st.one_of(st.booleans(), st.sampled_from([1.0, 9.0, 10.0]))),
)
def test_the_adaptive_breaker_is_what_its_rule_says(config: AdaptiveBreaker, steps: list[bool | float]) -> None:
    time, model = Time(), Model(config)
    circuit = Circuit(config.tally(), config.recovery_seconds, 1, time.clock)
    for step in steps:
        if isinstance(step, bool):
            period = circuit.admit()
            assert (period is None) == (model.state(time.now) == "open")
            if period is not None:
                circuit.settle(period, failed=step)
                model.outcome(step, time.now)
        else:
            time.now += step
        assert circuit.state == model.state(time.now)


# Against another breaker


class _FailedError(Exception):
    """What makes the other breaker count."""


class AgainstAnother(RuleBasedStateMachine):
    """The standard breaker and that of interlock, side by side: both let the same calls through, whatever happens."""

    @initialize(threshold=st.integers(1, 4))
    def begin(self, threshold: int) -> None:
        self.time = Time()
        self.ours = Circuit(StandardBreaker(failure_threshold=threshold).tally(), 30.0, 1, self.time.clock)
        config = interlock.Config(
            failure_rate_threshold=1.0,
            minimum_number_of_calls=threshold,
            window_size=threshold,
            permitted_calls_in_half_open=1,
            wait_duration_in_open=30.0,
        )
        clock = self.time

        class Clock:
            def monotonic(self) -> float:
                return clock.now

        self.theirs = interlock.CircuitBreaker(name="x", config=config, clock=Clock())

    def both(self, failed: bool | None) -> None:
        """One call from start to end, None for one that is given up."""
        period = self.ours.admit()
        refused = False

        def work() -> None:
            if failed is None:
                raise KeyboardInterrupt
            if failed:
                raise _FailedError

        try:
            self.theirs.call(work)
        except interlock.CircuitOpenError:
            refused = True
        except (KeyboardInterrupt, _FailedError):
            pass
        assert refused == (period is None)
        if period is not None:
            self.ours.settle(period, failed=failed)

    @rule(failed=st.sampled_from([True, True, False, None]))
    def call(self, failed: bool | None) -> None:
        self.both(failed)

    @rule(seconds=st.sampled_from([1.0, 29.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.time.now += seconds

    @invariant()
    def states_agree(self) -> None:
        if hasattr(self, "ours"):  # the other one says half open only when the next call comes
            assert (self.ours.state == "closed") == (self.theirs.state.value == "closed")


TestAgainstAnother = AgainstAnother.TestCase
TestAgainstAnother.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Overlapping(RuleBasedStateMachine):
    """Calls that overlap in any way, against a plain model of what may be under way."""

    @initialize(probes=st.integers(1, 3), threshold=st.integers(1, 4))
    def begin(self, probes: int, threshold: int) -> None:
        self.time = Time()
        self.most, self.threshold = probes, threshold
        self.circuit = Circuit(StandardBreaker(failure_threshold=threshold).tally(), 30.0, probes, self.time.clock)
        self.running: list[tuple[int, int]] = []  # our ticket, and the model's period
        self.period, self.streak = 0, 0
        self.opened_at: float | None = None

    @property
    def state(self) -> CircuitState:
        if self.opened_at is None:
            return "closed"
        return "half_open" if self.time.now >= self.opened_at + 30 else "open"

    @rule()
    def start(self) -> None:
        probing = sum(period == self.period for _, period in self.running)
        may = self.state == "closed" or (self.state == "half_open" and probing < self.most)
        ticket = self.circuit.admit()
        assert (ticket is not None) == may
        if ticket is not None:
            self.running.append((ticket, self.period))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), failed=st.sampled_from([True, True, False, None]))
    def end(self, data: st.DataObject, failed: bool | None) -> None:
        ticket, period = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        turned = self.circuit.settle(ticket, failed=failed)
        before = self.opened_at
        if period == self.period and failed is not None:
            self.streak = self.streak + 1 if failed else 0
            if not failed and before is not None:
                self.opened_at = None
                self.period += 1
            elif failed and (before is not None or self.streak >= self.threshold):
                self.opened_at = self.time.now
                self.period += 1
                assert turned == "open"
        assert (turned == "closed") == (before is not None and self.opened_at is None)

    @rule(seconds=st.sampled_from([1.0, 29.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.time.now += seconds

    @invariant()
    def states_agree(self) -> None:
        if hasattr(self, "circuit"):
            assert self.circuit.state == self.state


TestOverlapping = Overlapping.TestCase
TestOverlapping.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


# Configs, and breakers of one's own


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: StandardBreaker(failure_threshold=0), "failure_threshold"),
        (lambda: StandardBreaker(recovery_seconds=0), "recovery_seconds"),
        (lambda: StandardBreaker(recovery_seconds=float("inf")), "recovery_seconds"),
        (lambda: StandardBreaker(half_open_max_calls=0), "half_open_max_calls"),
        (lambda: StandardBreaker(slow_seconds=-1), "slow_seconds"),
        (lambda: StandardBreaker(scope="tenant"), "scope"),  # type: ignore[arg-type]  # the point of the test
        (lambda: StandardBreaker(trip_codes=frozenset()), "trip_codes"),
        (lambda: StandardBreaker(trip_codes=frozenset({"invalid_input"})), "trip_codes may not have invalid_input"),
        (lambda: StandardBreaker(trip_codes=frozenset({"unauthorized"})), "trip_codes may not have unauthorized"),
        (lambda: StandardBreaker(trip_codes=frozenset({"rate_limited"})), "trip_codes may not have rate_limited"),
        (lambda: AdaptiveBreaker(base_threshold=0), "base_threshold"),
        (lambda: AdaptiveBreaker(base_threshold=5, max_threshold=4), "max_threshold"),
        (lambda: AdaptiveBreaker(error_rate_threshold=0), "error_rate_threshold"),
        (lambda: AdaptiveBreaker(error_rate_threshold=1.5), "error_rate_threshold"),
        (lambda: AdaptiveBreaker(window_size=0), "window_size"),
        (lambda: AdaptiveBreaker(window_size=10, minimum_calls=11), "minimum_calls"),
    ],
)
def test_wrong_numbers_are_refused_when_they_are_written(make: Callable[[], Any], name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        make()


@pytest.mark.parametrize(
    "config",
    [
        NoBreaker(),
        StandardBreaker(),
        StandardBreaker(failure_threshold=2, trip_codes=frozenset({"timeout"}), per_tenant=True, scope="attempt"),
        AdaptiveBreaker(slow_seconds=2.5, minimum_calls=10),
    ],
)
def test_configs_can_be_written_down_and_read_back(config: Any) -> None:
    policies = Policies(breaker=config)
    assert policies_from_json(policies_json(policies)) == policies


def test_defaults_are_those_that_are_documented() -> None:
    standard, adaptive = StandardBreaker(), AdaptiveBreaker()
    assert (standard.failure_threshold, standard.recovery_seconds, standard.half_open_max_calls) == (5, 30, 1)
    assert standard.trip_codes == {"timeout", "unavailable", "tool_failed"}
    assert (adaptive.base_threshold, adaptive.max_threshold) == (5, 20)
    assert (adaptive.error_rate_threshold, adaptive.window_size, adaptive.recovery_seconds) == (0.5, 100, 30)
    assert Faulty().pipeline.policies("breaker") == {}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OnceOnly(BreakerConfig):
    """A kind of one's own: the first failure opens it."""

    kind: ClassVar[str] = "once"

    def tally(self) -> Tally:
        class First:
            def succeeded(self) -> None: ...

            def failed(self) -> bool:
                return True

        return First()


async def test_a_kind_of_ones_own() -> None:
    world = Faulty(away(), breaker=OnceOnly(recovery_seconds=5))
    await world.fails()
    assert isinstance(await world.fails(), CircuitOpen)
    world.time.now += 5
    assert await world.run(1) == 1


class Switch:
    """A breaker of one's own, all of it: opened and closed by hand."""

    def __init__(self) -> None:
        self.off = False

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        if self.off:
            raise CircuitOpen(call.tool.id, 60)
        return await proceed(call)

    def state(self, tenant: str | None = None) -> CircuitState:
        return "open" if self.off else "closed"

    def reset(self) -> None:
        self.off = False


async def test_exec_shows_circuits_and_closes_them() -> None:
    switch = Switch()
    async with AsyncExec() as exec:

        @exec.tool(policies=Policies(breaker=StandardBreaker(failure_threshold=1, per_tenant=True)))
        async def work() -> None:
            raise ToolUnavailable("the far end", "it is away")

        @exec.tool(policies=Policies(breaker=switch))
        async def manual() -> str:
            return "on"

        @exec.tool
        async def plain() -> str:
            return "fine"

        assert await exec.circuits() == {"manual": "closed", "work": "closed"}
        switch.off = True
        with pytest.raises(ToolUnavailable):
            await exec.run_tool("work")
        assert await exec.circuits() == {"manual": "open", "work": "open"}
        assert await exec.circuits("acme") == {"manual": "open", "work": "closed"}
        with pytest.raises(CircuitOpen):
            await exec.run_tool("work")
        with pytest.raises(CircuitOpen):
            await exec.run_tool("manual")
        await exec.reset_circuit("work")
        await exec.reset_circuit("manual")
        assert await exec.circuits() == {"manual": "closed", "work": "closed"}
        assert await exec.run_tool("manual") == "on"
        with pytest.raises(InvalidRequest, match="has no circuit breaker"):
            await exec.reset_circuit("plain")
        with pytest.raises(ToolNotFound):
            await exec.reset_circuit("nothing")


def test_a_snippet_sees_an_open_circuit_and_the_record_why(shared_exec: Exec) -> None:
    def down() -> str:
        raise ToolUnavailable("the far end", "it is away")

    shared_exec.tool(namespace="broken", policies=Policies(breaker=StandardBreaker(failure_threshold=2)))(down)
    try:
        code = (
            "found = []\nfor _ in range(3):\n    try:\n        tools.broken.down()\n"
            "    except tools.ToolError as error:\n        found.append(error.code)\nfound"
        )
        result = shared_exec.execute_code(code, backend="wasm")
        assert result.value == ["unavailable", "unavailable", "circuit_open"]
        assert [call.attempts for call in result.tool_calls] == [1, 1, 0]
        assert result.tool_calls[1].usage["circuit_opened"] is True
        assert result.tool_calls[2].status is CallStatus.REFUSED
        assert shared_exec.circuits()["broken:down"] == "open"
        shared_exec.reset_circuit("broken:down")
        assert shared_exec.circuits()["broken:down"] == "closed"
    finally:
        shared_exec.unregister("broken:down")
