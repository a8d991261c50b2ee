"""Python functions as tools."""

import dataclasses
import functools
import threading
import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.errors import InvalidInput, InvalidOutput, InvalidRequest, InvalidToolId
from gateway.providers.function import FunctionProvider, function_tool
from gateway.tools.model import ToolExample

pytestmark = pytest.mark.anyio


class Counter:
    """Counts."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, by: int = 1) -> int:
        """Add to the total."""
        self.total += by
        return self.total

    async def add_later(self, by: int = 1) -> int:
        await anyio.lowlevel.checkpoint()
        return self.add(by)

    async def __call__(self, by: int) -> int:
        return self.add(by)


async def test_every_kind_of_callable_answers() -> None:
    counter = Counter()
    for func in (counter.add, counter.add_later, counter, functools.partial(counter.add_later), lambda by: by):
        provider = FunctionProvider(func)
        assert await provider.call({"by": 2}) in {2, 4, 6, 8}
        await provider.aclose()
        await provider.aclose()


async def test_a_synchronous_function_does_not_block_the_loop() -> None:
    def slow() -> str:
        time.sleep(0.2)
        return threading.current_thread().name

    provider = FunctionProvider(slow)
    started = time.monotonic()
    names: list[Any] = []

    async def call() -> None:
        names.append(await provider.call({}))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(call)
    assert time.monotonic() - started < 1.5
    assert threading.current_thread().name not in names


async def test_threads_are_limited() -> None:
    running: list[int] = []
    most: list[int] = []

    def slow() -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()

    provider = FunctionProvider(slow, max_threads=2)
    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(provider.call, {})
    assert max(most) <= 2
    with pytest.raises(InvalidRequest, match="max_threads"):
        FunctionProvider(slow, max_threads=0)


async def test_cancellation_does_not_wait_for_a_thread() -> None:
    release = threading.Event()

    def stuck() -> None:
        release.wait(10)

    started = time.monotonic()
    with anyio.move_on_after(0.05) as scope:
        await FunctionProvider(stuck).call({})
    release.set()
    assert scope.cancelled_caught
    assert time.monotonic() - started < 2


def test_a_provider_outlives_an_event_loop() -> None:
    provider = FunctionProvider(Counter().add)
    assert anyio.run(provider.call, {}) == 1
    assert anyio.run(provider.call, {}) == 2


async def test_arguments_and_results_are_converted_and_misfits_told() -> None:
    @dataclasses.dataclass
    class Point:
        x: int

    def mirror(point: Point) -> Point:
        return Point(-point.x)

    provider = FunctionProvider(mirror)
    assert await provider.call({"point": {"x": 1}}) == {"x": -1}
    with pytest.raises(InvalidInput, match=r"point\.x"):
        await provider.call({"point": {"x": "many"}})

    def opaque():  # type: ignore[no-untyped-def]  # noqa: ANN202
        return threading.Lock()

    with pytest.raises(InvalidOutput, match="no JSON form"):
        await FunctionProvider(opaque).call({})


async def test_a_validation_error_inside_the_tool_is_not_the_callers_fault() -> None:
    def careless(a: int) -> int:
        return TypeAdapter(int).validate_python("x" * a)

    with pytest.raises(ValidationError):
        await FunctionProvider(careless).call({"a": 1})


def test_a_tool_takes_its_words_from_the_function() -> None:
    tool = function_tool(
        Counter().add,
        namespace="math",
        version="1.2.3",
        tags=["sum"],
        examples=[ToolExample("one", {"by": 1})],
        notes="n",
        timeout_seconds=3,
    )
    assert str(tool.id) == "math:add:1.2.3"
    assert tool.description == "Add to the total."
    assert (tool.tags, tool.notes, tool.timeout_seconds) == (("sum",), "n", 3)
    assert tool.examples[0].arguments == {"by": 1}
    assert str(function_tool(Counter().add, name="plus", description="").id) == "plus"


def test_unnamable_tools_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="pass name="):
        function_tool(lambda: 1)
    with pytest.raises(InvalidToolId):
        function_tool(Counter().add, name="no spaces")
    with pytest.raises(InvalidToolId, match="needs a namespace"):
        function_tool(Counter().add, version="1.0.0")
