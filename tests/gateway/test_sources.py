"""Sources: opened in order, rolled back, followed, closed whatever happens, and never in each other's way."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gateway.errors import Closed, InvalidRequest, InvalidToolId, ToolUnavailable
from gateway.providers.function import function_tool
from gateway.sources import Offer, SourceReport, Sources
from gateway.tools.model import Tool, ToolId
from gateway.tools.registry import ToolRegistry

pytestmark = pytest.mark.anyio


def tool(name: str, namespace: str = "", **fields: Any) -> Tool:
    made = function_tool(lambda: None, name=name, namespace=namespace)
    return Tool(id=made.id, provider=made.provider, **({"input_schema": {}} | fields))


class Shelf:
    """A source whose tools are what the test puts on it, and that notes what happens to it."""

    def __init__(self, name: str, *tools: Tool, log: list[str] | None = None) -> None:
        self.name = name
        self.offer = Offer(tools)
        self.log = [] if log is None else log
        self.fails: dict[str, Exception] = {}
        self.asked = 0
        self.change: Callable[[], None] = lambda: None
        self.crash = anyio.Event()

    @asynccontextmanager
    async def open(self, on_change: Callable[[], None]) -> AsyncIterator[None]:
        self._maybe_fail("open")
        self.change = on_change
        self.log.append(f"open {self.name}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._crash)
            yield
            tasks.cancel_scope.cancel()
        self.log.append(f"close {self.name}")
        self._maybe_fail("close")

    async def tools(self) -> Offer:
        await anyio.lowlevel.checkpoint()
        self.asked += 1
        self._maybe_fail("tools")
        return self.offer

    async def health(self) -> None:
        self._maybe_fail("health")

    def _maybe_fail(self, what: str) -> None:
        if what in self.fails:
            raise self.fails[what]

    async def _crash(self) -> None:
        await self.crash.wait()
        raise RuntimeError("the shelf fell down")


@asynccontextmanager
async def host(**options: float) -> AsyncIterator[tuple[ToolRegistry, Sources]]:
    registry = ToolRegistry()
    async with anyio.create_task_group() as tasks:
        sources = Sources(registry, tasks, **options)
        yield registry, sources
        await sources.aclose()


def ids(registry: ToolRegistry) -> list[str]:
    return [registered.id for registered in registry.tools()]


async def eventually(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not holds():  # noqa: ASYNC110 - what is awaited sets no events
            await anyio.sleep(0.01)


async def test_sources_open_in_order_and_close_the_other_way() -> None:
    log: list[str] = []
    async with host() as (registry, sources):
        reports = await sources.add(Shelf("b", tool("x"), log=log), Shelf("a", tool("y", "own"), log=log))
        assert ids(registry) == ["b:x", "own:y"]
        assert reports == (SourceReport("b", ("b:x",)), SourceReport("a", ("own:y",)))
        assert sources.reports() == reports
    assert log == ["open b", "open a", "close a", "close b"]
    assert ids(registry) == []


async def test_when_one_fails_those_before_it_are_removed_again() -> None:
    log: list[str] = []
    bad = Shelf("bad", log=log)
    bad.fails["open"] = ToolUnavailable("the bad one", "it is broken")
    async with host() as (registry, sources):
        await sources.add(Shelf("before", tool("x"), log=log))
        with pytest.raises(ToolUnavailable, match="it is broken"):
            await sources.add(*(Shelf(name, tool("x"), log=log) for name in "ac"), bad, Shelf("never", log=log))
        assert ids(registry) == ["before:x"]
        assert log == ["open before", "open a", "open c", "close c", "close a"]
        bad.fails.clear()
        await sources.add(bad)  # it may be tried again
        assert [report.name for report in sources.reports()] == ["before", "bad"]


async def test_a_source_that_cannot_list_is_closed_again() -> None:
    shelf = Shelf("a")
    shelf.fails["tools"] = OSError("no list")
    async with host() as (_, sources):
        with pytest.raises(OSError, match="no list"):
            await sources.add(shelf)
        assert shelf.log == ["open a", "close a"]
        assert sources.reports() == ()


async def test_all_are_closed_even_when_some_fail() -> None:
    log: list[str] = []
    shelves = [Shelf(name, tool("x"), log=log) for name in "abc"]
    shelves[0].fails["close"] = OSError("first")
    shelves[2].fails["close"] = OSError("last")
    async with host() as (registry, sources):
        await sources.add(*shelves)
        with pytest.raises(ExceptionGroup) as caught:
            await sources.aclose()
        assert [str(error) for error in caught.value.exceptions] == ["last", "first"]
        assert log[3:] == ["close c", "close b", "close a"]
        assert ids(registry) == []
        await sources.aclose()  # idempotent
        with pytest.raises(Closed):
            await sources.add(Shelf("late"))


async def test_one_can_be_removed_and_added_again() -> None:
    shelf = Shelf("a", tool("x"))
    async with host() as (registry, sources):
        await sources.add(shelf)
        await sources.remove("a")
        assert ids(registry) == []
        with pytest.raises(InvalidRequest, match="no source 'a' is connected; connected are: none"):
            await sources.remove("a")
        await sources.add(shelf)
        assert ids(registry) == ["a:x"]
        shelf.fails["close"] = OSError("stuck")
        with pytest.raises(ExceptionGroup):
            await sources.remove("a")
        assert sources.reports() == ()


async def test_names_are_taken_once() -> None:
    async with host() as (registry, sources):
        registry.register(tool("mine", "b"))
        await sources.add(Shelf("a", tool("x")))
        with pytest.raises(InvalidRequest, match="'a' is connected already"):
            await sources.add(Shelf("a"))
        with pytest.raises(InvalidRequest, match="a:x"):
            await sources.add(Shelf("c", tool("x", "a")))
        with pytest.raises(InvalidRequest, match="b:mine"):
            await sources.add(Shelf("b", tool("mine")))
        with pytest.raises(InvalidToolId):
            await sources.add(Shelf("no name"))
        assert ids(registry) == ["a:x", "b:mine"]
        assert [report.name for report in sources.reports()] == ["a"]


async def test_what_cannot_be_registered_is_left_out_and_reported() -> None:
    shelf = Shelf(
        "a", tool("good"), tool("aio"), tool("bad", input_schema={"type": "nonsense"}), tool("same"), tool("same")
    )
    shelf.offer = Offer(shelf.offer.tools, {"strange": "it is no tool"})
    async with host() as (registry, sources):
        (report,) = await sources.add(shelf)
        assert ids(registry) == ["a:good", "a:same"]
        assert set(report.left_out) == {"strange", "a:aio", "a:bad", "a:same"}
        assert "reserved" in report.left_out["a:aio"]
        assert "schema" in report.left_out["a:bad"]


async def test_changes_are_followed_in_one_step() -> None:
    shelf = Shelf("a", tool("x"), tool("y"))
    async with host() as (registry, sources):
        await sources.add(shelf)
        version = registry.version
        shelf.offer = Offer((tool("y"), tool("z")))
        for _ in range(100):
            shelf.change()
        await eventually(lambda: ids(registry) == ["a:y", "a:z"])
        assert registry.version == version + 1
        assert sources.reports() == (SourceReport("a", ("a:y", "a:z")),)


async def test_a_source_that_changes_all_the_time_is_not_asked_all_the_time() -> None:
    shelf = Shelf("a", tool("x"))
    async with host() as (_, sources):
        await sources.add(shelf)
        for _ in range(20):
            shelf.change()
            await anyio.sleep(0.002)
        await anyio.sleep(0.3)
        assert 2 <= shelf.asked <= 5


async def test_a_failing_refresh_keeps_what_was_there_and_says_why() -> None:
    good, bad = Shelf("good", tool("x")), Shelf("bad", tool("x"))
    async with host() as (registry, sources):
        await sources.add(good, bad)
        good.offer = Offer((tool("new"),))
        bad.fails["tools"] = OSError("gone")
        reports = await sources.refresh()
        assert reports == (
            SourceReport("good", ("good:new",)),
            SourceReport("bad", ("bad:x",), error="OSError: gone"),
        )
        bad.fails.clear()
        bad.offer = Offer((tool("x"), tool("new", "good")))
        (report,) = await sources.refresh("bad")
        assert "good:new" in report.error
        assert ids(registry) == ["bad:x", "good:new"]
        bad.offer = Offer(())
        assert await sources.refresh("bad") == (SourceReport("bad"),)
        with pytest.raises(InvalidRequest):
            await sources.refresh("unknown")


async def test_health_is_asked_of_each() -> None:
    good, bad = Shelf("good"), Shelf("bad")
    bad.fails["health"] = ToolUnavailable("it", "it is ill")
    async with host() as (_, sources):
        await sources.add(good, bad)
        found = await sources.health()
        assert found["good"] == ""
        assert "it is ill" in found["bad"]


async def test_a_source_that_crashes_harms_nobody_else() -> None:
    good, bad = Shelf("good", tool("x")), Shelf("bad", tool("x"))
    async with host() as (registry, sources):
        await sources.add(good, bad)
        bad.crash.set()
        await eventually(lambda: ids(registry) == ["good:x"])
        assert "unhandled errors" in sources.reports()[1].error
        good.offer = Offer((tool("still"),))
        good.change()
        await eventually(lambda: ids(registry) == ["good:still"])
        with pytest.raises(ExceptionGroup):
            await sources.remove("bad")
        bad.crash = anyio.Event()
        await sources.add(bad)
        assert ids(registry) == ["bad:x", "good:still"]


async def test_cancelling_add_leaves_nothing() -> None:
    class Slow(Shelf):
        async def tools(self) -> Offer:
            await anyio.sleep_forever()
            raise AssertionError

    first, slow = Shelf("first", tool("x")), Slow("slow")
    async with host() as (registry, sources):
        with anyio.move_on_after(0.1) as scope:
            await sources.add(first, slow)
        assert scope.cancelled_caught
        assert first.log == ["open first", "close first"]
        assert sources.reports() == ()
        assert ids(registry) == []


async def test_closing_ends_an_add_that_is_under_way() -> None:
    class Slow(Shelf):
        async def tools(self) -> Offer:
            await anyio.sleep_forever()
            raise AssertionError

    async with host() as (_, sources), anyio.create_task_group() as tasks:

        async def add() -> None:
            with pytest.raises(Closed):
                await sources.add(Slow("slow"))

        tasks.start_soon(add)
        await eventually(lambda: bool(sources.reports()))
        await sources.aclose()


async def test_a_source_that_does_not_open_in_time_is_given_up() -> None:
    class Slow(Shelf):
        async def tools(self) -> Offer:
            await anyio.sleep_forever()
            raise AssertionError

    async with host(open_seconds=0.1) as (_, sources):
        with pytest.raises(ToolUnavailable, match=r"did not open within 0\.1 s"):
            await sources.add(Slow("slow"))


async def test_a_source_that_does_not_close_in_time_is_cut_off() -> None:
    class Sticky(Shelf):
        @asynccontextmanager
        async def open(self, on_change: Callable[[], None]) -> AsyncIterator[None]:
            yield
            await anyio.sleep_forever()

    async with host(close_seconds=0.1) as (_, sources):
        await sources.add(Sticky("sticky"))
        with pytest.raises(ExceptionGroup) as caught:
            await sources.remove("sticky")
        assert "did not close within 0.1 s" in str(caught.value.exceptions[0])


async def test_versions_of_a_tool_stay_apart() -> None:
    old, new = (tool("x", "a") for _ in range(2))
    shelf = Shelf("a", Tool(id=ToolId("x", "a", "1.0"), provider=old.provider, input_schema={}), new)
    async with host() as (registry, sources):
        await sources.add(shelf)
        assert ids(registry) == ["a:x", "a:x:1.0"]
