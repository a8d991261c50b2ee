"""Choosing among tools that do the same: by strategy, by context, by what became of it; never what cannot be used."""

import json
import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from gateway.base import JsonValue
from gateway.context import Caller, ToolContext
from gateway.errors import InvalidInput, InvalidRequest, ToolDenied, ToolError, ToolFailed, ToolUnavailable
from gateway.payload import Encoded
from gateway.policies import AccessRules, Call, FixedRetry, Policies, Proceed, StandardBreaker, TokenBucket
from gateway.selection import ToolGroup, reward
from gateway.selection import selector as selector_module
from gateway.selection.selection import context_of
from gateway.selection.selector import OPEN_SECONDS, Selector
from sandbox import AsyncExec

pytestmark = pytest.mark.anyio

TOOLS = ("web:search", "kb:search", "crm:search")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def selector(seed: int = 1, clock: Clock | None = None, tools: tuple[str, ...] = TOOLS, **options: Any) -> Selector:
    return Selector(ToolGroup("search", tools, **options), random=random.Random(seed), clock=clock or Clock())


def learn(chosen: Selector, rounds: int, rates: dict[str, float], seed: int = 7, **context: JsonValue) -> Counter[str]:
    """Let it choose so often among tools that succeed at these rates; how often it took each in the last half."""
    chance = random.Random(seed)
    taken: Counter[str] = Counter()
    for number in range(rounds):
        decision = chosen.select(tuple(rates), context)
        if number >= rounds // 2:
            taken[decision.tool_id] += 1
        success = chance.random() < rates[decision.tool_id]
        assert chosen.feedback(decision.decision_id, success=success, latency_seconds=0.1)
    return taken


# Rewards


@pytest.mark.parametrize(
    ("success", "latency_seconds", "expected"),
    [(True, 0, 1.0), (True, 2.5, 0.75), (True, 5, 0.5), (True, 500, 0.5), (False, 0, 0.0), (False, 5, -0.5)],
)
def test_a_reward_is_success_less_time(success: bool, latency_seconds: float, expected: float) -> None:
    assert reward(success=success, latency_seconds=latency_seconds) == expected


# Strategies


@pytest.mark.parametrize("strategy", ["epsilon_greedy", "ucb1", "thompson"])
def test_every_tool_is_tried_once_before_anything_else(strategy: Any) -> None:
    for seed in range(20):
        chosen = selector(seed, strategy=strategy, epsilon=1.0)
        decisions = [chosen.select(TOOLS) for _ in TOOLS]
        assert {decision.tool_id for decision in decisions} == set(TOOLS)
        assert {decision.reason for decision in decisions} == {"cold_start"}
        assert chosen.select(TOOLS).reason != "cold_start"  # whether or not anything was heard of them


def test_a_bad_beginning_does_not_keep_the_others_out() -> None:
    chosen = selector(epsilon=0.0)
    first = chosen.select(TOOLS)
    chosen.feedback(first.decision_id, success=False, latency_seconds=9)
    assert first.tool_id not in {chosen.select(TOOLS).tool_id for _ in range(2)}


def test_epsilon_0_takes_the_best_and_epsilon_1_takes_any() -> None:
    rates = {"web:search": 1.0, "kb:search": 0.0, "crm:search": 0.0}
    assert learn(selector(epsilon=0.0), 100, rates) == {"web:search": 50}
    anything = learn(selector(epsilon=1.0), 3000, rates)
    assert all(400 < count < 600 for count in anything.values())
    assert len(anything) == 3


@pytest.mark.parametrize("strategy", ["epsilon_greedy", "ucb1", "thompson"])
@pytest.mark.parametrize("seed", range(5))
def test_it_converges_on_the_best(strategy: Any, seed: int) -> None:
    rates = {"web:search": 0.9, "kb:search": 0.4, "crm:search": 0.2}
    chosen = selector(seed, strategy=strategy)
    taken = learn(chosen, 2000, rates, seed)
    assert taken.most_common(1)[0][0] == "web:search" == chosen.best()
    assert taken["web:search"] > 700


def test_the_same_seed_makes_the_same_choices() -> None:
    rates = dict.fromkeys(TOOLS, 0.5)
    assert learn(selector(3), 300, rates) == learn(selector(3), 300, rates)
    ids = {selector(3).select(TOOLS).decision_id for _ in range(50)}
    assert len(ids) == 50


# Contexts


@pytest.mark.parametrize("strategy", ["epsilon_greedy", "thompson"])
def test_a_different_tool_may_be_best_in_each_context(strategy: Any) -> None:
    chosen = selector(context_keys=["kind"], strategy=strategy)
    good_for = {"legal": "kb:search", "news": "web:search", "people": "crm:search"}
    chance = random.Random(5)
    for _ in range(4000):
        kind = chance.choice(list(good_for))
        decision = chosen.select(TOOLS, {"kind": kind})
        success = chance.random() < (0.9 if decision.tool_id == good_for[kind] else 0.2)
        chosen.feedback(decision.decision_id, success=success, latency_seconds=0)
    assert {kind: chosen.best({"kind": kind}) for kind in good_for} == good_for
    taken = Counter(chosen.select(TOOLS, {"kind": "legal"}).tool_id for _ in range(100))
    assert taken["kb:search"] > 70


def test_a_new_context_begins_with_what_is_known_over_all() -> None:
    chosen = selector(context_keys=["kind"], epsilon=0.0)
    learn(chosen, 30, {"web:search": 0.0, "kb:search": 1.0, "crm:search": 0.0}, kind="legal")
    assert chosen.best({"kind": "never seen"}) == "kb:search"
    assert {chosen.select(TOOLS, {"kind": "never seen"}).tool_id for _ in range(20)} == {"kb:search"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"n": 100}, {"n": 64}, True),
        ({"n": 100}, {"n": 128}, False),
        ({"n": -100}, {"n": 100}, False),
        ({"n": 0}, {"n": 0.0}, True),
        ({"t": " Legal "}, {"t": "legal"}, True),
        ({"t": "1"}, {"n": 1}, False),
        ({"t": "a", "other": 1}, {"t": "a", "other": 2}, True),
        ({"t": None}, {}, True),
        ({"t": "a&n=2^1"}, {"t": "a", "n": 2}, False),
        ({"t": True}, {"t": "true"}, False),
    ],
)
def test_which_contexts_count_as_the_same(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    group = ToolGroup("search", TOOLS, context_keys=["t", "n"])
    assert (group.bucket(one) == group.bucket(other)) is same


@pytest.mark.parametrize("value", [[1], {"a": 1}, math.nan, math.inf])
def test_what_no_context_is(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        ToolGroup("search", TOOLS, context_keys=["x"]).bucket({"x": value})


def test_contexts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selector_module, "MAX_CONTEXTS", 5)
    chosen = selector(context_keys=["n"])
    for number in range(50):
        chosen.select(TOOLS, {"n": 2**number})
    assert chosen.stats()["contexts"] == 5
    assert chosen.stats()["total_decisions"] == 50


# Feedback


def test_feedback_counts_once_and_only_when_it_is_known() -> None:
    chosen = selector()
    decision = chosen.select(TOOLS)
    assert chosen.feedback(decision.decision_id, success=True, latency_seconds=0)
    assert not chosen.feedback(decision.decision_id, success=True, latency_seconds=0)
    assert not chosen.feedback("unknown", success=True, latency_seconds=0)
    assert chosen.stats()["total_pulls"] == 1
    for latency in (-1, math.nan, math.inf):
        with pytest.raises(InvalidRequest):
            chosen.feedback(decision.decision_id, success=True, latency_seconds=latency)


def test_feedback_may_be_late_and_not_too_late() -> None:
    clock = Clock()
    chosen = selector(clock=clock)
    late, too_late = chosen.select(TOOLS), chosen.select(TOOLS)
    clock.now = OPEN_SECONDS - 0.001
    assert chosen.feedback(late.decision_id, success=True, latency_seconds=0)
    clock.now = OPEN_SECONDS
    assert not chosen.feedback(too_late.decision_id, success=True, latency_seconds=0)
    assert chosen.stats()["open_decisions"] == 0


def test_decisions_that_nobody_tells_of_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selector_module, "MAX_OPEN", 10)
    chosen = selector()
    decisions = [chosen.select(TOOLS) for _ in range(30)]
    assert chosen.stats()["open_decisions"] == 10
    heard = [chosen.feedback(each.decision_id, success=True, latency_seconds=0) for each in decisions]
    assert heard == [False] * 20 + [True] * 10


class Learning(RuleBasedStateMachine):
    """Against a plain count of what was told."""

    decisions: Bundle[Any] = Bundle("decisions")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.chosen = selector(clock=self.clock, context_keys=["k"])
        self.told: Counter[str] = Counter()
        self.earned: Counter[str] = Counter()
        self.open: dict[str, float] = {}

    @rule(target=decisions, usable=st.sets(st.sampled_from(TOOLS), min_size=1), k=st.sampled_from(["a", "b", None]))
    def select(self, usable: set[str], k: str | None) -> Any:
        decision = self.chosen.select(sorted(usable), {"k": k})
        assert decision.tool_id in usable
        assert decision.decision_id not in self.open
        self.open[decision.decision_id] = self.clock.now
        return decision

    @rule(decision=decisions, success=st.booleans(), latency=st.integers(0, 10))
    def tell(self, decision: Any, success: bool, latency: int) -> None:
        began = self.open.pop(decision.decision_id, None)
        known = began is not None and self.clock.now - began < OPEN_SECONDS
        assert self.chosen.feedback(decision.decision_id, success=success, latency_seconds=latency) is known
        if known:
            self.told[decision.tool_id] += 1
            self.earned[decision.tool_id] += reward(success=success, latency_seconds=latency)  # type: ignore[assignment]

    @rule(seconds=st.sampled_from([1.0, OPEN_SECONDS / 2, OPEN_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def save_and_load(self) -> None:
        saved = json.loads(json.dumps(self.chosen.state()))
        self.chosen = selector(clock=self.clock, context_keys=["k"])
        self.chosen.load(saved)
        assert self.chosen.state() == saved
        self.open.clear()

    @rule()
    def reset(self) -> None:
        self.chosen.reset()
        self.told.clear()
        self.earned.clear()
        self.open.clear()

    @invariant()
    def agrees(self) -> None:
        arms: Any = self.chosen.stats()["arms"]
        for tool_id in TOOLS:
            assert arms[tool_id]["pulls"] == self.told[tool_id]
            assert math.isclose(arms[tool_id]["total_reward"], self.earned[tool_id], abs_tol=1e-6)
            assert arms[tool_id]["pulls"] <= arms[tool_id]["selections"]
        here: Any = [self.chosen.stats({"k": k})["arms"] for k in ("a", "b")]
        assert all(sum(arms[each]["pulls"] for arms in here) <= self.told[each] for each in TOOLS)


TestLearning = Learning.TestCase


# What was learnt


def test_nothing_is_best_before_anything_was_heard() -> None:
    chosen = selector()
    chosen.select(TOOLS)
    assert chosen.best() is None
    learn(chosen, 50, {"web:search": 0.0, "kb:search": 1.0, "crm:search": 0.0})
    assert chosen.best() == "kb:search"
    chosen.reset()
    assert chosen.best() is None
    assert chosen.stats()["total_pulls"] == 0


def test_what_was_saved_fits_a_group_that_has_changed() -> None:
    chosen = selector(tools=("a", "b"), epsilon=0.0)
    learn(chosen, 20, {"a": 1.0, "b": 0.0})
    other = selector(tools=("b", "c"), epsilon=0.0)
    other.load(chosen.state())
    assert other.stats()["arms"]["b"]["pulls"] == chosen.stats()["arms"]["b"]["pulls"]
    assert other.select(("b", "c")).tool_id == "c"  # it was never tried


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"version": 2, "decisions": 0, "arms": {"": {}}},
        {"version": 1, "decisions": 0, "arms": {}},
        {"version": 1, "decisions": -1, "arms": {"": {}}},
        {"version": 1, "decisions": 0, "arms": {"": {"web:search": [1, 1]}}},
        {"version": 1, "decisions": 0, "arms": {"": {"web:search": [1, -1, 0]}}},
        {"version": 1, "decisions": 0, "arms": {"": {"web:search": [1, 1, 9.5]}}},
        {"version": 1, "decisions": 0, "arms": {"": {"web:search": [1, 1, "nan"]}}},
        {"version": 1, "decisions": 0, "arms": {"": {"web:search": [True, 1, 0]}}},
    ],
)
def test_a_state_that_cannot_be_read_changes_nothing(state: Any) -> None:
    chosen = selector()
    learn(chosen, 20, dict.fromkeys(TOOLS, 0.5))
    before = chosen.state()
    with pytest.raises(InvalidRequest, match="cannot be read"):
        chosen.load(state)
    assert chosen.state() == before


@pytest.mark.parametrize(
    ("name", "tools", "options"),
    [
        ("search", [], {}),
        ("search", ["a", "a"], {}),
        ("search", ["search"], {}),
        ("search", "abc", {}),
        ("search", ["a"], {"epsilon": 1.1}),
        ("search", ["a"], {"epsilon": -0.1}),
        ("search", ["a"], {"epsilon": math.nan}),
        ("search", ["a"], {"strategy": "best"}),
        ("search", ["a"], {"context_keys": "kind"}),
        ("a:b:1", ["a"], {}),
    ],
)
def test_groups_that_mean_nothing_are_refused(name: str, tools: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        ToolGroup(name, tools, **options)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 20)), max_size=30))
def test_averages_are_those_of_the_rewards(heard: list[tuple[bool, float]]) -> None:
    chosen = selector(tools=("only",))
    rewards = []
    for success, latency in heard:
        decision = chosen.select(("only",))
        chosen.feedback(decision.decision_id, success=success, latency_seconds=latency)
        rewards.append(reward(success=success, latency_seconds=latency))
    arms: Any = chosen.stats()["arms"]
    assert math.isclose(arms["only"]["avg_reward"], sum(rewards) / len(rewards) if rewards else 0, abs_tol=1e-9)


# In a host


class Open:
    """A breaker that is open for one tenant."""

    def state(self, tenant: str | None) -> str:
        return "open" if tenant == "acme" else "closed"

    def reset(self) -> None: ...

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        return await proceed(call)


GROUP = ToolGroup("find", ["web:search", "kb:search"], epsilon=0.0, context_keys=["role"])


def host_with(host: AsyncExec, **policies: Policies) -> list[str]:
    ran: list[str] = []

    def searching(name: str) -> Any:
        def search(query: str) -> str:
            ran.append(name)
            if query == "fail" or (query == "web is bad" and name == "web"):
                raise LookupError("nothing")
            return f"{name}: {query}"

        return search

    for name in ("web", "kb"):
        host.tool(searching(name), namespace=name, name="search", policies=policies.get(name, Policies()))
    return ran


async def test_a_decision_and_its_feedback() -> None:
    async with AsyncExec() as exec:
        host_with(exec)
        first = await exec.select_tool(GROUP, context={"role": "sdr"})
        assert await exec.record_feedback(first.decision_id, success=True, latency_seconds=0.2)
        assert not await exec.record_feedback(first.decision_id, success=True, latency_seconds=0.2)
        second = await exec.select_tool("find")
        assert {first.tool_id, second.tool_id} == {"web:search", "kb:search"}
        assert exec.selection.selector("find").best() == first.tool_id
        with pytest.raises(InvalidRequest, match=r"no group 'lost'; there are find"):
            await exec.select_tool("lost")
        with pytest.raises(InvalidRequest, match="another group 'find'"):
            await exec.select_tool(ToolGroup("find", ["web:search"]))


async def test_running_a_group_learns_by_itself_and_is_saved() -> None:
    async with AsyncExec() as exec:
        ran = host_with(exec)
        for _ in range(10):
            try:
                await exec.run_selected(GROUP, {"query": "web is bad"})
            except ToolFailed:
                assert ran[-1] == "web"
        assert ran.count("kb") == 9
        saved = json.loads(json.dumps(exec.selection.state()))
    async with AsyncExec() as again:
        ran = host_with(again)
        again.selection.add(GROUP)
        again.selection.load(saved)
        assert await again.run_selected("find", {"query": "x"}) == "kb: x"


async def test_what_does_not_fit_says_nothing_of_a_tool() -> None:
    async with AsyncExec() as exec:
        host_with(exec)
        with pytest.raises(InvalidInput):
            await exec.run_selected(GROUP, {"quest": 1})
        assert exec.selection.stats()["find"]["total_pulls"] == 0
        assert exec.selection.stats()["find"]["open_decisions"] == 0


async def test_what_cannot_be_used_is_not_chosen() -> None:
    coach = Caller(role="coach")
    async with AsyncExec() as exec:
        ran = host_with(
            exec,
            web=Policies(access=AccessRules(roles=frozenset({"sdr"}))),
            kb=Policies(breaker=Open()),
        )
        for _ in range(5):
            assert (await exec.run_selected(GROUP, {"query": "x"}, caller=coach)) == "kb: x"
        for caller in (Caller(role="coach", tenant_id="acme"),):
            with pytest.raises(ToolUnavailable, match="none of its tools"):
                await exec.run_selected(GROUP, {"query": "x"}, caller=caller)
        assert await exec.run_selected(GROUP, {"query": "x"}, caller=Caller(role="sdr", tenant_id="acme")) == "web: x"
        exec.selection.blocked = lambda tool_id: tool_id == "kb:search"
        with pytest.raises(ToolUnavailable):
            await exec.run_selected(GROUP, {"query": "x"}, caller=coach)
        exec.selection.blocked = lambda tool_id: False
        exec.registry.disable("kb:search")
        with pytest.raises(ToolUnavailable):
            await exec.run_selected(GROUP, {"query": "x"}, caller=coach)
        assert ran.count("web") == 1


async def test_a_tool_whose_circuit_opened_is_left_alone() -> None:
    async with AsyncExec() as exec:
        ran = host_with(exec, web=Policies(breaker=StandardBreaker(failure_threshold=1)))
        assert await exec.run_tool("kb:search", {"query": "x"})
        with pytest.raises(ToolFailed):
            await exec.run_tool("web:search", {"query": "fail"})
        assert await exec.circuits() == {"web:search": "open"}
        for _ in range(5):
            assert await exec.run_selected(GROUP, {"query": "x"}) == "kb: x"
        assert ran.count("web") == 1


async def test_switched_off_it_takes_the_first_and_learns_nothing() -> None:
    async with AsyncExec() as exec:
        ran = host_with(exec)
        exec.selection.enabled = False
        for _ in range(5):
            await exec.run_selected(GROUP, {"query": "x"})
        assert ran == ["web"] * 5
        decision = await exec.select_tool(GROUP)
        assert decision.decision_id == ""
        assert not await exec.record_feedback(decision.decision_id, success=True, latency_seconds=0)
        assert exec.selection.stats()["find"]["total_decisions"] == 0


async def test_a_snippet_calls_a_group_like_a_tool() -> None:
    async with AsyncExec(workers=1, pool_size=1) as exec:
        ran = host_with(exec)
        exec.register_group(GROUP, description="find something")
        code = """
        found = []
        for query in ("web is bad", "web is bad", "x"):
            try:
                found.append(tools.find(query=query))
            except tools.ToolError as error:
                found.append(error.code)
        return found
        """
        result = await exec.execute_code(code, allowed_tools=["find"])
        assert sorted(set(ran)) == ["kb", "web"]
        assert ran[2] == "kb"
        assert result.value.count("tool_failed") == 1
        recorded = [(call.tool_id, call.via) for call in result.tool_calls]
        assert recorded[0] == ("find", "run_tool")
        assert recorded[1] in [("web:search", "call_tool"), ("kb:search", "call_tool")]
        assert [call.index for call in result.tool_calls] == list(range(6))
        denied = await exec.execute_code("tools.web.search(query='x')", allowed_tools=["find"])
        assert denied.error is not None
        assert "tool_denied" in repr(denied.tool_calls)


async def test_a_group_gives_nobody_more_than_their_role() -> None:
    async with AsyncExec() as exec:
        ran: list[str] = []

        @exec.tool(roles=["boss"])
        def secret() -> None:
            ran.append("boss")

        exec.register_group(ToolGroup("any", ["secret"]))
        with pytest.raises(ToolUnavailable):
            await exec.run_tool("any", caller=Caller(role="clerk"))
        await exec.run_tool("any", caller=Caller(role="boss"))
        assert ran == ["boss"]

        @exec.tool
        async def sly(context: ToolContext) -> None:
            assert context.call_tool is not None
            await context.call_tool("secret", {})

        with pytest.raises(ToolDenied):
            await exec.run_tool("sly", caller=Caller(role="clerk"))


async def test_defaults_are_for_the_members_of_a_group_and_not_for_it_as_well() -> None:
    defaults = Policies(
        retry=FixedRetry(max_attempts=3, delay_seconds=0.001), rate_limit=TokenBucket(calls=5, per_seconds=60)
    )
    async with AsyncExec(tool_policies=defaults) as exec:
        tried: list[int] = []

        @exec.tool(read_only=True)
        def away() -> None:
            tried.append(1)
            raise ToolUnavailable("it", "it is away")

        exec.register_group(ToolGroup("any", ["away"]))
        with pytest.raises(ToolUnavailable):
            await exec.run_tool("any")
        assert len(tried) == 3
        assert list(await exec.rate_limits()) == ["away"]
        assert (await exec.tool_health("any")).status == "unknown"


async def test_a_group_of_groups_ends() -> None:
    async with AsyncExec() as exec:
        exec.register_group(ToolGroup("a", ["b"]), input_schema={"type": "object"})
        exec.register_group(ToolGroup("b", ["a"]), input_schema={"type": "object"})
        with pytest.raises(ToolUnavailable):
            await exec.run_tool("a")
        with pytest.raises(InvalidRequest, match="register them first"):
            exec.register_group(ToolGroup("c", ["nowhere"]))


def test_arguments_cannot_speak_for_the_caller() -> None:
    context = context_of(Caller(role="sdr"), {"role": "boss", "tenant_id": "acme", "query": "x", "list": [1]})
    assert (context["role"], context["tenant_id"], context["query"]) == ("sdr", None, "x")
    assert "list" not in context


async def test_errors_of_the_chosen_tool_come_through() -> None:
    async with AsyncExec() as exec:
        host_with(exec)
        with pytest.raises(ToolError, match="nothing"):
            await exec.run_selected(GROUP, {"query": "fail"})
        stats: Any = exec.selection.stats()["find"]
        assert (stats["total_pulls"], stats["open_decisions"]) == (1, 0)
