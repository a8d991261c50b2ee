"""An execution run again from its records: the same to the last byte on WASM, compared call by call elsewhere."""

import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import NotRecorded, ReplayDiverged
from runtimes.wasm.backend import WASM
from sandbox import Exec, Outcome, ToolContext, ToolError
from tests.conftest import require


class Rig:
    """An Exec whose tools count how often they are called."""

    def __init__(self) -> None:
        self.called = 0
        self.exec = Exec(workers=1, allow_unsafe=True, limits={"tool_calls": 30})
        self.exec.tool(namespace="demo")(self.echo)
        self.exec.tool(namespace="demo")(self.slow)
        self.exec.tool(namespace="demo")(self.fail)
        self.exec.tool(namespace="demo")(self.outer)
        self.exec.tool(namespace="demo")(self.parts)

    async def echo(self, value: Any) -> Any:
        """Give the value back."""
        self.called += 1
        return value

    async def slow(self, ms: float) -> float:
        """Take some time."""
        self.called += 1
        await anyio.sleep(ms / 1000)
        return time.time()

    async def fail(self) -> None:
        """Fail."""
        self.called += 1
        raise ValueError("no")

    async def outer(self, value: Any, context: ToolContext) -> list[Any]:
        """Call others."""
        self.called += 1
        assert context.call_tool is not None
        echoes = [await context.call_tool("demo:echo", {"value": [value, n]}) for n in range(2)]
        with contextlib.suppress(ToolError):
            await context.call_tool("demo:fail", {})
        return echoes

    async def parts(self, count: int, context: ToolContext, fail: bool = False) -> AsyncIterator[int]:
        """Answer in parts."""
        self.called += 1
        for n in range(count):
            await anyio.sleep(0.002 * random.random())
            context.report(f"{n} of {count}", progress=n)
            yield n
        if fail:
            raise ValueError("that is all")

    def same(self, code: str, **options: Any) -> None:
        """Run it, and again: nothing is called, and nothing differs."""
        result = self.exec.execute_code(code, backend="wasm", **options)
        called = self.called
        report = self.exec.replay(result.execution_id)
        assert self.called == called
        assert report.exact, code
        assert report.same, code
        assert (report.result.value, report.result.stdout, report.result.error) == (
            result.value,
            result.stdout,
            result.error,
        )


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    if not WASM.exists():
        require("wasm", "the guest is not built")
    rig = Rig()
    with rig.exec:
        yield rig


SNIPPETS = {
    "chance": "import random, uuid, os, secrets, tempfile\n"
    "[random.random(), random.Random().random(), str(uuid.uuid4()), str(uuid.uuid1()), os.urandom(9).hex(), "
    "secrets.token_hex(), tempfile.mkdtemp()]",
    "time": "import time, datetime\n"
    "print(time.ctime(), time.perf_counter_ns(), time.process_time())\n"
    "[time.time(), time.monotonic(), str(datetime.datetime.now()), time.localtime()[:6]]",
    "hashes": "print({'a', 'b', 'c'}, object(), hash('x'))\nid(object())",
    "gather": "import asyncio, random\n"
    "async def one(n):\n"
    "    await asyncio.sleep(random.random() / 50)\n"
    "    print(n, await tools.aio.demo.slow(ms=random.random() * 20))\n"
    "    return await tools.aio.demo.echo(value=n)\n"
    "await asyncio.gather(*map(one, range(6)))",
    "timeout": "import asyncio\n"
    "try:\n    await asyncio.wait_for(tools.aio.demo.slow(ms=2000), 0.05)\n"
    "except asyncio.TimeoutError:\n    print('too late')\n"
    "await tools.aio.demo.echo(value=1)",
    "batch": "tools.run_parallel([('demo:echo', {'value': 1}), ('demo:fail', {}), ('demo:none', {}), "
    "('demo:slow', {'ms': 5})]), tools.run_chain([('demo:echo', {'value': 2}), "
    "{'tool_id': 'demo:echo', 'mapping': {'value': '/previous'}}])",
    "refused": "for _ in range(40):\n    try:\n        tools.demo.echo(value=_)\n    except tools.ToolError as e:\n"
    "        print(e.code, e)",
    "raises": "import time\nprint(time.time())\ntools.demo.fail()",
    "exits": "import sys, time\nprint(time.time())\nsys.exit(7)",
    "catches": "try:\n    tools.demo.fail()\nexcept tools.ToolError as e:\n    out = [repr(e), e.details]\nout",
    "sleeps": "import time\nt = time.time()\ntime.sleep(0.05)\ntools.demo.echo(value=1)\ntime.time() - t",
    "files": "import time\nopen('a.txt', 'w').write(str(time.time()))\nopen('a.txt').read()",
    "busy": "import time\nend = time.monotonic() + 0.05\nn = 0\nwhile time.monotonic() < end: n += 1\nn",
}


@pytest.mark.parametrize("code", SNIPPETS.values(), ids=SNIPPETS)
def test_on_wasm_a_replay_is_the_same_to_the_last_byte(rig: Rig, code: str) -> None:
    rig.same(code)


READ = """
import asyncio, contextlib
seen = []
async def read(n, until=None, fail=False):
    out = []
    async with contextlib.aclosing(tools.aio.stream_tool('demo:parts', {'count': n, 'fail': fail})) as events:
        async for event in events:
            out.append(await tools.aio.demo.echo(value=[n, event['data'], event['error']]))
            seen.append([n, event['data'] if event['kind'] == 'chunk' else event['kind']])
            if until is not None and event['data'] == until:
                break
    return out
"""
"""Reads one stream; several of them share `seen`, in the order in which they come."""

LINES = st.sampled_from(
    [
        "out.append(random.random())",
        "out.append(time.time())",
        "out.append(str(uuid.uuid4()))",
        "print(time.monotonic(), random.choice('abcdef'))",
        "random.shuffle(out)",
        "out.append(tools.demo.echo(value=len(out)))",
        "out.append(await tools.aio.demo.echo(value=random.random()))",
        "out += await asyncio.gather(*[tools.aio.demo.slow(ms=random.random() * 5) for _ in range(3)])",
        "out += await asyncio.gather(tools.aio.demo.fail(), tools.aio.demo.echo(value=1), return_exceptions=True)",
        "await asyncio.sleep(random.random() / 200)",
        "out.append(await first(tools.aio.demo.slow(ms=4), tools.aio.demo.slow(ms=4 + random.random())))",
        "if random.random() < 0.2: raise ValueError(time.time())",
        "try: tools.demo.fail()\nexcept tools.ToolError as e: out.append(str(e))",
        "out += await asyncio.gather(read(3), read(6), tools.aio.demo.slow(ms=random.random() * 5))\nout += seen",
        "out += await asyncio.gather(read(10**6, until=2), read(4))\nout += seen",
        "out += [event['data'] for event in tools.stream_tool('demo:parts', {'count': 4})]",
        "out += list(tools.stream_chain([('demo:parts', {'count': 2}), ('demo:echo', {'value': 1})]))",
        "for e in tools.stream_chain([('demo:slow', {'ms': 2})] * 3):\n    if random.random() < 0.3: break\nprint(e)",
    ]
)
HEAD = (
    READ
    + """import asyncio, random, time, uuid
out = []
async def first(*calls):
    done, _ = await asyncio.wait([asyncio.ensure_future(c) for c in calls], return_when=asyncio.FIRST_COMPLETED)
    return sorted(task.result() for task in done)
"""
)


@given(st.lists(LINES, min_size=1, max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_snippet_replays_the_same(rig: Rig, lines: list[str]) -> None:
    rig.same(HEAD + "\n".join(lines) + "\n[str(one) for one in out]", limits={"tool_calls": 150})


def test_elsewhere_every_call_is_compared(rig: Rig) -> None:
    code = "import asyncio\nawait asyncio.gather(*[tools.aio.demo.slow(ms=9 - n) for n in range(5)])"
    result = rig.exec.execute_code(code, backend="unsafe", profile="dev")
    called = rig.called
    report = rig.exec.replay(result.execution_id)
    assert rig.called == called
    assert not report.exact
    assert report.same_value
    assert report.answered == 5
    assert len(report.result.tool_calls) == 5


def test_a_record_of_one_backend_can_be_replayed_on_another(rig: Rig) -> None:
    result = rig.exec.execute_code("[tools.demo.echo(value=n) for n in range(3)]", backend="wasm", profile="dev")
    report = rig.exec.replay(result.execution_id, backend="unsafe")
    assert (report.result.backend, report.same, report.exact) == ("unsafe", True, False)


def test_a_divergence_shows_both_sides(rig: Rig) -> None:
    code = "import time\ntools.demo.echo(value=time.time_ns())"
    result = rig.exec.execute_code(code, backend="unsafe", profile="dev")
    called = rig.called
    with pytest.raises(ReplayDiverged) as raised:
        rig.exec.replay(result.execution_id)
    assert rig.called == called
    assert "another call at the same site" in str(raised.value)
    was = result.tool_calls[0].arguments["value"]
    assert raised.value.recorded.startswith(f'call 0 of demo:echo with {{"value":{was}}}')
    assert raised.value.actual.startswith('a call of demo:echo with {"value":1')
    assert raised.value.recorded[8:] != raised.value.actual


def test_other_code_is_told_what_it_would_be_told_and_nothing_is_called(rig: Rig) -> None:
    result = rig.exec.execute_code("tools.demo.echo(value=1) + tools.demo.echo(value=2)", backend="wasm")
    called = rig.called
    equal = rig.exec.replay(result.execution_id, code="a = tools.demo.echo(value=2)\na + tools.demo.echo(value=1)")
    assert equal.same
    assert equal.answered == 2
    other = rig.exec.replay(result.execution_id, code="tools.demo.echo(value=1)\ntools.demo.echo(value=9)")
    assert rig.called == called
    assert not other.same
    assert [line.startswith('a call of demo:echo with {"value":') for line in other.missing] == [True]
    assert [call.arguments for call in other.unused] == [{"value": 2}]
    assert other.result.error is not None
    assert "not in the record" in other.result.error.message


def test_what_was_checked_and_not_run_is_not_run_again(rig: Rig) -> None:
    result = rig.exec.execute_code("print(1)\ntools.demo.ech(value=1)", backend="wasm", check=True)
    report = rig.exec.replay(result.execution_id)
    assert report.same
    assert report.result.error == result.error
    assert (report.result.stdout, report.answered, report.exact) == ("", 0, False)
    fixed = rig.exec.replay(result.execution_id, code="print(1)\ntools.demo.echo(value=1)")
    assert fixed.result.stdout == "1\n"
    assert len(fixed.missing) == 1


def test_what_was_ended_ends_where_its_record_ends(rig: Rig) -> None:
    code = "print(1)\ntools.demo.echo(value=1)\ntools.demo.slow(ms=60000)"
    result = rig.exec.execute_code(code, backend="wasm", limits={"wall_seconds": 1})
    assert result.outcome is Outcome.TIMED_OUT
    report = rig.exec.replay(result.execution_id)
    assert report.result.duration_seconds < 10
    assert report.answered == 1
    assert report.same_output


@pytest.mark.parametrize("backend", ["wasm", "unsafe"])
def test_streams_that_were_cut_off_end_where_their_record_ends(rig: Rig, backend: str) -> None:
    code = (
        "import asyncio\nasync def read():\n"
        "    async for event in tools.aio.stream_tool('demo:parts', {'count': 10**6}):\n"
        "        await tools.aio.demo.slow(ms=100)\n"
        "await asyncio.gather(read(), read())"
    )
    result = rig.exec.execute_code(code, backend=backend, profile="dev", limits={"wall_seconds": 1})
    assert result.outcome is Outcome.TIMED_OUT
    report = rig.exec.replay(result.execution_id)
    assert report.same_outcome
    assert (report.missing, report.unused) == ((), ())


def test_a_replay_leaves_no_record(rig: Rig) -> None:
    result = rig.exec.execute_code("tools.demo.echo(value=1)", backend="wasm")
    before = rig.exec._call(rig.exec._original.journal.records, result.execution_id)
    rig.exec.replay(result.execution_id)
    assert rig.exec._call(rig.exec._original.journal.records, result.execution_id) == before


def test_an_execution_that_is_not_known(rig: Rig) -> None:
    with pytest.raises(NotRecorded):
        rig.exec.replay("nothing")


def test_two_executions_have_different_chance(rig: Rig) -> None:
    code = "import random, os\n[random.random(), os.urandom(8).hex()]"
    assert rig.exec.execute_code(code, backend="wasm").value != rig.exec.execute_code(code, backend="wasm").value


TOOLS_THAT_CALL = """
import asyncio, random
values = [tools.demo.outer(value=random.random())]
values += await asyncio.gather(*[tools.aio.demo.outer(value=n) for n in range(3)])
values
"""


def test_calls_that_a_tool_made_are_not_asked_for_again(rig: Rig) -> None:
    rig.same(TOOLS_THAT_CALL)
    result = rig.exec.execute_code(TOOLS_THAT_CALL, backend="wasm")
    report = rig.exec.replay(result.execution_id)
    assert report.unused == ()
    assert len(report.result.tool_calls) == len(result.tool_calls) == 16
    assert [(call.via, call.status) for call in report.result.tool_calls] == [
        (call.via, call.status) for call in result.tool_calls
    ]


STREAMS = {
    "whole": "[event['data'] for event in tools.stream_tool('demo:parts', {'count': 5}) if event['kind'] == 'chunk']",
    "failed": "[event['error']['code'] if event['error'] else event['data'] for event in "
    "tools.stream_tool('demo:parts', {'count': 3, 'fail': True})]",
    "left": "for event in tools.stream_tool('demo:parts', {'count': 10**6}):\n    if event['data'] == 3: break\n"
    "tools.demo.echo(value=event['data'])",
    "progress": "[event['data'] for event in tools.stream_tool('demo:parts', {'count': 30})]",
    "two": READ + "await asyncio.gather(read(3), read(4))",
    "three": READ + "await asyncio.gather(read(20), read(1), read(20))\nseen",
    "calls": READ + "async def call(n):\n"
    "    for ms in range(n):\n"
    "        seen.append(await tools.aio.demo.slow(ms=ms))\n"
    "await asyncio.gather(read(9), call(4), read(8), call(5))\nseen",
    "batches": READ + "await asyncio.gather(*[read(n) for n in (4, 5)], *[tools.aio.run_parallel("
    "[('demo:slow', {'ms': n}), ('demo:echo', {'value': n})]) for n in range(4)])",
    "closed": READ + "await asyncio.gather(read(10**6, until=3), read(12))\n"
    "await tools.aio.demo.echo(value=[value for _, value in seen][-1])",
    "dropped": READ + "async def drop(n):\n"
    "    async for event in tools.aio.stream_tool('demo:parts', {'count': n}):\n"
    "        if event['kind'] == 'chunk':\n"
    "            return await tools.aio.demo.echo(value=event['data'])\n"
    "await asyncio.gather(drop(10**6), drop(3), read(9))",
    "one that fails": READ + "await asyncio.gather(read(3, fail=True), read(4))",
    "chain": "steps = [('demo:echo', {'value': 1}), ('demo:parts', {'count': 3}), ('demo:fail', {}), "
    "('demo:echo', {'value': 2})]\n"
    "[[event['kind'], event['data']] for event in tools.stream_chain(steps)]",
    "chain that is left": "for event in tools.stream_chain([('demo:echo', {'value': n}) for n in range(9)]):\n"
    "    if event['kind'] == 'chunk' and event['data']['value'] == 3: break\n"
    "tools.demo.echo(value=event['data']['value'])",
    "chain that is late": "late = {'tool_id': 'demo:slow', 'arguments': {'ms': 5000}, 'stop_on_error': False}\n"
    "steps = [late, ('demo:echo', {'value': 1}), ('demo:echo', {'value': 2})]\n"
    "seen = [event['data'] for event in tools.stream_chain(steps, timeout_seconds=0.1)]\n"
    "[seen, tools.run_chain(steps, timeout_seconds=0.1)]",
    "chain that is refused": "[event['error']['code'] for event in "
    "tools.stream_chain([('demo:echo', {'value': n}) for n in range(101)])]",
    "chains": READ + "async def chain(n):\n"
    "    steps = [('demo:slow', {'ms': n}), ('demo:none', {}), ('demo:echo', {'value': n})]\n"
    "    steps = [{'tool_id': a, 'arguments': b, 'stop_on_error': False} for a, b in steps]\n"
    "    async for event in tools.aio.stream_chain(steps):\n"
    "        seen.append(await tools.aio.demo.echo(value=[n, event['data']]))\n"
    "await asyncio.gather(chain(3), read(5), chain(1))\nseen",
    "sync": "one, two = (tools.stream_tool('demo:parts', {'count': n}) for n in (5, 6))\n"
    "[tools.demo.echo(value=[a['data'], b['data']]) for a, b in zip(one, two)]",
}


BY_THE_CLOCK = {
    "late": READ + "async def late(n):\n"
    "    try:\n        await asyncio.wait_for(read(n), 0.02)\n"
    "    except asyncio.TimeoutError:\n        seen.append('late')\n"
    "await asyncio.gather(late(10**6), read(5), late(2))",
    "first": READ + "for task in [asyncio.ensure_future(read(n)) for n in (3, 2)]:\n"
    "    done, _ = await asyncio.wait([task], timeout=0.004)\n"
    "    print(len(done), await tools.aio.demo.echo(value=len(seen)))\n    await task",
}
"""Streams that are read as the guest's own clock has it, which is the same again on WASM only."""

STREAM_LIMITS = {"wall_seconds": 20, "tool_calls": 100}


@pytest.mark.parametrize("code", (STREAMS | BY_THE_CLOCK).values(), ids=STREAMS | BY_THE_CLOCK)
def test_on_wasm_streams_come_the_same_to_the_last_byte(rig: Rig, code: str) -> None:
    rig.same(code, limits=STREAM_LIMITS)


@pytest.mark.parametrize("code", STREAMS.values(), ids=STREAMS)
def test_elsewhere_streams_come_in_the_same_order(rig: Rig, code: str) -> None:
    result = rig.exec.execute_code(code, backend="unsafe", profile="dev", limits=STREAM_LIMITS)
    assert result.ok, result.summary()
    called = rig.called
    report = rig.exec.replay(result.execution_id)
    assert rig.called == called
    assert report.same
    assert report.result.value == result.value
