"""Tool calls that give no result: caught or not, refused or failed, always an error and always recorded."""

from typing import Any

import pytest

from sandbox import ExecutionResult, Outcome
from tests.contract.conftest import Run

pytestmark = pytest.mark.one_container

CATCH = """
try:
    {call}
except tools.ToolError as error:
    __out = [error.code, error.message, error.retryable, error.details]
else:
    __out = "no error"
"""


def caught(run: Run, call: str, **options: Any) -> tuple[list[Any], ExecutionResult]:
    """What a snippet catches from `call`: code, message, retryable, details."""
    result = run(CATCH.format(call=call), **options)
    assert result.outcome is Outcome.COMPLETED, result.summary()
    assert isinstance(result.value, list), result.value
    return result.value, result


def test_an_unknown_tool_is_named_with_its_neighbours(run: Run) -> None:
    (code, message, retryable, details), result = caught(run, "tools.demo.ad(a=1)")
    assert (code, retryable) == ("tool_not_found", False)
    assert "demo:ad" in message
    assert "demo:add" in details["near"]
    assert [(call.tool_id, call.status, call.attempts) for call in result.tool_calls] == [("demo:ad", "refused", 0)]


@pytest.mark.parametrize("tool_id", ["", "a:b:c:d", "demo:", "sp ace", "../etc", "x" * 500, "\\0", "demo:add\\n"])
def test_a_malformed_id_is_refused(run: Run, tool_id: str) -> None:
    (code, *_), result = caught(run, f"tools.run_tool('{tool_id}')")
    assert code == "invalid_tool_id"
    assert [call.status for call in result.tool_calls] == ["refused"]


def test_a_tool_that_is_not_allowed_is_denied(run: Run) -> None:
    (code, message, retryable, _), result = caught(run, "tools.demo.add(a=1)", allowed_tools=["demo:echo"])
    assert (code, retryable) == ("tool_denied", False)
    assert "demo:add" in message
    (call,) = result.tool_calls
    assert (call.status, call.arguments, call.error and call.error["code"]) == ("refused", {"a": 1}, "tool_denied")


def test_an_empty_list_allows_nothing_and_a_pattern_its_namespace(run: Run) -> None:
    assert caught(run, "tools.demo_plain()", allowed_tools=[])[0][0] == "tool_denied"
    assert caught(run, "tools.demo_plain()", allowed_tools=["demo:*"])[0][0] == "tool_denied"
    assert run("tools.demo.add(a=1)", allowed_tools=["demo:*"]).value == 11


def test_invalid_input_names_every_misfit_by_path(run: Run) -> None:
    (code, message, _, details), result = caught(run, "tools.demo.add(a='one', b=None, c=3)")
    assert code == "invalid_input"
    assert {"a", "b"} <= {error["path"] for error in details["errors"]}
    assert "a: " in message
    assert [call.status for call in result.tool_calls] == ["failed"]
    assert result.tool_calls[0].attempts == 0


def test_a_missing_argument_is_named(run: Run) -> None:
    (code, message, _, _), _ = caught(run, "tools.demo.add(b=1)")
    assert code == "invalid_input"
    assert "'a'" in message or '"a"' in message


def test_a_tool_that_raises_has_failed(run: Run) -> None:
    (code, message, retryable, details), result = caught(run, "tools.demo.fail()")
    assert (code, message, retryable) == ("tool_failed", "ValueError: no luck", False)
    assert details == {"type": "ValueError"}
    assert [(call.status, call.attempts) for call in result.tool_calls] == [("failed", 1)]


def test_a_tools_own_error_arrives_as_it_is(run: Run) -> None:
    error, _ = caught(run, "tools.demo.refuse()")
    assert error == ["tool_error", "out of stock", True, {"left": 0}]


def test_a_tool_that_takes_too_long_times_out(run: Run) -> None:
    (code, _, retryable, details), result = caught(run, "tools.demo.hang()")
    assert (code, retryable, details) == ("timeout", True, {"timeout_seconds": 0.3})
    assert [call.status for call in result.tool_calls] == ["failed"]


def test_arguments_and_results_have_a_size_limit(run: Run) -> None:
    assert caught(run, "tools.demo.echo(value='x' * 1_100_000)")[0][0] == "too_large"
    assert caught(run, "tools.demo.bulky(size=5_000_000)")[0][0] == "too_large"


def test_arguments_beyond_any_frame_are_an_error_too(run: Run) -> None:
    (code, *_), _ = caught(run, "tools.demo.echo(value='x' * 20_000_000)")
    assert code == "too_large"


@pytest.mark.parametrize(
    "call",
    [
        "tools.search_tools('x', limit=0)",
        "tools.search_tools('x', limit=101)",
        "tools.describe_tool('demo:add', 'all')",
    ],
)
def test_operations_refuse_bad_arguments(run: Run, call: str) -> None:
    assert caught(run, call)[0][0] == "invalid_input"


@pytest.mark.parametrize("call", ["tools.describe_tool('demo:add')", "tools.list_tool_examples('demo:add')"])
def test_tools_that_are_not_allowed_cannot_be_looked_at(run: Run, call: str) -> None:
    assert caught(run, call, allowed_tools=["demo:echo"])[0][0] == "tool_denied"


def test_the_budget_holds_exactly(run: Run) -> None:
    result = run(
        "done = 0\ntry:\n    for n in range(10):\n        tools.demo.add(a=n)\n        done += 1\n"
        "except tools.ToolError as error:\n    __out = [done, error.code, error.details]",
        limits={"tool_calls": 4},
    )
    done, code, details = result.value
    assert (done, code) == (4, "budget_exceeded")
    assert (details["limit"], details["allowed"]) == ("tool_calls", 4)
    assert [call.status for call in result.tool_calls] == ["completed"] * 4 + ["refused"]


def test_the_budget_holds_exactly_for_calls_at_once(run: Run) -> None:
    result = run(
        "import asyncio\ncalls = (tools.aio.demo.slow(seconds=0.05, answer=n) for n in range(50))\n"
        "answers = await asyncio.gather(*calls, return_exceptions=True)\n"
        "[isinstance(answer, tools.ToolError) and answer.code for answer in answers]",
        limits={"tool_calls": 10},
    )
    assert result.value.count(False) == 10
    assert result.value.count("budget_exceeded") == 40
    statuses = [call.status for call in result.tool_calls]
    assert (statuses.count("completed"), statuses.count("refused")) == (10, 40)  # type: ignore[arg-type]  # a StrEnum


def test_a_batch_that_does_not_fit_the_budget_is_not_begun(run: Run) -> None:
    call = "tools.run_parallel([('demo:add', {'a': 1})] * 4)"
    (code, *_), result = caught(run, call, limits={"tool_calls": 3})
    assert code == "budget_exceeded"
    assert [call.status for call in result.tool_calls] == ["refused"]


def test_a_chain_that_is_too_long_is_not_begun(run: Run) -> None:
    call = "tools.run_chain([('demo:add', {'a': 1})] * 4)"
    (code, _, _, details), result = caught(run, call, limits={"chain_steps": 3})
    assert (code, details["limit"], details["allowed"]) == ("budget_exceeded", "chain_steps", 3)
    assert [call.status for call in result.tool_calls] == ["refused"]
    assert run(call, limits={"chain_steps": 4}).value["value"] == 11


def test_an_error_that_is_not_caught_ends_the_snippet(run: Run) -> None:
    result = run("x = 1\ntools.demo.fail()\nprint('not reached')")
    assert (result.outcome, result.stdout) == (Outcome.RAISED, "")
    assert result.error is not None
    assert (result.error.type, result.error.message, result.error.line) == ("ToolError", "ValueError: no luck", 2)
    assert "runtimes" not in result.error.traceback


def test_the_tools_frames_are_not_in_the_traceback(run: Run) -> None:
    result = run("import asyncio\nasync def f():\n    await tools.aio.demo.fail()\nawait asyncio.gather(f(), f())")
    assert result.error is not None
    assert result.error.line == 3
    assert "/runtimes/" not in result.error.traceback
    assert "grpc" not in result.error.traceback
