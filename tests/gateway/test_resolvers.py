"""Tools that are not registered but looked up, and which version an id without one leads to."""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from gateway.direct import DirectGateway
from gateway.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidRequest,
    InvalidToolId,
    ToolDenied,
    ToolFailed,
    ToolNotFound,
    ToolUnavailable,
)
from gateway.grant import Grant
from gateway.journal.memory import MemoryJournal
from gateway.pipeline import Pipeline
from gateway.policies import Policies, StandardBreaker, TokenBucket
from gateway.providers.function import function_tool
from gateway.runner import Runner
from gateway.tools.model import Tool, ToolId
from gateway.tools.registry import ToolRegistry
from gateway.tools.resolvers import Resolvers, ToolResolver
from gateway.tools.search import ToolSearch
from gateway.tools.versions import CompatibleVersions
from sandbox import AsyncExec, ToolEvent

pytestmark = pytest.mark.anyio


def double(n: int) -> int:
    """Twice as much."""
    return 2 * n


def tool(text: str, **more: Any) -> Tool:
    return dataclasses.replace(function_tool(double), id=ToolId.parse(text), **more)


class Catalogue:
    """Knows every tool of namespace `far`, and what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.more: dict[str, Any] = {}

    async def __call__(self, wanted: ToolId) -> Tool | None:
        self.asked.append(str(wanted))
        return tool(str(wanted), **self.more) if wanted.namespace == "far" else None


def gateway(registry: ToolRegistry, **grant: Any) -> DirectGateway:
    granted = Grant(execution_id="e", **grant)
    return DirectGateway(granted, Pipeline(Runner(registry)), registry, ToolSearch(registry), MemoryJournal())


async def test_a_tool_that_is_not_registered_is_looked_up_and_goes_the_same_way() -> None:
    registry = ToolRegistry([tool("near:double")], resolvers=[Catalogue()])
    ours = gateway(registry)
    assert await ours.run_tool("far:double", {"n": 4}) == 8
    assert (await ours.describe_tool("far:double"))["signature"] == "tools.far.double(n: int) -> int"
    assert await ours.list_tool_examples("far:double") == ()
    with pytest.raises(InvalidInput, match="n"):
        await ours.run_tool("far:double", {"n": "x"})
    assert [(call.tool_id, call.status) for call in ours.calls] == [
        ("far:double", "completed"),
        ("far:double", "failed"),
    ]
    assert [hit.id for hit in await ours.search_tools("")] == ["near:double"]  # it is called, and not listed


async def test_what_is_registered_is_never_asked_for() -> None:
    catalogue = Catalogue()
    ours = gateway(ToolRegistry([tool("far:double:1.0.0")], resolvers=[catalogue]))
    assert await ours.run_tool("far:double", {"n": 1}) == 2
    assert await ours.run_tool("far:double:1.0.0", {"n": 1}) == 2
    assert catalogue.asked == []
    assert await ours.run_tool("far:double:2.0.0", {"n": 1}) == 2
    assert catalogue.asked == ["far:double:2.0.0"]


async def test_what_nobody_knows_is_not_found() -> None:
    first, second = Catalogue(), Catalogue()
    ours = gateway(ToolRegistry([tool("near:double")], resolvers=[first, second]))
    with pytest.raises(ToolNotFound, match="did you mean near:double"):
        await ours.run_tool("nar:double", {"n": 1})
    assert first.asked == second.asked == ["nar:double"]
    await ours.run_tool("far:x", {"n": 1})
    assert (first.asked[-1], second.asked) == ("far:x", ["nar:double"])
    with pytest.raises(InvalidToolId):
        await ours.run_tool("a::b", {})
    assert len(first.asked) == 2


async def test_nobody_is_asked_about_what_may_not_be_called() -> None:
    catalogue = Catalogue()
    catalogue.more = {"roles": frozenset({"admin"})}
    registry = ToolRegistry([tool("far:off")], resolvers=[catalogue])
    registry.disable("far:off")
    ours = gateway(registry, allowed_tools=frozenset({"far:double", "far:off"}))
    with pytest.raises(ToolNotFound):
        await ours.run_tool("far:other", {"n": 1})
    with pytest.raises(ToolNotFound):  # the operator disabled it, and nobody brings it back
        await ours.run_tool("far:off", {"n": 1})
    assert catalogue.asked == []
    with pytest.raises(ToolDenied):
        await ours.run_tool("far:double", {"n": 1})
    assert catalogue.asked == ["far:double"]


async def test_a_guest_that_guesses_is_not_answered_for_ever() -> None:
    catalogue = Catalogue()
    ours = gateway(ToolRegistry(resolvers=[catalogue]))
    for number in range(80):
        with pytest.raises(ToolNotFound):
            await ours.describe_tool(f"guess:t{number}")
    assert len(catalogue.asked) == 50


async def test_a_resolver_that_fails_is_not_taken_for_no() -> None:
    def broken(_wanted: ToolId) -> None:
        raise ConnectionError("no route to the catalogue")

    async def busy(_wanted: ToolId) -> None:
        raise ToolUnavailable("the catalogue", "it is busy")

    with pytest.raises(ToolFailed, match="looking up a:b failed: ConnectionError: no route") as caught:
        await gateway(ToolRegistry(resolvers=[broken, Catalogue()])).run_tool("a:b", {})
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert caught.value.details == {"type": "ConnectionError"}
    with pytest.raises(ToolUnavailable, match="busy"):
        await gateway(ToolRegistry(resolvers=[busy])).describe_tool("a:b")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (tool("far:other"), "gave far:other, which is another tool"),
        (tool("far:double:2.0.0"), None),
        (tool("other:double"), "another tool"),
        ("far:double", "gave str, not a Tool"),
        (tool("far:double", input_schema={"type": "array"}), "a tool that is none"),
        (tool("far:double", input_schema={"$ref": "https://example.com/schema"}), "a tool that is none"),
    ],
)
async def test_what_a_resolver_gives_is_checked(given: Any, words: str | None) -> None:
    ours = gateway(ToolRegistry(resolvers=[lambda _wanted: given]))
    if words is None:
        assert await ours.run_tool("far:double", {"n": 1}) == 2
        assert ours.calls[0].tool_id == "far:double:2.0.0"
        return
    with pytest.raises(ToolFailed, match=words):
        await ours.run_tool("far:double", {"n": 1})


async def test_the_policies_of_a_tool_that_was_called_are_seen_and_reset() -> None:
    def fails() -> None:
        raise ToolUnavailable("it", "it is away")

    policies = Policies(breaker=StandardBreaker(failure_threshold=1), rate_limit=TokenBucket(calls=9, per_seconds=60))
    far = function_tool(fails, namespace="far", policies=policies)
    async with AsyncExec(resolvers=[lambda wanted: far if str(wanted) == "far:fails" else None]) as exec:
        assert await exec.circuits() == {}
        with pytest.raises(ToolNotFound):
            await exec.reset_circuit("far:fails")
        with pytest.raises(ToolUnavailable):
            await exec.run_tool("far:fails")
        assert await exec.circuits() == {"far:fails": "open"}
        assert list(await exec.rate_limits()) == ["far:fails"]
        await exec.reset_circuit("far:fails")
        assert await exec.circuits() == {"far:fails": "closed"}


async def test_a_resolver_has_an_end() -> None:
    async def never(_wanted: ToolId) -> None:
        await anyio.sleep_forever()

    stop = threading.Event()

    def stuck(_wanted: ToolId) -> None:
        stop.wait(20)

    registry = ToolRegistry()
    resolvers: list[ToolResolver] = [never, stuck]
    for resolver in resolvers:
        registry._resolvers = Resolvers([resolver], seconds=0.05)
        with pytest.raises(ToolUnavailable, match=r"no answer within 0\.05 s"):
            await gateway(registry).run_tool("far:double", {"n": 1})
    stop.set()
    registry._resolvers = Resolvers([never])
    with pytest.raises(DeadlineExceeded):
        await gateway(registry, deadline=time.monotonic() + 0.05).run_tool("far:double", {"n": 1})


async def test_a_sync_resolver_does_not_hold_up_the_loop() -> None:
    threads: list[int] = []

    def resolve(wanted: ToolId) -> Tool:
        threads.append(threading.get_ident())
        return tool(str(wanted))

    assert await gateway(ToolRegistry(resolvers=[resolve])).run_tool("x", {"n": 1}) == 2
    assert threads != [threading.get_ident()]


async def test_an_equal_tool_is_compiled_once_and_a_changed_one_again() -> None:
    current = tool("far:double")
    registry = ToolRegistry(resolvers=[lambda _wanted: current])
    first = await registry.lookup("far:double")
    assert await registry.lookup("far:double") is first
    current = dataclasses.replace(current, description="New words.")
    second = await registry.lookup("far:double")
    assert second is not None
    assert second.tool.description == "New words."


async def test_an_exec_takes_resolvers_and_a_selector() -> None:
    async with AsyncExec(backends={}, resolvers=[Catalogue()], selector=lambda versions: versions[0]) as exec:
        assert await exec.run_tool("far:double", {"n": 2}) == 4
        events: list[ToolEvent] = [event async for event in exec.stream_tool("far:double", {"n": 2})]
        assert events[-1].data == 4
        outcomes = await exec.run_parallel([])
        assert outcomes == ()
        await exec.check_tool("far:double")
        with pytest.raises(ToolNotFound):
            await exec.check_tool("near:double")
        exec.register(tool("near:double:1.0.0"), tool("near:double:2.0.0"))
        assert exec.registry.resolve("near:double").id == "near:double:1.0.0"


# Versions

VERSIONS = ("a:b:1.0.0", "a:b:2.0.0-rc1", "a:b:2.0.0")


def stable(versions: Sequence[Tool]) -> Tool:
    """The newest that is no release candidate."""
    return [version for version in versions if "-" not in version.id.version][-1]


def oldest(versions: Sequence[Tool]) -> Tool:
    return versions[0]


@pytest.mark.parametrize(("selector", "expected"), [(None, "a:b:2.0.0"), (oldest, "a:b:1.0.0"), (stable, "a:b:2.0.0")])
def test_the_selector_chooses_among_versions(selector: Any, expected: str) -> None:
    registry = ToolRegistry(map(tool, VERSIONS), selector=selector)
    assert registry.resolve("a:b").id == expected
    assert {found.address for found in registry.tools()} == {"a:b", *VERSIONS} - {expected}
    for version in VERSIONS:
        assert registry.resolve(version).id == version


def test_it_is_asked_whenever_the_versions_change() -> None:
    seen: list[list[str]] = []

    def choose(versions: Sequence[Tool]) -> Tool:
        seen.append([version.id.version for version in versions])
        return versions[0]

    registry = ToolRegistry([tool("a:b:1.0.0")], selector=choose)
    assert seen == [["1.0.0"]]
    registry.register(tool("a:b:3.0.0"))
    registry.register(tool("a:b:2.0.0"))
    registry.disable("a:b:1.0.0")
    registry.enable("a:b:1.0.0")
    registry.unregister("a:b:1.0.0")
    some, every = ["2.0.0", "3.0.0"], ["1.0.0", "2.0.0", "3.0.0"]
    assert seen == [["1.0.0"], ["1.0.0", "3.0.0"], every, some, every, some]
    registry.register(tool("a:b"))
    assert registry.resolve("a:b").id == "a:b"  # an id of its own is not chosen away
    assert len(seen) == 6


@pytest.mark.parametrize(
    "wrong", [lambda _versions: 1, lambda _versions: tool("a:b:1.0.0"), lambda versions: versions[9]]
)
def test_a_selector_that_fails_changes_nothing(wrong: Callable[..., Any]) -> None:
    def selector(versions: Sequence[Tool]) -> Any:
        return wrong(versions) if len(versions) > 1 else versions[0]

    registry = ToolRegistry([tool("a:b:1.0.0")], selector=selector)
    before = registry.version
    with pytest.raises(InvalidRequest, match="a:b"):
        registry.register_all([tool("c"), tool("a:b:2.0.0")])
    assert [found.id for found in registry.tools()] == ["a:b:1.0.0"]
    assert registry.version == before
    assert registry.resolve("a:b").id == "a:b:1.0.0"


async def test_with_none_of_the_versions_the_id_without_version_leads_nowhere() -> None:
    asked: list[ToolId] = []
    registry = ToolRegistry(map(tool, VERSIONS), selector=lambda _versions: None, resolvers=[asked.append])
    assert registry.find("a:b") is None
    assert await registry.lookup("a:b") is None
    assert asked == []
    assert [found.address for found in registry.tools()] == sorted(VERSIONS)


def test_callers_get_the_newest_version_that_works_for_them() -> None:
    ids = [
        "a:b:1.2.0",
        "a:b:1.9.0",
        "a:b:2.0.0",
        "a:c:1.0.0",
        "a:c:3.0.0",
        "other:d:1.0.0",
        "other:d:4.0.0",
        "e:f:2.0.0",
    ]
    wanted = CompatibleVersions({"a:b": "1.3", "a": "1.0", "e": "1.0"})
    registry = ToolRegistry(map(tool, ids), selector=wanted)
    assert registry.resolve("a:b").id == "a:b:1.9.0"
    assert registry.resolve("a:c").id == "a:c:1.0.0"
    assert registry.resolve("other:d").id == "other:d:4.0.0"
    assert registry.find("e:f") is None
    registry.unregister("a:b:1.9.0")
    assert registry.find("a:b") is None
    assert registry.resolve("a:b:2.0.0").id == "a:b:2.0.0"


def test_what_callers_were_written_for_is_checked() -> None:
    with pytest.raises(InvalidRequest, match=r"write \{'a:b': '1.0'\}"):
        CompatibleVersions({"a:b:1.0": "1.0"})
    with pytest.raises(InvalidToolId):
        CompatibleVersions({"a b": "1.0"})
    wrong: list[Any] = ["^1.2", ">=1", "1.x", " 1.0", "", 1.2]
    for version in wrong:
        with pytest.raises(InvalidRequest, match="wanted of 'a', is no version; write one"):
            CompatibleVersions({"a": version})
    CompatibleVersions({"a": "nightly", "b": "v1.2.3-rc.1+build"})


def test_a_selector_that_fails_keeps_nothing_from_being_disabled(caplog: pytest.LogCaptureFixture) -> None:
    def fickle(versions: Sequence[Tool]) -> Tool:
        if len(versions) < 3:
            raise LookupError("no version is good enough")
        return versions[0]

    registry = ToolRegistry(map(tool, VERSIONS), selector=fickle)
    registry.disable("a:b:1.0.0")
    assert registry.find("a:b:1.0.0") is None
    assert registry.find("a:b") is None
    assert registry.resolve("a:b:2.0.0").address == "a:b:2.0.0"
    assert "no version is good enough" in caplog.text
