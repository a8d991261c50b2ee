"""One tool call: validated, bounded, its failures told apart."""

import json
import time
from typing import Any

import anyio
import pytest

from gateway.base import MAX_ARGUMENTS_BYTES, MAX_RESULT_BYTES, JsonValue
from gateway.context import ToolContext
from gateway.errors import (
    BudgetExceeded,
    Closed,
    InvalidInput,
    InvalidOutput,
    PayloadTooLarge,
    ToolError,
    ToolFailed,
    ToolTimeout,
)
from gateway.providers.function import function_tool
from gateway.runner import Runner
from gateway.tools.model import Tool, ToolId
from gateway.tools.registry import ToolRegistry

pytestmark = pytest.mark.anyio


class Answers:
    """A provider that answers with whatever it was given, or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.seen: list[JsonValue] = []

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        self.seen.append(arguments)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def health(self) -> None:
        """It always answers."""

    async def aclose(self) -> None:
        """Nothing is held."""


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


async def run(tool: Tool, arguments: Any, timeout_seconds: float | None = None) -> JsonValue:
    registry = ToolRegistry([tool])
    return await Runner(registry).run(registry.tools()[0], arguments, ToolContext(), timeout_seconds=timeout_seconds)


def answering(answer: Any, **more: Any) -> Tool:
    return Tool(id=ToolId("t"), provider=Answers(answer), **({"input_schema": {}} | more))


async def test_a_call_goes_through_with_defaults() -> None:
    tool = answering([1, "ä", None], input_schema={"properties": {"n": {"default": 5}}})
    assert await run(tool, {"a": 1}) == [1, "ä", None]
    assert isinstance(tool.provider, Answers)
    assert tool.provider.seen == [{"a": 1, "n": 5}]


async def test_misfits_never_reach_the_tool() -> None:
    tool = answering(1, input_schema={"required": ["a"]})
    misfits: list[Any] = [{}, [], None, "a", {"a": float("nan")}, {"a": "\ud800"}, {"a": {1}}]
    for arguments in misfits:
        with pytest.raises(InvalidInput):
            await run(tool, arguments)
    with pytest.raises(PayloadTooLarge, match="arguments of t"):
        await run(tool, {"a": "x" * 10_000_000})
    assert isinstance(tool.provider, Answers)
    assert tool.provider.seen == []


async def test_the_size_of_arguments_is_bounded_exactly() -> None:
    tool = answering(True)
    room = MAX_ARGUMENTS_BYTES - len(json.dumps({"a": ""}, separators=(",", ":")))
    assert await run(tool, {"a": "x" * room}) is True
    with pytest.raises(PayloadTooLarge):
        await run(tool, {"a": "x" * (room + 1)})
    with pytest.raises(PayloadTooLarge):  # bytes, not characters
        await run(tool, {"a": "ä" * (room // 2 + 1)})


async def test_a_result_is_plain_json_and_the_guests_own() -> None:
    answer = {"t": (1, 2), 3: [None]}
    tool = answering(answer)
    result = await run(tool, {})
    assert result == {"t": [1, 2], "3": [None]}
    result["3"].append(1)
    assert answer[3] == [None]


def circle() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "answer", [float("nan"), [float("inf")], {1, 2}, object(), b"x", "\ud800", circle(), deep(200), deep(50_000)]
)
async def test_what_is_no_json_is_invalid_output(answer: Any) -> None:
    with pytest.raises(InvalidOutput, match="not JSON"):
        await run(answering(answer), {})


async def test_nesting_is_bounded_but_generous() -> None:
    assert await run(answering(deep(128)), {}) == deep(128)
    assert await run(answering([[]] * 1000), {}) == [[]] * 1000
    with pytest.raises(InvalidOutput, match="128 levels"):
        await run(answering(deep(129)), {})


async def test_results_are_bounded_and_fit_their_schema() -> None:
    with pytest.raises(PayloadTooLarge, match="result of t"):
        await run(answering("x" * MAX_RESULT_BYTES), {})
    with pytest.raises(InvalidOutput, match="not of type"):
        await run(answering("x", output_schema={"type": "integer"}), {})
    assert await run(answering(None, output_schema={"type": "null"}), {}) is None


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ValueError("no such row"), "ValueError: no such row"),
        (KeyError("id"), "KeyError: 'id'"),
        (RuntimeError(), "RuntimeError: "),
        (UnprintableError(), "UnprintableError: (its message cannot be formatted)"),
        (Closed("pool"), "Closed: this pool is closed; make a new one"),
        (StopAsyncIteration("x"), "StopAsyncIteration: x"),
        (OSError("bad name \udcff"), "OSError: bad name \\udcff"),
        (ExceptionGroup("several", [ValueError()]), "ExceptionGroup: several (1 sub-exception)"),
    ],
)
async def test_whatever_a_tool_raises_is_told(raised: Exception, message: str) -> None:
    with pytest.raises(ToolFailed) as caught:
        await run(answering(raised), {})
    assert caught.value.message == message
    assert caught.value.details == {"type": type(raised).__name__}
    assert caught.value.__cause__ is raised


async def test_a_long_failure_is_cut() -> None:
    with pytest.raises(ToolFailed) as caught:
        await run(answering(ValueError("x" * 1_000_000)), {})
    assert len(caught.value.message) == 2000


@pytest.mark.parametrize("raised", [ToolError("quota", details={"left": 0}), BudgetExceeded("rows", 1, 2)])
async def test_a_tool_may_raise_a_tool_error_on_purpose(raised: ToolError) -> None:
    with pytest.raises(type(raised)) as caught:
        await run(answering(raised), {})
    assert caught.value is raised


async def test_a_tool_that_raises_timeout_error_itself_did_not_time_out() -> None:
    with pytest.raises(ToolFailed, match="TimeoutError: upstream"):
        await run(answering(TimeoutError("upstream")), {})

    async def gives_up() -> None:
        with anyio.fail_after(0.01):
            await anyio.sleep(5)

    with pytest.raises(ToolFailed, match="TimeoutError"):
        await run(function_tool(gives_up), {})


@pytest.mark.parametrize(("own", "other"), [(0.05, None), (0.05, 5.0), (5.0, 0.05)])
async def test_the_shorter_timeout_counts(own: float, other: float | None) -> None:
    async def sleep() -> None:
        await anyio.sleep(5)

    started = time.monotonic()
    with pytest.raises(ToolTimeout, match=r"0\.05 s") as caught:
        await run(function_tool(sleep, timeout_seconds=own), {}, other)
    assert time.monotonic() - started < 2
    assert caught.value.retryable


async def test_a_tool_that_hides_its_cancellation_still_timed_out() -> None:
    async def hides() -> None:
        try:
            await anyio.sleep(5)
        except anyio.get_cancelled_exc_class():
            raise ConnectionError("closed") from None

    with pytest.raises(ToolTimeout):
        await run(function_tool(hides, timeout_seconds=0.05), {})


async def test_cancellation_passes_through() -> None:
    async def sleep() -> None:
        await anyio.sleep(5)

    with anyio.move_on_after(0.05) as scope:
        await run(function_tool(sleep), {})
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ({"n": "one"}, {"n": "one"}),
        ({"n": "x" * 10_000}, {"truncated": True, "bytes": 10_008, "head": '{"n":"' + "x" * 994}),
    ],
)
async def test_a_result_that_does_not_fit_is_kept_on_the_error(answer: Any, kept: Any) -> None:
    with pytest.raises(InvalidOutput) as caught:
        await run(answering(answer, output_schema={"properties": {"n": {"type": "integer"}}}), {})
    assert caught.value.details["value"] == kept
