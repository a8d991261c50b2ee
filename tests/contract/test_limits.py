"""Limits hold whatever the guest does, and the result says which were held."""

from collections.abc import Mapping
from typing import Any

import pytest

from runtimes.base import Capabilities
from sandbox import InvalidRequest, Outcome
from tests.contract.conftest import Run

MIB = 1 << 20

ENDLESS = {
    "pass": "while True: pass",
    "catches everything": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "finally": "def f():\n    try:\n        while True: pass\n    finally:\n        f()\nf()",
    "big power": "x = 10 ** 10 ** 8",
    "big factorial": "import math\nmath.factorial(10 ** 7)",
    "regex": "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')",
    "sort key": "sorted([2, 1], key=lambda n: [0 for _ in iter(int, 1) if False])",
    "sum of a generator": "sum(0 for _ in iter(int, 1))",
    "in C alone": "import collections, itertools\ncollections.deque(itertools.repeat(0), maxlen=0)",
    "contains": "import itertools\n1 in itertools.repeat(0)",
    "repr": "class A:\n    def __repr__(self):\n        while True: pass\nA()",
    "exit handler": "import atexit, time\natexit.register(time.sleep, 100)\nwhile True: pass",
    "del": "class A:\n    def __del__(self):\n        while True: pass\nA()",
    "import hook": "import builtins\ndef spin(*args):\n    while True: pass\nbuiltins.__import__ = spin\nimport nope",
    "sleep": "import time\ntime.sleep(100)",
    "many sleeps": "import time\nwhile True: time.sleep(0.001)",
    "caught sleep": "import time\nwhile True:\n    try:\n        time.sleep(100)\n    except BaseException: pass",
    "asyncio sleep": "import asyncio\nawait asyncio.sleep(100)",
    "asyncio busy": "import asyncio\nwhile True: await asyncio.sleep(0)",
    "select": "import select\nselect.select([], [], [], 100)",
    "event": "import threading\nthreading.Event().wait()",
    "event with a timeout": "import threading\nthreading.Event().wait(100)",
    "lock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "queue": "import queue\nqueue.Queue().get()",
    "simple queue": "import queue\nqueue.SimpleQueue().get()",
    "condition": "import threading\ncondition = threading.Condition()\nwith condition: condition.wait()",
    "semaphore": "import threading\nthreading.Semaphore(0).acquire()",
    "tool": "tools.demo.wait()",
    "async tool": "import asyncio\nawait asyncio.gather(*(tools.aio.demo.wait() for _ in range(3)))",
}


@pytest.mark.one_container
@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS)
def test_whatever_does_not_end_is_stopped_in_time(run: Run, code: str) -> None:
    result = run(code, limits={"wall_seconds": 0.3, "memory_bytes": 1024 * MIB})
    assert (result.outcome, result.limit) == (Outcome.TIMED_OUT, "wall_seconds")
    assert 0.25 < result.duration_seconds < 3.3
    assert result.error is not None
    assert (result.error.type, result.value) == ("LimitExceeded", None)


def test_a_snippet_within_its_time_is_not_stopped(run: Run) -> None:
    result = run("import time\ntime.sleep(0.2)\n'done'", limits={"wall_seconds": 2})
    assert (result.outcome, result.value) == (Outcome.COMPLETED, "done")


def test_the_clock_starts_with_the_snippet_and_not_before(run: Run) -> None:
    assert [run("1", limits={"wall_seconds": 0.5}).outcome for _ in range(5)] == [Outcome.COMPLETED] * 5


@pytest.mark.parametrize("code", ["while True: pass", "10 ** 10 ** 8", "sum(0 for _ in iter(int, 1))"])
def test_processor_time_is_limited(run: Run, code: str) -> None:
    result = run(code, limits={"cpu_seconds": 0.3, "wall_seconds": 15})
    assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "cpu_seconds")
    assert result.duration_seconds < 10


def test_sleeping_uses_no_processor_time(run: Run) -> None:
    result = run("import time\ntime.sleep(1.5)\n'rested'", limits={"cpu_seconds": 0.5})
    assert (result.outcome, result.value) == (Outcome.COMPLETED, "rested")


BOMBS = {
    "one text": "x = 'x' * 500_000_000",
    "chunks": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "doubling": "x = 'x'\nwhile True: x += x",
    "small objects": "x = []\nwhile True: x.append([1, 2, 3])",
    "dict": "x = {}\nwhile True: x[len(x)] = str(len(x))",
    "range": "list(range(10 ** 8))",
    "decompress": "import zlib\nbomb = zlib.compress(bytes(1 << 27), 1)\nzlib.decompress(bomb) * 8",
    "json": "import json\njson.loads('[' + '{},' * 20_000_000 + '{}]')",
    "format": "'%1000000000d' % 1",
    "caught": "x = []\nwhile True:\n    try:\n        x.append(bytearray(1 << 22))\n    except ValueError: pass",
    "function": "def f(n=0):\n    while True:\n        n.append(bytearray(1 << 22))\nf([])",
}


@pytest.mark.parametrize("code", BOMBS.values(), ids=BOMBS)
def test_memory_is_limited(run: Run, code: str) -> None:
    result = run(code, limits={"memory_bytes": 96 * MIB, "wall_seconds": 15})
    assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "memory_bytes")
    assert result.error is not None


def test_memory_below_the_limit_is_there_to_be_used(run: Run) -> None:
    result = run("x = bytearray(60 << 20)\nlen(x)", limits={"memory_bytes": 128 * MIB})
    assert (result.outcome, result.value) == (Outcome.COMPLETED, 60 * MIB)


def test_a_caught_memory_error_lets_the_snippet_go_on(run: Run) -> None:
    result = run(
        "try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    __out = tools.demo.add(a=1)",
        limits={"memory_bytes": 96 * MIB},
    )
    assert (result.outcome, result.value) == (Outcome.COMPLETED, 11)


@pytest.mark.parametrize("value", [0, -1, -0.5, float("inf"), float("nan"), True, "5", [1]])
@pytest.mark.parametrize("name", ["wall_seconds", "memory_bytes", "tool_calls"])
def test_bounds_that_make_no_sense_are_refused(run: Run, name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=name):
        run("1", limits={name: value})


def test_unknown_limits_are_refused_with_the_known_ones(run: Run) -> None:
    with pytest.raises(InvalidRequest, match="unknown limit memory_mb; there are wall_seconds"):
        run("1", limits={"memory_mb": 5})


def test_whole_numbers_are_asked_for_where_they_count_things(run: Run) -> None:
    with pytest.raises(InvalidRequest, match="tool_calls must be a whole number"):
        run("1", limits={"tool_calls": 2.5})


def test_enforced_says_what_was_held(run: Run, capabilities: Mapping[str, Capabilities], backend: str) -> None:
    asked = {"wall_seconds": 5, "cpu_seconds": 5, "memory_bytes": 200 * MIB, "disk_bytes": MIB, "chain_steps": 5}
    result = run("1", limits=asked)
    shared = {"wall_seconds", "output_bytes", "tool_calls", "chain_steps"}
    assert result.enforced == (shared | capabilities[backend].enforces) & set(result.limits.asked())
    assert {"wall_seconds", "cpu_seconds", "memory_bytes", "tool_calls"} <= result.enforced
    assert result.limits.memory_bytes == 200 * MIB
    assert result.limits.pids is None


def test_limits_not_asked_have_defaults(run: Run) -> None:
    limits = run("1").limits
    assert (limits.memory_bytes, limits.output_bytes, limits.tool_calls) == (256 * MIB, MIB, 100)


@pytest.mark.parametrize(
    "call", ["tools.demo.wait()", "await tools.aio.demo.wait()", "tools.run_parallel([('demo:wait', {})])"]
)
def test_a_tool_at_work_when_time_is_up_is_cancelled_and_recorded(run: Run, call: str) -> None:
    result = run(f"print('calling')\n{call}", limits={"wall_seconds": 0.4})
    assert (result.outcome, result.stdout) == (Outcome.TIMED_OUT, "calling\n")
    (record,) = result.tool_calls
    assert (record.tool_id, record.status) in {("demo:wait", "cancelled"), ("demo:wait", "failed")}
    assert record.error is not None
    assert record.error["code"] in {"cancelled", "deadline_exceeded"}
    assert record.duration_seconds < 3


def test_a_tool_call_limit_of_one(run: Run) -> None:
    result = run("tools.demo.add(a=1)\ntools.demo.add(a=2)", limits={"tool_calls": 1})
    assert result.outcome is Outcome.RAISED
    assert result.error is not None
    assert "tool_calls=1" in result.error.message


def test_disk_space_is_limited_or_the_limit_is_not_said_to_be_enforced(run: Run) -> None:
    code = "with open('big', 'wb') as file:\n    for _ in range(2000):\n        file.write(bytes(1 << 16))\n'written'"
    result = run(code, limits={"disk_bytes": 4 * MIB, "wall_seconds": 15})
    if "disk_bytes" in result.enforced:
        assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "disk_bytes")
    else:
        assert result.value == "written"
