"""Settings of policies: every switch, under its own name and its other one, changes what calls do."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import CircuitOpen, InvalidInput, InvalidRequest, RateLimited, ToolUnavailable
from gateway.policies.base import Policies
from gateway.policies.by_tool import ByTool
from gateway.policies.kinds import policies_from_json
from gateway.policies.store import open_store
from gateway.tools.model import Tool, ToolId
from runtimes.mock import MockBackend
from sandbox import AsyncExec, Caller, Exec, ParallelCall, ToolGroup
from sandbox.config import load_settings
from sandbox.tool_settings import ORIGINAL_NAMES, ToolSettings

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in ORIGINAL_NAMES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


class World:
    """An Exec whose tools count what they do."""

    def __init__(self, **options: Any) -> None:
        self.calls: list[str] = []
        self.most = self.now = 0
        self.host = AsyncExec(backends={"mock": MockBackend}, **options)
        self.host.tool(name="read", read_only=True, idempotent=True)(self.read)
        self.host.tool(name="broken", read_only=True, idempotent=True)(self.broken)
        self.host.tool(name="slow", read_only=True)(self.slow)

    async def read(self, query: str = "") -> int:
        """Read."""
        self.calls.append(query)
        return len(self.calls)

    async def broken(self) -> None:
        """Never works."""
        self.calls.append("broken")
        raise ToolUnavailable("the shop", "it is closed")

    async def slow(self) -> None:
        """Take a while."""
        self.now += 1
        self.most = max(self.most, self.now)
        await anyio.sleep(0.005)
        self.now -= 1

    async def attempts(self) -> int:
        self.calls.clear()
        with pytest.raises(ToolUnavailable):
            await self.host.run_tool("broken")
        return len(self.calls)

    async def allowed(self, tool_id: str = "read", calls: int = 15) -> int:
        """How many of so many calls a rate limit lets through."""
        made = 0
        for number in range(calls):
            try:
                await self.host.run_tool(tool_id, {"query": str(number)})
            except RateLimited:
                continue
            made += 1
        return made


@pytest.fixture
async def world() -> AsyncIterator[Callable[..., World]]:
    made: list[World] = []

    def make(**options: Any) -> World:
        made.append(World(**options))
        return made[-1]

    yield make
    for one in made:
        await one.host.aclose()


@pytest.fixture(params=["ours", "original", "file", "argument"])
def setting(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Callable[..., dict[str, Any]]:
    """Says something in one of the places; what it gives are arguments for the Exec."""

    def say(**values: Any) -> dict[str, Any]:
        others = {ours: theirs for theirs, ours in ORIGINAL_NAMES.items()}
        for name, value in values.items():
            if request.param == "ours":
                monkeypatch.setenv(f"TOOLEXEC_TOOLS__{name.upper()}", json.dumps(value))
            elif request.param == "original":
                monkeypatch.setenv(others[name], ", ".join(value) if isinstance(value, list) else json.dumps(value))
        if request.param == "file":
            lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
            (folder / "toolexec.toml").write_text("\n".join(["[tools]", *lines]))
        return {"tool_settings": values} if request.param == "argument" else {}

    return say


async def test_nothing_is_on_by_default(world: Callable[..., World]) -> None:
    plain = world()
    assert await plain.attempts() == 1
    assert await plain.allowed() == 15
    assert load_settings().tools.defaults(Policies()) == Policies()
    assert load_settings().tools.disabled() == frozenset()


async def test_retries_are_switched_on_with_their_numbers(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World]
) -> None:
    given = setting(retry_enabled=True, retry_max_retries=2, retry_base_delay_seconds=0.001)
    assert await world(**given).attempts() == 3


async def test_a_number_of_retries_alone_switches_them_on(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World]
) -> None:
    given = setting(retry_max_retries=1, retry_base_delay_seconds=0.001)
    assert await world(**given).attempts() == 2


def test_retries_wait_twice_as_long_each_time_and_without_chance() -> None:
    (retry,) = ToolSettings(retry_enabled=True).defaults(Policies()).chosen().values()
    assert (retry.kind, retry.max_attempts) == ("exponential", 4)
    assert [retry.delay_seconds_before(number, None) for number in (1, 2, 3)] == [1, 2, 4]


async def test_retries_are_switched_off_whatever_a_tool_chose(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World]
) -> None:
    chosen = policies_from_json({"retry": {"kind": "fixed", "max_attempts": 3, "delay_seconds": 0}})
    off = world(**setting(retry_enabled=False, retry_max_retries=5))
    off.host.tool(name="chosen", read_only=True, policies=chosen)(off.broken)
    assert await off.attempts() == 1
    with pytest.raises(ToolUnavailable):
        await off.host.run_tool("chosen")
    assert len(off.calls) == 2


async def test_rate_limits_are_switched_on(setting: Callable[..., dict[str, Any]], world: Callable[..., World]) -> None:
    assert await world(**setting(rate_limit_enabled=True)).allowed() == 10


async def test_rate_limits_are_switched_off_whatever_a_tool_chose(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World]
) -> None:
    chosen = policies_from_json({"rate_limit": {"kind": "token_bucket", "calls": 1, "per_seconds": 60}})
    off = world(**setting(rate_limit_enabled=False))
    off.host.tool(name="chosen", policies=chosen)(off.read)
    assert await off.allowed("chosen") == 15


async def test_a_tool_has_the_limit_of_its_id_and_others_the_usual_one_or_none(world: Callable[..., World]) -> None:
    limits = {"read": {"calls": 3, "per_seconds": 60}}
    some = world(tool_settings={"rate_limits": limits})
    both = world(tool_settings={"rate_limits": limits, "rate_limit_enabled": True})
    both.host.tool(name="other")(both.read)
    some.host.tool(name="other")(some.read)
    assert (await both.allowed("read"), await both.allowed("other")) == (3, 10)
    assert (await some.allowed("read"), await some.allowed("other")) == (3, 15)
    off = world(tool_settings={"rate_limits": limits, "rate_limit_enabled": False})
    assert await off.allowed("read") == 15


@pytest.mark.parametrize(("enabled", "most"), [(True, 4), (False, 1)])
async def test_batches_are_made_at_once_or_in_sequence(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World], *, enabled: bool, most: int
) -> None:
    one = world(**setting(parallel_enabled=enabled))
    outcomes = await one.host.run_parallel([ParallelCall("slow", {})] * 4)
    assert (all(outcome.ok for outcome in outcomes), one.most) == (True, most)


@pytest.mark.parametrize(("asked", "most"), [(None, 2), (4, 2), (1, 1)])
async def test_at_most_so_many_of_a_batch_are_under_way(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World], asked: int | None, most: int
) -> None:
    one = world(**setting(parallel_max_concurrent=2))
    await one.host.run_parallel([ParallelCall("slow", {})] * 4, max_concurrent=asked)
    assert one.most == most


async def test_a_number_at_once_is_checked_in_sequence_too(world: Callable[..., World]) -> None:
    with pytest.raises(InvalidInput, match="max_concurrent"):
        await world(tool_settings={"parallel_enabled": False}).host.run_parallel([], max_concurrent=0)


async def test_caches_are_switched_on_for_tools_that_only_read(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World]
) -> None:
    one = world(**setting(cache_enabled=True))
    one.host.tool(name="write")(one.read)
    assert [await one.host.run_tool("read", {"query": "a"}) for _ in range(3)] == [1, 1, 1]
    assert await one.host.run_tool("read", {"query": "a"}, caller=Caller(user_id="ada")) == 2
    assert [await one.host.run_tool("write", {"query": "a"}) for _ in range(2)] == [3, 4]


async def test_a_list_of_tools_switches_the_cache_on_for_these_alone(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World]
) -> None:
    one = world(**setting(cache_tools=["read", "elsewhere"]))
    one.host.tool(name="other", read_only=True)(one.read)
    assert [await one.host.run_tool("read", {"query": "a"}) for _ in range(2)] == [1, 1]
    assert [await one.host.run_tool("other", {"query": "a"}) for _ in range(2)] == [2, 3]


async def test_names_in_json_are_names_too(world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOL_CACHE_TOOLS", '["read", "elsewhere"]')
    one = world()
    assert [await one.host.run_tool("read", {"query": "a"}) for _ in range(2)] == [1, 1]
    monkeypatch.setenv("TOOL_CACHE_TOOLS", '["read",')
    with pytest.raises(InvalidRequest, match="cache_tools"):
        world()


async def test_a_cache_keeps_as_much_and_as_long_as_is_said(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World]
) -> None:
    one = world(**setting(cache_enabled=True, cache_max_entries=1, cache_ttl_seconds=0.05))
    assert [await one.host.run_tool("read", {"query": query}) for query in "aabba"] == [1, 1, 2, 2, 3]
    await anyio.sleep(0.1)
    assert await one.host.run_tool("read", {"query": "a"}) == 4


@pytest.mark.parametrize(("similarity", "answers"), [(0.3, [1, 1]), (0.99, [1, 2])])
async def test_how_much_of_a_query_must_agree(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World], similarity: float, answers: list[int]
) -> None:
    one = world(**setting(cache_enabled=True, cache_similar=True, cache_similarity=similarity))
    queries = ("price of the red shoe", "price of a red shoe")
    assert [await one.host.run_tool("read", {"query": query}) for query in queries] == answers


async def test_caches_are_switched_off_whatever_a_tool_chose(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World]
) -> None:
    one = world(**setting(cache_enabled=False, cache_tools=["read"]))
    chosen = policies_from_json({"cache": {"kind": "lru"}})
    one.host.tool(name="chosen", read_only=True, policies=chosen)(one.read)
    for name in ("read", "chosen"):
        first = await one.host.run_tool(name)
        assert await one.host.run_tool(name) == first + 1


@pytest.mark.parametrize(("similar", "answers"), [(True, [1, 1]), (False, [1, 2])])
async def test_a_query_may_differ_a_little_where_that_is_switched_on(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World], *, similar: bool, answers: list[int]
) -> None:
    one = world(**setting(cache_enabled=True, cache_similar=similar))
    queries = ("what is the price of the red shoe", "what is the price of the red shoes")
    assert [await one.host.run_tool("read", {"query": query}) for query in queries] == answers
    with pytest.raises(ToolUnavailable):
        await one.host.run_tool("broken")  # it has no query, and is called all the same


@pytest.mark.parametrize(("lru", "kept"), [(True, ["0"]), (False, ["1"])])
async def test_what_makes_room_in_a_cache(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World], *, lru: bool, kept: list[str]
) -> None:
    one = world(**setting(cache_enabled=True, cache_lru=lru))
    for query in map(str, [*range(100), 0, 100]):
        await one.host.run_tool("read", {"query": query})
    one.calls.clear()
    for query in ("0", "1") if lru else ("1", "0"):
        await one.host.run_tool("read", {"query": query})
    assert [query for query in ("0", "1") if query not in one.calls] == kept


@pytest.mark.parametrize(("tracked", "counts"), [(True, [2]), (False, [])])
async def test_uses_of_cached_results_are_counted_unless_that_is_switched_off(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World], *, tracked: bool, counts: list[int]
) -> None:
    one = world(**setting(cache_enabled=True, cache_access_tracking=tracked))
    for _ in range(3):
        await one.host.run_tool("read")
    found = await one.host.cache_statistics()
    assert (found.hits, [result.accesses for result in found.top]) == (2, counts)


async def test_how_long_a_tool_is_asked_and_its_answer_holds(world: Callable[..., World]) -> None:
    asked: list[float] = []

    class Slow:
        async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
            return None

        async def health(self) -> None:
            asked.append(1)
            await anyio.sleep(0.05)

        async def aclose(self) -> None: ...

    statuses = []
    for settings in ({}, {"health_slow_seconds": 0.01}, {"health_timeout_seconds": 0.01}):
        one = world(tool_settings=settings)
        one.host.register(Tool(id=ToolId.parse("far:tool"), provider=Slow(), input_schema={"type": "object"}))
        for _ in range(2):
            found = await one.host.tool_health("far:tool")
        statuses.append((found.status, found.message.split(":")[0].split(" within")[0]))
    assert [status for status, _ in statuses] == ["healthy", "degraded", "degraded"]
    assert [message for _, message in statuses[1:]] == ["slow", "no answer"]
    assert len(asked) == 3
    short = world(tool_settings={"health_keep_seconds": 0.0001})
    short.host.register(Tool(id=ToolId.parse("far:tool"), provider=Slow(), input_schema={"type": "object"}))
    for _ in range(2):
        await short.host.tool_health("far:tool")
    assert len(asked) == 5


@pytest.mark.parametrize(("enabled", "reasons"), [(True, {"cold_start"}), (False, {"exploit"})])
async def test_a_group_learns_unless_that_is_switched_off(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World], *, enabled: bool, reasons: set[str]
) -> None:
    one = world(**setting(bandit_enabled=enabled))
    chosen = [await one.host.select_tool(ToolGroup("any", ["read", "slow"])) for _ in range(2)]
    assert {decision.reason for decision in chosen} == reasons
    assert {decision.tool_id for decision in chosen} == ({"read", "slow"} if enabled else {"read"})
    assert all(bool(decision.decision_id) is enabled for decision in chosen)


@pytest.mark.parametrize(("epsilon", "reason"), [(1.0, "explore"), (0.0, "exploit")])
async def test_how_often_a_group_explores_unless_it_says_so_itself(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World], *, epsilon: float, reason: str
) -> None:
    one = world(**setting(bandit_epsilon=epsilon))
    for group, wanted in (
        (ToolGroup("any", ["read", "slow"]), reason),
        (ToolGroup("own", ["read", "slow"], epsilon=1.0), "explore"),
    ):
        for _ in range(2):
            decision = await one.host.select_tool(group)
            await one.host.record_feedback(decision.decision_id, success=True, latency_seconds=0)
        assert {(await one.host.select_tool(group)).reason for _ in range(20)} == {wanted}


async def test_what_a_group_learnt_is_kept_under_a_key(
    setting: Callable[..., dict[str, Any]], world: Callable[..., World], folder: Path
) -> None:
    group, store = ToolGroup("any", ["read", "slow"], epsilon=0.0), f"sqlite:///{folder}/store.db"
    given = setting(bandit_redis_key="learnt")
    one = world(store=store, **given)
    async with one.host as host:
        for success in (True, False):
            decision = await host.select_tool(group)
            await host.record_feedback(decision.decision_id, success=success, latency_seconds=0)
    best = one.host.selection.selector("any").best()
    other = world(store=store, **given)
    async with other.host as host:
        assert {(await host.select_tool(group)).tool_id for _ in range(5)} == {best}
    async with world(store=store, tool_settings={"bandit_redis_key": "another"}).host as host:
        assert (await host.select_tool(group)).reason == "cold_start"


async def test_what_cannot_be_read_of_what_was_learnt_is_left_alone(
    world: Callable[..., World], caplog: pytest.LogCaptureFixture, folder: Path
) -> None:
    url = f"sqlite:///{folder}/store.db"
    store = open_store(url)
    await store.set("learnt", b"{", None)
    async with world(store=url, tool_settings={"bandit_redis_key": "learnt"}).host:
        pass
    assert await store.get("learnt") == b"{"
    await store.aclose()
    assert "could not be read" in caplog.text


async def test_blocks_are_the_defaults_of_all_tools(
    folder: Path, monkeypatch: pytest.MonkeyPatch, world: Callable[..., World]
) -> None:
    (folder / "toolexec.toml").write_text('[tools.policies.breaker]\nkind = "standard"\nfailure_threshold = 2\n')
    monkeypatch.setenv("TOOLEXEC_TOOLS__POLICIES__RETRY__KIND", "fixed")
    monkeypatch.setenv("TOOLEXEC_TOOLS__POLICIES__RETRY__DELAY_SECONDS", "0")
    one = world()
    assert await one.attempts() == 3
    assert await one.attempts() == 3
    with pytest.raises(CircuitOpen):
        await one.host.run_tool("broken")


async def test_policies_of_the_argument_go_before_settings_and_those_of_the_tool_before_both(
    world: Callable[..., World],
) -> None:
    def fixed(attempts: int) -> Policies:
        return policies_from_json({"retry": {"kind": "fixed", "max_attempts": attempts, "delay_seconds": 0}})

    one = world(tool_policies=fixed(2), tool_settings={"retry_enabled": True})
    one.host.tool(name="own", read_only=True, policies=fixed(4))(one.broken)
    assert await one.attempts() == 2
    with pytest.raises(ToolUnavailable):
        await one.host.run_tool("own")
    assert len(one.calls) == 6


def test_what_is_said_twice_is_refused() -> None:
    settings = ToolSettings(policies={"retry": {"kind": "none"}}, retry_max_retries=1)
    with pytest.raises(InvalidRequest, match="retry is in `policies`"):
        settings.defaults(Policies())


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"retry_max_retries": -1}, "tools.retry_max_retries"),
        ({"retry_max_retries": 100}, "tools.retry_max_retries"),
        ({"retry_base_delay_seconds": 0}, "tools.retry_base_delay_seconds"),
        ({"retry_base_delay_seconds": "nan"}, "tools.retry_base_delay_seconds"),
        ({"rate_limit_enabled": "perhaps"}, "tools.rate_limit_enabled"),
        ({"unknown": 1}, "tools.unknown"),
        ({"bandit_epsilon": 1.5}, "tools.bandit_epsilon"),
        ({"policies": {"nowhere": {"kind": "x"}}}, "nowhere"),
        ({"policies": {"retry": {"kind": "x"}}}, "retry"),
        ({"policies": {"retry": {"kind": "fixed", "delay": 1}}}, "delay"),
        ({"rate_limits": {"a": {"calls": 0, "per_seconds": 1}}}, "calls"),
        ({"rate_limits": {"a": {"calls": 1}}}, "per_seconds"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidRequest, match=where):
        AsyncExec(backends={"mock": MockBackend}, tool_settings=values)


@pytest.mark.parametrize("name", sorted(ORIGINAL_NAMES.keys() - {"TOOL_CACHE_TOOLS", "TOOL_BANDIT_REDIS_KEY"}))
def test_an_original_name_with_a_wrong_value_is_an_error_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "{perhaps")
    with pytest.raises(InvalidRequest, match=f"tools.{ORIGINAL_NAMES[name]}"):
        load_settings()


def test_an_original_name_is_of_least_weight(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOL_RETRY_MAX_ATTEMPTS", "1")
    assert load_settings().tools.retry_max_retries == 1
    monkeypatch.setenv("TOOLEXEC_TOOLS__RETRY_MAX_RETRIES", "2")
    assert load_settings().tools.retry_max_retries == 2
    (folder / "toolexec.toml").write_text("[tools]\nretry_max_retries = 3\n")
    assert load_settings().tools.retry_max_retries == 3
    assert load_settings(tools={"retry_max_retries": 4}).tools.retry_max_retries == 4
    assert load_settings(tools={"rate_limit_enabled": True}).tools.retry_max_retries == 3


def test_metrics_by_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLEXEC_METRICS", "1")
    with Exec(backends={"mock": MockBackend}) as exec:
        assert "tool_calls_total" in exec.metrics_text()
    with Exec(backends={"mock": MockBackend}, metrics=False) as exec, pytest.raises(InvalidRequest):
        exec.metrics_text()


def test_one_choice_for_several_tools_is_a_config() -> None:
    assert Policies(rate_limit=ByTool()).chosen() == {"rate_limit": ByTool()}
