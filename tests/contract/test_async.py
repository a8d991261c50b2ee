"""Top-level await, and asyncio over tools: the same event loop manners on every backend."""

from typing import Any

import pytest

from sandbox import Outcome
from tests.contract.conftest import Run

pytestmark = pytest.mark.one_container

IMPORTS = "import asyncio, time\n"


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("await asyncio.sleep(0, 'slept')", "slept"),
        ("x = await asyncio.sleep(0, 2)\nx + 1", 3),
        ("return await asyncio.sleep(0, 4)", 4),
        ("__out = await asyncio.sleep(0, 5)", 5),
        ("[await asyncio.sleep(0, n) for n in range(3)]", [0, 1, 2]),
        ("async def f():\n    yield 1\n    yield 2\n[n async for n in f()]", [1, 2]),
        ("async def f():\n    yield 1\nasync for n in f():\n    __out = n", 1),
        ("async with asyncio.timeout(5):\n    __out = 6", 6),
        ("await tools.aio.demo.add(a=1, b=2)", 3),
        ("await tools.aio.run_tool('demo:add', {'a': 1})", 11),
    ],
)
def test_top_level_await(run: Run, code: str, value: Any) -> None:
    result = run(IMPORTS + code)
    assert (result.outcome, result.value) == (Outcome.COMPLETED, value)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("async def main():\n    return await tools.aio.demo.add(a=1)\nasyncio.run(main())", 11),
        ("with asyncio.Runner() as runner:\n    __out = runner.run(asyncio.sleep(0, 7))", 7),
        ("[asyncio.run(asyncio.sleep(0, n)) for n in range(3)]", [0, 1, 2]),
        ("loop = asyncio.new_event_loop()\nloop.run_until_complete(tools.aio.demo.add(a=2))", 12),
    ],
)
def test_a_snippet_may_run_its_own_event_loop(run: Run, code: str, value: Any) -> None:
    result = run(IMPORTS + code)
    assert (result.outcome, result.value) == (Outcome.COMPLETED, value)


def test_asyncio_run_beside_top_level_await_is_an_error_that_says_so(run: Run) -> None:
    result = run(IMPORTS + "await asyncio.sleep(0)\nasyncio.run(asyncio.sleep(0))")
    assert result.outcome is Outcome.RAISED
    assert result.error is not None
    assert "running event loop" in result.error.message


def test_gathered_tools_run_at_the_same_time(run: Run) -> None:
    result = run(
        IMPORTS + "started = time.monotonic()\n"
        "answers = await asyncio.gather(*(tools.aio.demo.slow(seconds=0.2, answer=n) for n in range(20)))\n"
        "[answers, time.monotonic() - started]"
    )
    answers, seconds = result.value
    assert answers == list(range(20))
    assert seconds < 2
    assert [call.status for call in result.tool_calls] == ["completed"] * 20


def test_tools_answer_while_the_snippet_does_something_else(run: Run) -> None:
    result = run(
        IMPORTS + "log = []\nasync def call():\n    log.append(await tools.aio.demo.slow(seconds=0.2, answer=9))\n"
        "async def tick():\n    for n in range(3):\n        await asyncio.sleep(0.01)\n        log.append(n)\n"
        "await asyncio.gather(call(), tick())\nlog"
    )
    assert result.value == [0, 1, 2, 9]


def test_sleep_takes_its_time(run: Run) -> None:
    result = run(
        IMPORTS + "started = time.monotonic()\nawait asyncio.sleep(0.2)\ntime.sleep(0.1)\ntime.monotonic() - started"
    )
    assert 0.29 < result.value < 5


def test_a_slow_tool_can_be_given_up(run: Run) -> None:
    result = run(
        IMPORTS + "try:\n    await asyncio.wait_for(tools.aio.demo.wait(), 0.1)\nexcept TimeoutError:\n"
        "    __out = 'gave up'\nelse:\n    __out = 'answered'\n__out, await tools.aio.demo.add(a=1)"
    )
    assert (result.outcome, result.value) == (Outcome.COMPLETED, ["gave up", 11])
    assert [call.status for call in result.tool_calls] == ["cancelled", "completed"]


def test_one_of_several_tools_is_enough(run: Run) -> None:
    result = run(
        IMPORTS + "calls = [asyncio.ensure_future(tools.aio.demo.slow(seconds=s)) for s in (0.01, 30)]\n"
        "done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)\n"
        "for call in pending:\n    call.cancel()\n[len(done), len(pending)]"
    )
    assert (result.outcome, result.value) == (Outcome.COMPLETED, [1, 1])


def test_to_thread_gives_the_functions_answer_or_error(run: Run) -> None:
    result = run(
        IMPORTS + "answer = await asyncio.to_thread(divmod, 7, 2)\n"
        "try:\n    await asyncio.to_thread(divmod, 7, 0)\nexcept ZeroDivisionError:\n    print('caught')\n"
        "return [answer, await asyncio.to_thread(tools.demo.add, a=1)]"
    )
    assert (result.outcome, result.value, result.stdout) == (Outcome.COMPLETED, [[3, 1], 11], "caught\n")


def test_a_task_group_gathers_results_and_errors(run: Run) -> None:
    result = run(
        IMPORTS + "async with asyncio.TaskGroup() as group:\n"
        "    tasks = [group.create_task(tools.aio.demo.add(a=n)) for n in range(3)]\n"
        "try:\n    async with asyncio.TaskGroup() as group:\n"
        "        group.create_task(tools.aio.demo.fail())\n        group.create_task(asyncio.sleep(30))\n"
        "except* tools.ToolError as failed:\n    codes = [error.code for error in failed.exceptions]\n"
        "[[task.result() for task in tasks], codes]"
    )
    assert (result.outcome, result.value) == (Outcome.COMPLETED, [[10, 11, 12], ["tool_failed"]])


def test_queues_events_and_locks_work_between_tasks(run: Run) -> None:
    result = run(
        IMPORTS + "queue, seen = asyncio.Queue(2), []\n"
        "async def produce():\n    for n in range(5):\n        await queue.put(n)\n    await queue.put(None)\n"
        "async def consume():\n    while (n := await queue.get()) is not None:\n        seen.append(n)\n"
        "await asyncio.gather(produce(), consume())\nseen"
    )
    assert result.value == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "code",
    [
        "await asyncio.get_running_loop().create_future()",
        "await asyncio.Event().wait()",
        "await asyncio.gather(asyncio.Queue().get(), asyncio.Queue().get())",
        "asyncio.run(asyncio.Event().wait())",
    ],
)
def test_a_deadlock_is_an_error_at_once(run: Run, code: str) -> None:
    result = run(IMPORTS + code, limits={"wall_seconds": 5})
    assert result.outcome is Outcome.RAISED
    assert result.error is not None
    assert (result.error.type, result.error.message.partition(":")[0]) == ("RuntimeError", "deadlock")


def test_waiting_for_a_tool_is_no_deadlock(run: Run) -> None:
    result = run(
        IMPORTS + "event = asyncio.Event()\n"
        "async def call():\n    await tools.aio.demo.slow(seconds=0.1)\n    event.set()\n"
        "task = asyncio.create_task(call())\nawait event.wait()\n'woken'"
    )
    assert (result.outcome, result.value) == (Outcome.COMPLETED, "woken")


def test_a_coroutine_that_is_not_awaited_is_a_value_like_any_other(run: Run) -> None:
    result = run("async def f(): pass\ncoroutine = f()\ncoroutine.close()\ncoroutine")
    assert (result.outcome, result.value_is_repr) == (Outcome.COMPLETED, True)
    assert result.value.startswith("<coroutine object f")


def test_tasks_left_behind_are_cancelled_and_do_not_keep_the_snippet(run: Run) -> None:
    result = run(
        IMPORTS + "async def linger():\n    try:\n        await asyncio.sleep(30)\n"
        "    finally:\n        print('cleaned up')\n"
        "task = asyncio.create_task(linger())\nawait asyncio.sleep(0)\n'done'"
    )
    assert (result.outcome, result.value, result.stdout) == (Outcome.COMPLETED, "done", "cleaned up\n")
