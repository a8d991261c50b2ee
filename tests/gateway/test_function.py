"""Python functions as tools."""

import dataclasses
import functools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.context import Caller, Progress, ToolContext
from gateway.errors import (
    InvalidInput,
    InvalidOutput,
    InvalidRequest,
    InvalidToolId,
    ToolError,
    ToolFailed,
    ToolTimeout,
)
from gateway.providers.base import StreamingProvider
from gateway.providers.function import FunctionProvider, GeneratorProvider, function_tool
from gateway.runner import Runner
from gateway.tools.model import ToolExample
from gateway.tools.registry import ToolRegistry

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
        assert await provider.call({"by": 2}, ToolContext()) in {2, 4, 6, 8}
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
        names.append(await provider.call({}, ToolContext()))

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
            tasks.start_soon(provider.call, {}, ToolContext())
    assert max(most) <= 2
    with pytest.raises(InvalidRequest, match="max_threads"):
        FunctionProvider(slow, max_threads=0)


async def test_cancellation_does_not_wait_for_a_thread() -> None:
    release = threading.Event()

    def stuck() -> None:
        release.wait(10)

    started = time.monotonic()
    with anyio.move_on_after(0.05) as scope:
        await FunctionProvider(stuck).call({}, ToolContext())
    release.set()
    assert scope.cancelled_caught
    assert time.monotonic() - started < 2


def test_a_provider_outlives_an_event_loop() -> None:
    provider = FunctionProvider(Counter().add)
    assert anyio.run(provider.call, {}, ToolContext()) == 1
    assert anyio.run(provider.call, {}, ToolContext()) == 2


async def test_arguments_and_results_are_converted_and_misfits_told() -> None:
    @dataclasses.dataclass
    class Point:
        x: int

    def mirror(point: Point) -> Point:
        return Point(-point.x)

    provider = FunctionProvider(mirror)
    assert await provider.call({"point": {"x": 1}}, ToolContext()) == {"x": -1}
    with pytest.raises(InvalidInput, match=r"point\.x"):
        await provider.call({"point": {"x": "many"}}, ToolContext())

    def opaque():  # type: ignore[no-untyped-def]  # noqa: ANN202
        return threading.Lock()

    with pytest.raises(InvalidOutput, match="no JSON form"):
        await FunctionProvider(opaque).call({}, ToolContext())


async def test_a_validation_error_inside_the_tool_is_not_the_callers_fault() -> None:
    def careless(a: int) -> int:
        return TypeAdapter(int).validate_python("x" * a)

    with pytest.raises(ValidationError):
        await FunctionProvider(careless).call({"a": 1}, ToolContext())


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
    with pytest.raises(InvalidToolId, match="its version"):
        function_tool(Counter().add, version="a/b")


async def test_the_context_is_the_hosts_and_no_argument() -> None:
    def whose(context: ToolContext, greeting: str = "hello") -> str:
        return f"{greeting} {context.caller.user_id} of {context.tool_id}"

    provider = FunctionProvider(whose)
    assert list(provider.input_schema["properties"]) == ["greeting"]
    context = ToolContext(tool_id="who:is", caller=Caller(user_id="ada"))
    assert await provider.call({}, context) == "hello ada of who:is"

    def anything(context: ToolContext, **more: Any) -> list[Any]:
        return [context.tool_id, sorted(more)]

    assert await FunctionProvider(anything).call({"a": 1}, context) == ["who:is", ["a"]]
    with pytest.raises((InvalidInput, TypeError)):
        await provider.call({"context": {"tool_id": "forged"}}, context)


async def test_generators_give_chunks_or_the_list_of_them() -> None:
    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    def spell(text: str) -> Iterator[str]:
        yield from text

    for func, arguments, chunks in ((count, {"to": 3}, [0, 1, 2]), (spell, {"text": "abc"}, ["a", "b", "c"])):
        tool = function_tool(func)
        assert isinstance(tool.provider, StreamingProvider)
        assert await tool.provider.call(dict(arguments), ToolContext()) == chunks
        assert [chunk async for chunk in tool.provider.stream(dict(arguments), ToolContext())] == chunks
    assert function_tool(count).output_schema == {"type": "array", "items": {"type": "integer"}}
    assert not isinstance(function_tool(Counter().add).provider, StreamingProvider)


async def test_a_generator_that_is_given_up_is_closed() -> None:
    closed = threading.Event()

    def tail() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    provider = GeneratorProvider(tail)
    chunks = provider.stream({}, ToolContext())
    assert await anext(chunks) == 0
    await chunks.aclose()
    assert closed.is_set()


async def test_a_thread_may_report_progress() -> None:
    heard: list[Progress] = []

    def work(context: ToolContext) -> None:
        context.report("half", progress=1, total=2)

    await FunctionProvider(work).call({}, ToolContext(on_progress=heard.append))
    await FunctionProvider(work).call({}, ToolContext())
    assert heard == [Progress("half", 1, 2)]


def test_every_option_of_a_tool_is_kept() -> None:
    tool = function_tool(
        Counter().add,
        title="Add up",
        read_only=False,
        destructive=False,
        idempotent=True,
        open_world=False,
        resource="counter/{by}",
        roles=["Admin"],
    )
    assert (tool.title, tool.read_only, tool.destructive, tool.idempotent, tool.open_world) == (
        "Add up",
        False,
        False,
        True,
        False,
    )
    assert (tool.resource, tool.roles) == ("counter/{by}", frozenset({"admin"}))


class MathError(ToolError):
    """An error of a tool's own, with a code that a model can act on."""

    code = "math_error"


async def divide(a: float, b: float) -> float:
    """Divide a by b."""
    if b == 0:
        raise MathError("b is zero; choose another divisor", details={"b": b})
    return a / b


async def run(func: Any, timeout_seconds: float | None = None, **arguments: Any) -> Any:
    registry = ToolRegistry([function_tool(func)])
    (tool,) = registry.tools()
    return await Runner(registry).run(tool, arguments, ToolContext(), timeout_seconds=timeout_seconds)


async def test_a_division_gives_a_quotient_or_says_what_is_wrong() -> None:
    assert await run(divide, a=10, b=4) == 2.5
    assert await run(divide, a=-1, b=0.5) == -2
    with pytest.raises(MathError, match="another divisor") as caught:
        await run(divide, a=1, b=0)
    error = {
        "code": "math_error",
        "message": "b is zero; choose another divisor",
        "retryable": False,
        "details": {"b": 0},
    }
    assert caught.value.to_json() == error
    for wrong in ({"a": 1}, {"a": 1, "b": "2"}, {"a": True, "b": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": None}):
        with pytest.raises(InvalidInput):
            await run(divide, **wrong)


async def test_a_division_that_its_author_forgot_to_guard_has_failed() -> None:
    def careless(a: float, b: float) -> float:
        return a / b

    with pytest.raises(ToolFailed, match="ZeroDivisionError") as caught:
        await run(careless, a=1, b=0)
    assert not caught.value.retryable


async def test_a_function_that_takes_too_long_says_after_how_long() -> None:
    async def slow() -> None:
        await anyio.sleep(10)

    def stuck() -> None:
        release.wait(10)

    release = threading.Event()
    for func in (slow, stuck):
        with pytest.raises(ToolTimeout, match=r"0\.05 s") as caught:
            await run(func, timeout_seconds=0.05)
        assert caught.value.retryable
    release.set()
