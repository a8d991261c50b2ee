"""Rate limits: how many calls pass, when the next one does, whose bucket it is, and that processes can share one."""

import contextlib
import math
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.base import ParallelCall
from gateway.canonical import digest
from gateway.context import Caller
from gateway.errors import InvalidRequest, RateLimited, ToolDenied, ToolUnavailable
from gateway.journal.base import CallStatus
from gateway.policies.base import Call, Policies, Policy
from gateway.policies.cache import ResultCache
from gateway.policies.kinds import policies_from_json, policies_json
from gateway.policies.rate_limit import RateLimiter, RateLimitStatus, TokenBucket
from gateway.policies.store import MemoryStore, Store, open_store
from gateway.providers.function import function_tool
from gateway.tools.model import Tool
from sandbox import AsyncExec, Exec
from tests.engines import Postgres, Redis
from tests.gateway.policed import Clock, Host, at_once, process

pytestmark = pytest.mark.anyio

ADA, BOB = Caller(tenant_id="acme", user_id="ada"), Caller(tenant_id="acme", user_id="bob")
EVE = Caller(tenant_id="evil", user_id="ada")


async def send(text: str = "") -> str:
    """Send a text."""
    return text


def limited(limit: Any, **options: Any) -> Tool:
    return function_tool(send, policies=Policies(rate_limit=limit, **options.pop("policies", {})), **options)


async def refused(host: Host, caller: Caller = ADA) -> float:
    """When a call would pass."""
    with pytest.raises(RateLimited) as caught:
        await host.call("send", caller=caller)
    after: float = caught.value.details["retry_after_seconds"]
    return after


async def test_a_burst_passes_and_then_one_for_each_token_that_comes_back() -> None:
    host = Host(limited(TokenBucket(calls=4, per_seconds=8)))
    for _ in range(4):
        await host.call("send")
    assert await refused(host) == 2.0
    host.clock.now += 0.5
    assert await refused(host) == 1.5
    host.clock.now += 1.5
    await host.call("send")
    assert await refused(host) == 2.0
    host.clock.now += 1000
    for _ in range(4):
        await host.call("send")
    assert await refused(host) == 2.0


async def test_the_burst_may_be_another_number_and_a_call_may_cost_more() -> None:
    host = Host(limited(TokenBucket(calls=1, per_seconds=1, burst=5, cost=2.5)))
    await host.call("send")
    await host.call("send")
    assert await refused(host) == 2.5
    host.clock.now += 2
    assert await refused(host) == 0.5


async def test_whoever_waits_as_long_as_told_passes_whatever_the_numbers() -> None:
    host = Host(limited(TokenBucket(calls=7, per_seconds=3.3)))
    for _ in range(7):
        await host.call("send")
    for _ in range(50):
        host.clock.now += await refused(host)
        await host.call("send")


async def test_a_refusal_is_recorded_told_and_costs_no_attempt() -> None:
    told: list[tuple[str, Any]] = []
    host = Host(limited(TokenBucket(calls=1, per_seconds=10)))

    class Listening:
        """Stands where observers are told from."""

        async def apply(self, call: Call, proceed: Any) -> Any:
            call.tell_of = lambda _call, kind, details: told.append((kind, dict(details)))
            return await proceed(call)

    host.registry.unregister("send")
    host.registry.register(limited(TokenBucket(calls=1, per_seconds=10), policies={"usage": Listening()}))
    await host.call("send")
    await refused(host)
    passed, stopped = await host.finished()
    assert (passed.status, stopped.status) == (CallStatus.COMPLETED, CallStatus.REFUSED)
    assert (passed.attempts, stopped.attempts) == (1, 0)
    assert stopped.error is not None
    assert (stopped.error["code"], stopped.error["retryable"]) == ("rate_limited", True)
    assert stopped.usage["decisions"] == ["refused by the rate limit for 10 s"]
    assert told == [("rate_limited", {"retry_after_seconds": 10.0})]


@pytest.mark.parametrize(
    ("scope", "bob_shares", "eve_shares"),
    [
        ("tool", True, True),
        ("tenant", True, False),
        ("user", False, False),
        (("tenant", "user"), True, False),
        (("user", "tenant", "tool"), True, True),
    ],
)
async def test_whose_bucket_it_is(scope: Any, bob_shares: bool, eve_shares: bool) -> None:
    host = Host(limited(TokenBucket(calls=1, per_seconds=60, scope=scope)))
    await host.call("send", caller=ADA)
    await refused(host, ADA)
    for caller, shares in ((BOB, bob_shares), (EVE, eve_shares)):
        if shares:
            await refused(host, caller)
        else:
            await host.call("send", caller=caller)


EACH = TokenBucket(
    calls=2, per_seconds=20, scope=("tool", "tenant", "user"), scopes={"tenant": {"calls": 3}, "tool": {"calls": 4}}
)


async def available(host: Host, caller: Caller) -> dict[str, float]:
    """What is in the buckets of a caller, by scope."""
    (limiter,) = host.pipeline.policies("rate_limit").values()
    assert isinstance(limiter, RateLimiter)
    return {scope: status.available for scope, status in (await limiter.status(caller)).buckets.items()}


async def test_of_several_scopes_each_has_a_bucket() -> None:
    host = Host(limited(EACH))
    await host.call("send", caller=ADA)
    await host.call("send", caller=ADA)
    assert await refused(host, ADA) == 10  # by her own: 2 in 20 s
    assert await available(host, ADA) == {"user": 0, "tenant": 1, "tool": 2}
    await host.call("send", caller=BOB)
    assert await refused(host, BOB) == pytest.approx(20 / 3)  # by that of the tenant
    assert await available(host, BOB) == {"user": 1, "tenant": 0, "tool": 1}  # he was given his own back
    await host.call("send", caller=EVE)
    assert await refused(host, EVE) == 5  # by that of all
    assert await available(host, EVE) == {"user": 1, "tenant": 2, "tool": 0}


async def test_of_several_buckets_the_longest_wait_is_told_and_is_enough() -> None:
    limit = TokenBucket(calls=1, per_seconds=10, scope=("user", "tool"), scopes={"tool": {"per_seconds": 40}})
    host = Host(limited(limit))
    await host.call("send", caller=ADA)
    assert await refused(host, ADA) == 40  # her own is full again in 10
    host.clock.now += 39
    assert await refused(host, ADA) == pytest.approx(1)
    assert await available(host, ADA) == pytest.approx({"user": 1, "tool": 39 / 40})
    host.clock.now += 1
    await host.call("send", caller=ADA)


async def test_a_tenants_rate_is_that_of_its_bucket_where_it_has_one() -> None:
    limit = TokenBucket(calls=1, per_seconds=60, scope=("user", "tenant"), tenants={"acme": {"calls": 2}})
    host = Host(limited(limit))
    await host.call("send", caller=ADA)
    assert await available(host, ADA) == {"user": 0, "tenant": 1}
    await host.call("send", caller=BOB)
    assert await refused(host, Caller(tenant_id="acme", user_id="cyd")) == 30


async def test_of_several_buckets_the_emptiest_is_shown_and_all_are_filled_again() -> None:
    host = Host(limited(EACH))
    (limiter,) = host.pipeline.policies("rate_limit").values()
    assert isinstance(limiter, RateLimiter)
    for caller in (ADA, BOB, EVE, EVE):
        await host.call("send", caller=caller)
    status = await limiter.status(ADA)
    assert (status.available, status.capacity, status.utilization_percent) == (0, 4, 100)
    assert {scope: one.capacity for scope, one in status.buckets.items()} == {"user": 2, "tenant": 3, "tool": 4}
    await limiter.reset()
    assert await available(host, ADA) == {"user": 2, "tenant": 3, "tool": 4}


class HalfGone(MemoryStore):
    """Answers for all buckets but that of the tool; `giving` says whether it takes anything back."""

    giving = True

    async def take(self, key: str, tokens: float, *rate: float) -> Any:
        if key == "rate/send/" or (tokens < 0 and not self.giving):
            raise ToolUnavailable("the shared store", "it is away")
        return await super().take(key, tokens, *rate)


@pytest.mark.parametrize("giving", [True, False])
async def test_a_store_that_goes_away_between_two_buckets_refuses_and_gets_the_first_back(giving: bool) -> None:
    store = HalfGone(clock=Clock())
    store.giving = giving
    host = Host(limited(TokenBucket(calls=2, per_seconds=60, scope=("tool", "user"))), store=store)
    with pytest.raises(ToolUnavailable):
        await host.call("send", caller=ADA)
    key = f"rate/send/{digest('acme', 'ada')}"
    assert (await store.take(key, 0, 2, 1 / 30)).available == (2 if giving else 1)


async def test_a_call_that_is_cancelled_between_two_buckets_takes_nothing() -> None:
    class Slow(MemoryStore):
        async def take(self, key: str, tokens: float, *rate: float) -> Any:
            if key == "rate/send/":
                await anyio.sleep_forever()
            return await super().take(key, tokens, *rate)

    host = Host(limited(TokenBucket(calls=2, per_seconds=60, scope=("tool", "user"))), store=Slow(clock=Clock()))
    with anyio.move_on_after(0.02):
        await host.call("send", caller=ADA)
    assert (await host.store.take(f"rate/send/{digest('acme', 'ada')}", 0, 2, 1 / 30)).available == 2


async def test_in_a_shared_store_calls_at_once_take_from_all_or_none(tmp_path: Path) -> None:
    slow = TokenBucket(calls=6, per_seconds=36_000, scope=("user", "tool"), scopes={"tool": {"calls": 8}})
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    host = Host(limited(slow), store=store)
    passed: list[Caller] = []

    async def one(caller: Caller) -> None:
        with contextlib.suppress(RateLimited):
            await host.call("send", caller=caller)
            passed.append(caller)

    async with anyio.create_task_group() as calls:
        for caller in (ADA, BOB) * 8:
            calls.start_soon(one, caller)
    assert 0 < len(passed) <= 8
    assert max(passed.count(ADA), passed.count(BOB)) <= 6
    for caller in (ADA, BOB):
        left = {"user": 6 - passed.count(caller), "tool": 8 - len(passed)}
        assert await available(host, caller) == pytest.approx(left, abs=0.05)
    await store.aclose()


async def test_names_that_run_into_each_other_have_buckets_of_their_own() -> None:
    host = Host(limited(TokenBucket(calls=1, per_seconds=60, scope="user")))
    for tenant, user in (("a", "b/c"), ("a/b", "c"), ("", "ab"), ("ab", ""), ('a","b', "c"), ("a", 'b","c')):
        await host.call("send", caller=Caller(tenant_id=tenant, user_id=user))


async def test_each_tool_has_its_own() -> None:
    limit = TokenBucket(calls=1, per_seconds=60)
    host = Host(limited(limit), limited(limit, name="other"), limited(limit, name="send", namespace="x"))
    for tool_id in ("send", "other", "x:send"):
        await host.call(tool_id)
    await refused(host)


async def test_tenants_may_have_rates_of_their_own() -> None:
    limit = TokenBucket(calls=1, per_seconds=60, scope="tenant", tenants={"acme": {"calls": 3, "per_seconds": 30}})
    host = Host(limited(limit))
    for _ in range(3):
        await host.call("send", caller=ADA)
    assert await refused(host, ADA) == 10
    await host.call("send", caller=EVE)
    assert await refused(host, EVE) == 60


async def test_who_is_refused_before_and_who_is_answered_from_the_cache_takes_nothing() -> None:
    cached = {"cache": ResultCache()}
    host = Host(limited(TokenBucket(calls=2, per_seconds=60), read_only=True, roles=["admin"], policies=cached))
    with pytest.raises(ToolDenied):
        await host.call("send", caller=ADA)
    admin = Caller(role="admin")
    for _ in range(5):
        await host.call("send", caller=admin)
    await host.call("send", caller=admin, text="other")
    with pytest.raises(RateLimited):
        await host.call("send", caller=admin, text="third")


@pytest.mark.parametrize(
    "wrong",
    [
        {"calls": 0, "per_seconds": 1},
        {"calls": -1, "per_seconds": 1},
        {"calls": 1, "per_seconds": 0},
        {"calls": 1, "per_seconds": math.inf},
        {"calls": math.nan, "per_seconds": 1},
        {"calls": True, "per_seconds": 1},
        {"calls": 1, "per_seconds": 1, "burst": 0},
        {"calls": 1, "per_seconds": 1, "cost": 0},
        {"calls": 1, "per_seconds": 1, "cost": 2},  # it could never pass
        {"calls": 5, "per_seconds": 1, "burst": 2, "cost": 3},
        {"calls": 1, "per_seconds": 1, "scope": "everybody"},
        {"calls": 1, "per_seconds": 1, "scope": ("tenant", "x")},
        {"calls": 1, "per_seconds": 1, "scope": ()},
        {"calls": 1, "per_seconds": 1, "scopes": {"user": {"calls": 2}}},  # it has no bucket
        {"calls": 1, "per_seconds": 1, "scope": ("tool", "user"), "scopes": {"user": {"calls": 0}}},
        {"calls": 1, "per_seconds": 1, "scope": ("tool", "user"), "scopes": {"user": {"callz": 1}}},
        {"calls": 1, "per_seconds": 1, "scope": ("tool",), "tenants": {"acme": {"calls": 2}}},
        {"calls": 1, "per_seconds": 1, "tenants": {"acme": {"calls": 2}}},  # of one bucket for all
        {"calls": 1, "per_seconds": 1, "scope": "tenant", "tenants": {"acme": {"calls": 0}}},
        {"calls": 1, "per_seconds": 1, "scope": "tenant", "tenants": {"acme": {"callz": 2}}},
        {"calls": 9, "per_seconds": 1, "scope": "tenant", "cost": 3, "tenants": {"acme": {"calls": 2}}},
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        TokenBucket(**wrong)


def test_it_can_be_written_down() -> None:
    chosen = Policies(
        rate_limit=TokenBucket(
            calls=2,
            per_seconds=5,
            scope=("tenant", "user"),
            scopes={"user": {"calls": 1.0}},
            tenants={"a": {"calls": 9.0}},
        )
    )
    written = policies_json(chosen)
    assert written["rate_limit"]["kind"] == "token_bucket"
    assert policies_from_json(written) == chosen


async def test_status_looks_the_same_before_and_after_the_first_call_and_reset_fills() -> None:
    async with AsyncExec() as exec:
        exec.register(limited(TokenBucket(calls=4, per_seconds=4000, scope="user")), function_tool(send, name="free"))
        full = {"send": RateLimitStatus(4, 4, 0.001, 0.0)}
        assert await exec.rate_limits(caller=ADA) == full
        await exec.run_tool("send", {}, caller=ADA)
        (status,) = (await exec.rate_limits(caller=ADA)).values()
        assert (status.capacity, status.refill_per_second) == (4, 0.001)
        assert status.available == pytest.approx(3, abs=0.01)
        assert status.utilization_percent == pytest.approx(25, abs=0.3)
        assert await exec.rate_limits(caller=BOB) == full
        await exec.reset_rate_limits("free")
        assert await exec.rate_limits(caller=ADA) != full
        await exec.reset_rate_limits("send")
        assert await exec.rate_limits(caller=ADA) == full
        await exec.run_tool("send", {}, caller=BOB)
        await exec.reset_rate_limits()
        assert await exec.rate_limits(caller=BOB) == full


def test_a_snippet_is_told_when_to_try_again() -> None:
    with Exec(workers=1, pool_size=1) as exec:
        exec.register(limited(TokenBucket(calls=2, per_seconds=600)))
        result = exec.execute_code(
            """
            sent = [tools.send(text=str(n)) for n in range(2)]
            try:
                tools.send(text="2")
            except tools.ToolError as error:
                sent += [error.code, error.retryable, error.details["retry_after_seconds"] > 290]
            sent
            """
        )
        assert result.value == ["0", "1", "rate_limited", True, True]
        assert [str(call.status) for call in result.tool_calls] == ["completed", "completed", "refused"]
        assert exec.rate_limits()["send"].available < 0.1


async def test_calls_at_once_take_no_more_than_there_is() -> None:
    host = Host(limited(TokenBucket(calls=10, per_seconds=60), read_only=True))
    outcomes = await host.gateway().run_parallel([ParallelCall("send", {})] * 40)
    assert sum(outcome.ok for outcome in outcomes) == 10
    assert {outcome.error["code"] for outcome in outcomes if outcome.error} == {"rate_limited"}


class Silent(MemoryStore):
    """Does not answer."""

    async def take(self, *_: Any) -> Any:
        raise ToolUnavailable("the shared store", "it is away")


async def test_without_its_store_no_call_passes() -> None:
    host = Host(limited(TokenBucket(calls=10, per_seconds=1)), store=Silent())
    with pytest.raises(ToolUnavailable):
        await host.call("send")
    (finished,) = await host.finished()
    assert (finished.status, finished.attempts) == (CallStatus.REFUSED, 0)


async def test_buckets_that_are_full_again_are_forgotten() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock, max_entries=50)
    for number in range(500):
        await store.take(f"rate/{number}", 1, 10, 1)
        clock.now += 0.1
    assert store.size <= 11
    clock.now += 2
    assert store.size == 0


TAKE = """
    import sys, anyio
    from gateway.errors import RateLimited
    from gateway.policies.base import Policies
    from gateway.policies.rate_limit import TokenBucket
    from sandbox import AsyncExec

    async def main():
        exec = AsyncExec(store=sys.argv[1])
        exec.tool(policies=Policies(rate_limit=TokenBucket(calls=10, per_seconds=3600)), name=sys.argv[2])(lambda: 1)
        print("ready", flush=True)
        sys.stdin.readline()
        passed = 0
        for _ in range(10):
            try:
                passed += await exec.run_tool(sys.argv[2])
            except RateLimited:
                pass
        print(passed, flush=True)
        await exec.aclose()

    anyio.run(main)
"""


@pytest.mark.parametrize("engine", ["redis", "postgres"])
def test_two_processes_share_one_limit(request: pytest.FixtureRequest, engine: str) -> None:
    server: Redis | Postgres = request.getfixturevalue(engine)
    processes = [process(TAKE, server.url, "shared") for _ in range(2)]
    for one in processes:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    answers = [one.communicate("go\n", timeout=30)[0] for one in processes]
    assert sum(map(int, answers)) == 10
    assert all(one.returncode == 0 for one in processes)


class BucketMachine(RuleBasedStateMachine):
    """A bucket against arithmetic on whole numbers: of 1/8 tokens and 1/4 seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store: Store = MemoryStore(clock=self.clock)
        self.eighths = 40  # 5 tokens, refilled by half a token each second

    @rule(quarters=st.integers(0, 60))
    def wait(self, quarters: int) -> None:
        self.clock.now += quarters / 4
        self.eighths = min(40, self.eighths + quarters)

    @rule(wanted=st.integers(1, 40))
    def take(self, wanted: int) -> None:
        taken = self._do(wanted / 8)
        if wanted <= self.eighths:
            self.eighths -= wanted
            assert taken.retry_after_seconds == 0
        else:
            assert taken.retry_after_seconds == (wanted - self.eighths) / 4
        assert taken.available == self.eighths / 8

    @rule()
    def reset(self) -> None:
        at_once(self.store.clear("rate/"))
        self.eighths = 40

    @invariant()
    def looking_says_what_is_there(self) -> None:
        assert self._do(0).available == self.eighths / 8

    def _do(self, tokens: float) -> Any:
        return at_once(self.store.take("rate/x", tokens, 5.0, 0.5))


BucketMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestBucket = BucketMachine.TestCase


def test_the_policy_is_one() -> None:
    host = Host(limited(TokenBucket(calls=1, per_seconds=1)))
    (policy,) = host.pipeline.policies("rate_limit").values()
    assert isinstance(policy, Policy)
