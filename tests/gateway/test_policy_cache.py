"""Cached results: who is given one, for how long, which makes room, and that equal calls at once are made once."""

from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.base import ParallelCall
from gateway.context import Caller
from gateway.errors import InvalidRequest, ToolDenied, ToolFailed, ToolTimeout, ToolUnavailable
from gateway.policies.base import NO_POLICIES, Policies
from gateway.policies.cache import ResultCache
from gateway.policies.cache_shelves import LocalShelf, Place
from gateway.policies.kinds import policies_from_json, policies_json
from gateway.policies.store import MemoryStore, open_store
from gateway.providers.function import function_tool
from gateway.tools.model import Tool
from sandbox import AsyncExec, Exec
from tests.gateway.policed import Clock, Host, at_once

pytestmark = pytest.mark.anyio


class Library:
    """A tool that counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.gate: anyio.Event | None = None
        self.fails = 0

    def tool(self, cache: Any, **options: Any) -> Tool:
        chosen = NO_POLICIES if cache is None else Policies(cache=cache)
        return function_tool(self.find, **{"read_only": True, "policies": chosen, **options})

    async def find(self, query: str = "", number: Any = 1) -> dict[str, Any]:
        """Look something up."""
        self.asked.append((query, number))
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            self.fails -= 1
            raise LookupError("no luck")
        return {"query": query, "time": len(self.asked)}


@pytest.fixture
def library() -> Library:
    return Library()


async def test_the_same_question_is_answered_without_a_call_and_flagged(library: Library) -> None:
    host = Host(library.tool(ResultCache()))
    first = await host.call("find", query="lamp")
    assert await host.call("find", query="lamp") == first
    assert await host.call("find", query="Lamp") != first
    assert library.asked == [("lamp", 1), ("Lamp", 1)]
    missed, hit, _ = await host.finished()
    assert (missed.attempts, hit.attempts) == (1, 0)
    assert "cached_hit" not in missed.usage
    assert (hit.usage["cached_hit"], hit.usage["decisions"]) == (True, ["answered from the cache"])
    assert hit.result is not None
    assert hit.result.as_json() == first


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"number": 1}, {"number": 1.0}, True),
        ({"number": {"a": 1, "b": [2]}}, {"number": {"b": [2], "a": 1}}, True),
        ({"query": "x"}, {"query": "x", "number": 1}, True),  # the default says the same
        ({"number": 1}, {"number": True}, False),
        ({"number": 1}, {"number": "1"}, False),
        ({"number": 2**60}, {"number": 2**60 + 1}, False),
        ({"number": None}, {"number": "null"}, False),
        ({"query": "a", "number": "b"}, {"query": "b", "number": "a"}, False),
    ],
)
async def test_which_arguments_are_the_same(library: Library, one: Any, other: Any, same: bool) -> None:
    host = Host(library.tool(ResultCache()))
    await host.call("find", **one)
    await host.call("find", **other)
    assert len(library.asked) == (1 if same else 2)


ADA, BOB = (Caller(tenant_id="acme", user_id=user, role="clerk") for user in ("ada", "bob"))
ROOT = Caller(tenant_id="acme", user_id="root", role="admin")
EVE = Caller(tenant_id="evil", user_id="ada", role="clerk")


@pytest.mark.parametrize(("scope", "calls"), [("shared", 1), ("tenant", 2), ("role", 3), ("user", 4)], ids=str)
async def test_who_is_given_a_result(library: Library, scope: Any, calls: int) -> None:
    host = Host(library.tool(ResultCache(scope=scope)))
    for caller in (ADA, BOB, ROOT, EVE, ADA, EVE):
        await host.call("find", caller=caller)
    assert len(library.asked) == calls


async def test_whoever_may_not_call_the_tool_is_given_nothing(library: Library) -> None:
    host = Host(library.tool(ResultCache(scope="shared"), roles=["admin"]))
    await host.call("find", caller=ROOT)
    with pytest.raises(ToolDenied):
        await host.call("find", caller=ADA)


async def test_a_result_ends_with_its_time(library: Library) -> None:
    host = Host(library.tool(ResultCache(ttl_seconds=10)))
    await host.call("find")
    host.clock.now += 9.9
    await host.call("find")
    assert len(library.asked) == 1
    host.clock.now += 0.1  # a use does not prolong it
    await host.call("find")
    assert len(library.asked) == 2


async def test_the_least_recently_used_makes_room() -> None:
    library = Library()
    host = Host(library.tool(ResultCache(max_entries=2)))
    for number in (1, 2, 1, 3, 1, 2):
        await host.call("find", number=number)
    assert [number for _, number in library.asked] == [1, 2, 3, 2]


async def test_what_a_caller_does_with_a_result_is_not_seen_by_the_next(library: Library) -> None:
    host = Host(library.tool(ResultCache()))
    for _ in range(3):
        found: Any = await host.call("find", query="x")
        assert found == {"query": "x", "time": 1}
        found["query"] = "spoilt"


async def test_failures_and_large_results_are_not_kept(library: Library) -> None:
    host = Host(library.tool(ResultCache(max_entry_bytes=40)))
    library.fails = 1
    with pytest.raises(ToolFailed):
        await host.call("find")
    await host.call("find")
    await host.call("find")
    assert len(library.asked) == 2
    for _ in range(2):
        await host.call("find", query="x" * 50)
    assert len(library.asked) == 4


async def test_equal_calls_at_once_are_made_once(library: Library) -> None:
    host = Host(library.tool(ResultCache()))
    library.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def all_of_them() -> None:
            outcomes = await host.gateway().run_parallel([ParallelCall("find", {"query": "x"})] * 30)
            assert {outcome.value["time"] for outcome in outcomes} == {1}

        tasks.start_soon(all_of_them)
        await anyio.wait_all_tasks_blocked()
        library.gate.set()
    assert len(library.asked) == 1
    assert [record.usage.get("cached_hit", False) for record in await host.finished()].count(True) == 29


async def test_when_the_first_fails_or_is_cancelled_the_next_one_asks(library: Library) -> None:
    host = Host(library.tool(ResultCache()))
    library.gate, library.fails = anyio.Event(), 1
    answers: list[Any] = []

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            try:
                answers.append((await host.call("find"))["time"])
            except ToolFailed:
                answers.append("failed")

    async with anyio.create_task_group() as tasks:
        scopes = [anyio.CancelScope() for _ in range(4)]
        for scope in scopes:
            tasks.start_soon(ask, scope)
        await anyio.wait_all_tasks_blocked()
        assert len(library.asked) == 1
        scopes[0].cancel()
        await anyio.wait_all_tasks_blocked()
        assert len(library.asked) == 2
        library.gate.set()
    assert answers == ["failed", 3, 3]


async def test_who_waits_for_another_waits_no_longer_than_it_may(library: Library) -> None:
    host = Host(library.tool(ResultCache()))
    library.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.call, "find")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ToolTimeout):
            await host.gateway().run_tool("find", {}, timeout_seconds=0.02)
        library.gate.set()
    assert len(library.asked) == 1


async def test_what_was_asked_before_a_clearing_is_not_kept_after_it(library: Library) -> None:
    async with AsyncExec() as exec:
        exec.register(library.tool(ResultCache()))
        library.gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exec.run_tool, "find")
            await anyio.wait_all_tasks_blocked()
            assert await exec.clear_cache("find") == 0
            library.gate.set()
        await exec.run_tool("find")
        assert len(library.asked) == 2


async def count(to: int) -> AsyncIterator[int]:
    """Count."""
    for number in range(to):
        yield number


async def test_streams_pass_by_and_their_lists_are_cached() -> None:
    host = Host(function_tool(count, read_only=True, policies=Policies(cache=ResultCache())))
    for _ in range(2):
        assert [event.data for event in await host.stream("count", to=2)] == [0, 1, None]
    assert [await host.call("count", to=2) for _ in range(2)] == [[0, 1], [0, 1]]
    assert [record.attempts for record in await host.finished()] == [1, 1, 1, 0]


async def test_statistics_count_and_clearing_begins_anew(library: Library) -> None:
    async with AsyncExec() as exec:
        exec.register(
            library.tool(ResultCache(max_entries=2)),
            library.tool(ResultCache(), name="other"),
            library.tool(None, name="plain"),
        )
        for tool_id, number in (
            ("find", 1),
            ("find", 1),
            ("find", 1),
            ("find", 2),
            ("find", 2),
            ("find", 3),
            ("other", 1),
        ):
            await exec.run_tool(tool_id, {"number": number})
        found = await exec.cache_statistics(top=2)
        assert (found.hits, found.misses, found.hit_rate, found.evictions, found.size) == (3, 4, 3 / 7, 1, 3)
        assert set(found.by_tool) == {"find", "other"}
        assert (found.by_tool["find"].hits, found.by_tool["find"].hit_rate, found.by_tool["find"].size) == (3, 0.5, 2)
        assert [result.tool_id for result in found.top][:1] == ["find"]
        assert [result.accesses for result in found.top] == [1, 0]
        assert 0 <= found.top[0].last_accessed_seconds <= found.top[0].age_seconds < 10
        assert await exec.clear_cache("other") == 1
        assert (await exec.cache_statistics()).misses == 4
        assert await exec.clear_cache() == 2
        found = await exec.cache_statistics()
        assert (found.hits, found.misses, found.hit_rate, found.evictions, found.size, found.top) == (0, 0, 0, 0, 0, ())


SIMILAR = ResultCache(similar="query")


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"query": "how do I reset my password?"}, True),
        ({"query": "how do i reset my passwords"}, True),
        ({"query": "how do I delete my account"}, False),
        ({"query": "how do I reset my password?", "number": 2}, False),  # all else must be equal
        ({"query": ""}, False),
    ],
)
async def test_a_question_that_differs_a_little_is_the_same_where_that_was_asked_for(
    library: Library, other: Any, same: bool
) -> None:
    for cache, hits in ((SIMILAR, same), (ResultCache(), False)):
        library.asked.clear()
        host = Host(library.tool(cache))
        await host.call("find", query="how do I reset my password")
        await host.call("find", **other)
        assert len(library.asked) == (1 if hits else 2)


async def test_similar_questions_of_another_tenant_are_no_answer(library: Library) -> None:
    host = Host(library.tool(SIMILAR))
    await host.call("find", query="how do I reset my password", caller=ADA)
    await host.call("find", query="how do I reset my password?", caller=EVE)
    assert len(library.asked) == 2


async def test_the_most_similar_is_taken_and_one_that_ended_never(library: Library) -> None:
    host = Host(library.tool(ResultCache(similar="query", similarity=0.5, ttl_seconds=10)))
    await host.call("find", query="abcdef")
    host.clock.now += 5
    await host.call("find", query="uvwxyz")
    assert await host.call("find", query="abcdxx") == {"query": "abcdef", "time": 1}
    host.clock.now += 6
    await host.call("find", query="abcdxx")
    assert len(library.asked) == 3


async def test_one_that_ended_does_not_hide_one_that_is_there(library: Library) -> None:
    host = Host(library.tool(ResultCache(similar="query", similarity=0.7, ttl_seconds=10)))
    await host.call("find", query="abcdefgh")
    host.clock.now += 5
    await host.call("find", query="abcdeXYZ")
    host.clock.now += 6
    assert await host.call("find", query="abcdefgX") == {"query": "abcdeXYZ", "time": 2}


async def test_the_threshold_is_met_exactly(library: Library) -> None:
    host = Host(library.tool(ResultCache(similar="query", similarity=0.8)))
    await host.call("find", query="abcde")
    await host.call("find", query="abcdX")  # ratio 2*4/10
    assert len(library.asked) == 1
    await host.call("find", query="abcXX")
    assert len(library.asked) == 2


async def test_long_texts_are_only_found_as_they_are(library: Library) -> None:
    host = Host(library.tool(SIMILAR))
    for text in ("x" * 5000, "x" * 5000, "x" * 4999 + "y"):
        await host.call("find", query=text)
    assert len(library.asked) == 2


async def test_what_is_remembered_of_similar_texts_is_bounded() -> None:
    shelf = LocalShelf(5, 60, Clock(), 0.99)
    for number in range(500):
        await shelf.put(Place(str(number), f"group {number % 7}", f"text {number}"), b"1")
    assert shelf.size == 5
    assert sum(map(len, shelf._groups.values())) <= 11


@pytest.mark.parametrize("read_only", [None, False])
async def test_a_tool_that_may_write_has_no_cache(library: Library, read_only: bool | None) -> None:
    host = Host(library.tool(ResultCache(), read_only=read_only))
    with pytest.raises(InvalidRequest, match="read_only=True"):
        await host.call("find")
    assert library.asked == []


async def test_a_policy_that_does_not_fit_is_refused_when_its_tool_is_registered(library: Library) -> None:
    async with AsyncExec() as exec:
        with pytest.raises(InvalidRequest, match="read_only=True"):
            exec.register(library.tool(None), library.tool(ResultCache(), name="save", read_only=None))
        assert exec.registry.tools() == ()
        exec.register(library.tool(ResultCache()))


async def test_as_the_default_it_leaves_tools_alone_that_may_write(library: Library) -> None:
    writes = library.tool(None, name="save", read_only=None)
    host = Host(library.tool(None), writes, defaults=Policies(cache=ResultCache()))
    for tool_id in ("find", "find", "save", "save"):
        await host.call(tool_id)
    assert len(library.asked) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl_seconds": 0},
        {"ttl_seconds": float("inf")},
        {"max_entries": 0},
        {"max_entry_bytes": 0},
        {"scope": "everybody"},
        {"similarity": 0},
        {"similarity": 1.1},
        {"similar": "query", "shared": True},
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        ResultCache(**wrong)


async def test_a_similar_argument_that_is_not_there_is_refused(library: Library) -> None:
    with pytest.raises(InvalidRequest, match="'text'"):
        await Host(library.tool(ResultCache(similar="text"))).call("find")


def test_it_can_be_written_down() -> None:
    chosen = Policies(cache=ResultCache(ttl_seconds=5, scope="user", similar="query"))
    assert policies_json(chosen)["cache"]["kind"] == "lru"
    assert policies_from_json(policies_json(chosen)) == chosen


async def test_a_shared_cache_serves_another_exec(library: Library, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    cache = ResultCache(shared=True)
    one, two = (Host(library.tool(cache), store=open_store(url)) for _ in range(2))
    assert await one.call("find", query="x") == await two.call("find", query="x")
    assert len(library.asked) == 1
    await two.call("find", query="x", caller=EVE)
    assert len(library.asked) == 2
    (policy,) = two.pipeline.policies("cache").values()
    assert await policy.clear() == 2  # type: ignore[attr-defined]
    await one.call("find", query="x")
    assert len(library.asked) == 3
    for host in (one, two):
        await host.store.aclose()


class Broken(MemoryStore):
    """Gives what nobody wrote, or does not answer."""

    def __init__(self, answer: bytes | None) -> None:
        super().__init__()
        self.answer = answer

    async def get(self, key: str) -> bytes | None:
        return self.answer

    async def set(self, *_: Any) -> None:
        raise ToolUnavailable("the shared store", "it is away")


@pytest.mark.parametrize("answer", [None, b"", b"{", b"\xff"])
async def test_a_shared_cache_that_is_broken_has_nothing(library: Library, answer: bytes | None) -> None:
    host = Host(library.tool(ResultCache(shared=True)), store=Broken(answer))
    for time in (1, 2):
        assert await host.call("find") == {"query": "", "time": time}


def test_a_snippet_asks_twice_and_the_tool_is_asked_once(library: Library) -> None:
    with Exec(workers=1, pool_size=1) as exec:
        exec.register(library.tool(ResultCache()))
        result = exec.execute_code("[tools.find(query='x')['time'] for _ in range(3)]")
        assert result.value == [1, 1, 1]
        assert [call.usage.get("cached_hit", False) for call in result.tool_calls] == [False, True, True]
        assert exec.cache_statistics().hits == 2
        assert exec.clear_cache() == 1


class CacheMachine(RuleBasedStateMachine):
    """A cache of three against a plain ordered dict."""

    keys = st.sampled_from("abcde")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.shelf = LocalShelf(3, 10, self.clock, None)
        self.model: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self.evictions = 0

    @rule(key=keys, data=st.binary(max_size=3))
    def put(self, key: str, data: bytes) -> None:
        at_once(self.shelf.put(Place(key), data))
        if key not in self.model and len(self.model) == 3:
            self.model.popitem(last=False)
            self.evictions += 1
        self.model[key] = data, self.clock.now + 10
        self.model.move_to_end(key)

    @rule(key=keys)
    def get(self, key: str) -> None:
        found = at_once(self.shelf.get(Place(key)))
        assert found == self.model.get(key, (None,))[0]
        if found is not None:
            self.model.move_to_end(key)

    @rule(seconds=st.integers(0, 12))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds
        for key, (_, ends) in list(self.model.items()):
            if ends <= self.clock.now:
                del self.model[key]

    @rule()
    def clear(self) -> None:
        assert at_once(self.shelf.clear()) == len(self.model)
        self.model.clear()
        self.evictions = 0

    @invariant()
    def it_is_as_large_as_the_model(self) -> None:
        assert (self.shelf.size, self.shelf.evictions) == (len(self.model), self.evictions)
        assert {result.key for result in self.shelf.results("t")} == set(self.model)


CacheMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestCache = CacheMachine.TestCase
