"""Executions that were cut off: what was done is not done again, and what nobody knows is decided by the tool.

A crash is a copy of the journal as it is at some moment: all that a host that died then would have left.
"""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.errors import InvalidRequest, JournalUnavailable, LeaseHeld, ReplayDiverged
from gateway.journal.base import ExecutionStarted, Mode
from gateway.journal.sql import SqlJournal
from gateway.payload import Encoded
from gateway.policies.base import Call, Policies, Proceed
from runtimes.wasm.backend import WASM
from sandbox import AsyncExec, ExecutionResult, Outcome, ToolContext, durable, recorded
from tests.conftest import require

pytestmark = pytest.mark.anyio


class PerCall:
    def key(self, call: Call) -> str:
        return f"{call.context.execution_id}/{call.context.call_index}"

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        return await proceed(call)


class World:
    """Two hosts: the first one's journal is copied when it calls `crash`, and the second one has the copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[tuple[str, int]] = []
        self.keys: list[str] = []
        self.crash_in = ""
        self.first = self.host("first.db")
        self.second = self.host("second.db")

    def host(self, name: str, **options: Any) -> AsyncExec:
        journal = f"sqlite:///{self.folder}/{name}"
        exec = AsyncExec(journal=journal, workers=1, pool_size=1, allow_unsafe=True, **options)
        exec.tool()(self.step)
        exec.tool(in_doubt="retry")(self.again)
        exec.tool(in_doubt="ask")(self.ask)
        exec.tool(read_only=True)(self.look)
        exec.tool(policies=Policies(idempotency=PerCall()))(self.pay)
        exec.tool()(self.wait)
        exec.tool(in_doubt="retry")(self.outer)
        exec.tool(read_only=True)(self.parts)
        exec.tool(read_only=True)(self.slowly)
        return exec

    def did(self, name: str, n: int) -> int:
        """The crash is after the work and before its end is recorded."""
        self.done.append((name, n))
        if self.crash_in == f"{name}{n}":
            self.crash_in = ""
            with (
                closing(sqlite3.connect(self.folder / "first.db")) as source,
                closing(sqlite3.connect(self.folder / "second.db")) as copy,
            ):
                source.backup(copy)
                copy.execute("DELETE FROM journal_leases")  # it is dead, and its time is over
                copy.commit()
        return n

    async def step(self, n: int) -> int:
        """One step."""
        return self.did("step", n)

    async def again(self, n: int) -> int:
        """May be made again."""
        return self.did("again", n)

    async def ask(self, n: int) -> int:
        """A person knows."""
        return self.did("ask", n)

    async def look(self, n: int) -> int:
        """Changes nothing."""
        return self.did("look", n)

    async def pay(self, n: int, context: ToolContext) -> int:
        """Has a key."""
        self.keys.append(context.idempotency_key)
        return self.did("pay", n)

    async def wait(self, n: int) -> int:
        """Takes longer than anybody waits."""
        await anyio.sleep(20)
        return self.did("wait", n)

    async def outer(self, n: int, context: ToolContext) -> int:
        """Calls another."""
        assert context.call_tool is not None
        await context.call_tool("pay", {"n": n})
        return self.did("outer", n)

    async def parts(self, n: int) -> AsyncIterator[int]:
        """Answers in parts."""
        for part in range(n):
            yield self.did("parts", part)

    async def slowly(self, n: int) -> AsyncIterator[int]:
        """Answers in parts that take their time."""
        for part in range(n):
            await anyio.sleep(0.01)
            yield self.did("slowly", part)

    async def cut_off(self, code: str, crash_in: str, backend: str = "wasm") -> str:
        """Run it on the first host, with a crash there; the id of what is left of it."""
        self.crash_in = crash_in
        result = await self.first.execute_code(code, backend=backend, profile="dev")
        assert self.crash_in == "", f"it never came to {crash_in}: {result.error}"
        self.done.clear()
        return result.execution_id

    async def take_up(self, code: str, crash_in: str, backend: str = "wasm") -> ExecutionResult:
        return await self.second.resume(await self.cut_off(code, crash_in, backend))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    if not WASM.exists():
        require("wasm", "the guest is not built")
    world = World(tmp_path)
    async with world.first, world.second:
        yield world


CODE = """
import random, time
values = [tools.step(n=1), random.random(), time.time()]
try:
    values.append(tools.{tool}(n=2))
except tools.ToolError as error:
    values.append(error.code)
values.append(tools.step(n=3))
values
"""


async def test_what_was_answered_is_not_done_again_and_the_rest_is_done(world: World) -> None:
    done = await world.take_up(CODE.format(tool="look"), "look2")
    assert done.outcome is Outcome.COMPLETED
    assert [done.value[0], *done.value[3:]] == [1, 2, 3]
    assert world.done == [("look", 2), ("step", 3)]  # a tool that only reads is called again
    assert [call.tool_id for call in done.tool_calls] == ["step", "look", "step"]
    assert all(call.status == "completed" for call in done.tool_calls)


async def test_chance_and_time_go_on_as_they_were(world: World) -> None:
    code = CODE.format(tool="look")
    execution_id = await world.cut_off(code, "look2")
    first = await world.first.replay(execution_id)
    second = await world.second.resume(execution_id)
    assert second.value[:3] == first.result.value[:3]
    assert (await world.second.replay(execution_id)).same


@pytest.mark.parametrize(
    ("tool", "outcome", "done"),
    [
        ("step", "in_doubt", [("step", 3)]),
        ("again", 2, [("again", 2), ("step", 3)]),
        ("pay", 2, [("pay", 2), ("step", 3)]),
    ],
)
async def test_a_call_in_doubt_is_made_again_only_where_that_is_safe(
    world: World, tool: str, outcome: Any, done: list[Any]
) -> None:
    result = await world.take_up(CODE.format(tool=tool), f"{tool}2")
    assert result.value[3] == outcome
    assert world.done == done
    assert len(set(world.keys)) <= 1  # made again with the same key


async def test_a_call_in_doubt_can_be_asked_about(world: World) -> None:
    execution_id = await world.cut_off(CODE.format(tool="ask"), "ask2")
    suspended = await world.second.resume(execution_id)
    assert suspended.outcome is Outcome.SUSPENDED
    assert world.done == []
    (pending,) = await world.second.approvals()
    assert pending.reason == "it was cut off by a crash, and may have been done already"
    await world.second.reject(pending.id, "it was done")
    done = await world.second.resume(execution_id)
    assert done.value[3:] == ["approval_rejected", 3]
    assert world.done == [("step", 3)]


async def test_an_approved_call_that_is_cut_off_is_in_doubt_again(world: World) -> None:
    execution_id = await world.cut_off(CODE.format(tool="ask"), "ask2")
    await world.second.resume(execution_id)
    (pending,) = await world.second.approvals()
    await world.second.approve(pending.id)
    third = AsyncExec(journal=f"sqlite:///{world.folder}/second.db", workers=1, pool_size=1)
    async with third:
        world.crash_in = ""
        # Taken up, and cut off before the call came to its end: the record of the start is all there is.
        records = await third._journal.records(execution_id)
        lease = await third._journal.lease(execution_id, "dead", 60)
        started = next(record for record in reversed(records) if record.kind == "execution_started")
        await third._journal.append(started, lease=lease)
        await third._journal.release(lease)
    again = await world.second.resume(execution_id)
    assert again.outcome is Outcome.SUSPENDED
    assert world.done == []


async def test_calls_at_the_same_time_are_found_again(world: World) -> None:
    code = "import asyncio\nsorted(await asyncio.gather(*[tools.aio.pay(n=n) for n in range(8)]))"
    result = await world.take_up(code, "pay5")
    assert result.value == list(range(8))
    assert len(world.keys) - len(set(world.keys)) <= 8
    assert len(set(world.keys)) == 8


async def test_two_hosts_never_take_up_the_same_execution(world: World) -> None:
    execution_id = await world.cut_off(CODE.format(tool="look"), "look2")
    journal = SqlJournal(f"sqlite:///{world.folder}/second.db")
    lease = await journal.lease(execution_id, "another host", 60)
    with pytest.raises(LeaseHeld, match="another host"):
        await world.second.resume(execution_id)
    assert world.done == []
    await journal.release(lease)
    await journal.aclose()
    assert (await world.second.resume(execution_id)).ok


async def test_one_host_takes_an_execution_up_once_at_a_time(world: World) -> None:
    execution_id = await world.cut_off(CODE.format(tool="look"), "look2")
    held: list[LeaseHeld] = []
    done: list[ExecutionResult] = []

    async def take_up() -> None:
        try:
            done.append(await world.second.resume(execution_id))
        except LeaseHeld as error:
            held.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_up)
        tasks.start_soon(take_up)
    assert len(done) == len(held) == 1
    assert world.done == [("look", 2), ("step", 3)]


async def test_a_host_keeps_looking_for_what_others_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "RESUME_SECONDS", 0.02)
    answers: Iterator[Any] = iter((JournalUnavailable("in this test", "it is told to fail"), []))
    execution_id = await world.cut_off(CODE.format(tool="look"), "look2")
    third = world.host("second.db", resume="auto")
    find = third.journal.unfinished

    async def unfinished() -> Any:
        match next(answers, None):
            case JournalUnavailable() as error:
                raise error
            case []:
                return []
        return await find()

    monkeypatch.setattr(third.journal, "unfinished", unfinished)
    async with third:
        with anyio.fail_after(20):
            while (found := await third.journal.execution(execution_id)) is None or not found.outcome:  # noqa: ASYNC110
                await anyio.sleep(0.02)
    assert found.outcome == "completed"
    assert world.done == [("look", 2), ("step", 3)]


async def test_what_another_host_has_suspended_meanwhile_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_id = await world.cut_off(CODE.format(tool="ask"), "ask2")
    listed = [await world.second.journal.execution(execution_id)]
    assert (await world.second.resume(execution_id)).outcome is Outcome.SUSPENDED
    before = await world.second.journal.records(execution_id)

    async def unfinished() -> Any:
        return listed

    monkeypatch.setattr(world.second.journal, "unfinished", unfinished)
    await world.second._durable._resume_all()
    assert await world.second.journal.records(execution_id) == before


# No time and no chance between calls: other backends have their own.
ELSEWHERE = """
import asyncio
values = [tools.step(n=1)]
values += await asyncio.gather(*[tools.aio.pay(n=n) for n in range(10, 14)])
values += [event["data"] for event in tools.stream_tool("parts", {"n": 3}) if event["kind"] == "chunk"]
values.append(tools.outer(n=2))
values.append(tools.step(n=3))
values
"""


@pytest.mark.parametrize("backend", ["wasm", "unsafe"])
@pytest.mark.parametrize("crash_in", ["pay11", "parts1", "pay2", "outer2"])
async def test_any_backend_goes_on_where_it_stopped(world: World, backend: str, crash_in: str) -> None:
    result = await world.take_up(ELSEWHERE, crash_in, backend)
    assert (result.outcome, result.backend) == (Outcome.COMPLETED, backend)
    assert result.value == [1, 10, 11, 12, 13, 0, 1, 2, 2, 3]
    assert ("step", 1) not in world.done
    assert world.done.count(("outer", 2)) == world.done.count(("step", 3)) == 1
    assert (await world.second.replay(result.execution_id)).same
    page = await world.second.journal.verify()
    assert page.ok, page.findings


STREAMS = """
import asyncio
seen = []
async def read(name, first):
    async for event in tools.aio.stream_tool(name, {"n": 4}):
        if event["kind"] == "chunk":
            seen.append(await tools.aio.pay(n=first + event["data"]))
await asyncio.gather(read("parts", 10), read("parts", 20), read("slowly", 30))
"""


CHAIN = """
seen = []
for event in tools.stream_chain([("step", {"n": 1}), ("pay", {"n": 2}), ("step", {"n": 3}), ("step", {"n": 4})]):
    if event["kind"] == "chunk":
        seen.append(tools.look(n=event["data"]["value"]))
    if seen[-1:] == [3]: break
seen
"""


@pytest.mark.parametrize("backend", ["wasm", "unsafe"])
@pytest.mark.parametrize("crash_in", ["pay2", "look1", "look3"])
async def test_a_streamed_chain_goes_on_with_the_step_that_is_next(world: World, backend: str, crash_in: str) -> None:
    result = await world.take_up(CHAIN, crash_in, backend)
    assert (result.outcome, result.value) == (Outcome.COMPLETED, [1, 2, 3])
    assert ("step", 4) not in world.done
    assert world.done.count(("step", 3)) == (crash_in != "look3")
    assert (await world.second.replay(result.execution_id)).same


@pytest.mark.parametrize(
    "shape", ["run_chain(steps, timeout_seconds=0.5)['steps']", "stream_chain(steps, timeout_seconds=0.5)"]
)
async def test_what_a_chain_had_no_time_for_is_not_done_later(world: World, shape: str) -> None:
    code = (
        "steps = [{'tool_id': 'wait', 'arguments': {'n': 1}, 'stop_on_error': False}, "
        "{'tool_id': 'pay', 'arguments': {'n': 2}, 'stop_on_error': False}, ('pay', {'n': 3})]\n"
        f"told = [(one.get('data') or one) for one in tools.{shape}]\n"
        "told = [[one['ok'], one['skipped']] for one in told if 'ok' in one]\n"
        "[told, tools.look(n=1), tools.step(n=2)]"
    )
    result = await world.take_up(code, "look1")
    assert result.value == [[[False, False], [False, False], [False, True]], 1, 2], result.error
    assert world.done == [("look", 1), ("step", 2)]
    assert (await world.second.replay(result.execution_id)).same


@pytest.mark.parametrize("backend", ["wasm", "unsafe"])
@pytest.mark.parametrize("crash_in", ["pay11", "pay21", "pay32", "slowly3"])
async def test_streams_that_were_read_side_by_side_are_read_on(world: World, backend: str, crash_in: str) -> None:
    # Elsewhere the order in which streams that begin anew are read is chance.
    code = STREAMS + ("[sorted(seen), seen]" if backend == "wasm" else "[sorted(seen)]")
    result = await world.take_up(code, crash_in, backend)
    assert result.outcome is Outcome.COMPLETED, result.summary()
    assert result.value[0] == sorted(first + n for first in (10, 20, 30) for n in range(4))
    paid = [n for name, n in world.done if name == "pay"]
    assert len(paid) == len(set(paid)) < 12
    report = await world.second.replay(result.execution_id)
    assert report.same
    assert report.exact == (backend == "wasm")


async def test_a_tool_that_called_others_is_not_called_again(world: World) -> None:
    result = await world.take_up("values = [tools.outer(n=1), tools.look(n=1), tools.outer(n=2)]\nvalues", "look1")
    assert result.value == [1, 1, 2]
    assert world.done == [("look", 1), ("pay", 2), ("outer", 2)]
    assert [(call.tool_id, call.via) for call in result.tool_calls] == [
        ("outer", "run_tool"),
        ("pay", "call_tool"),
        ("look", "run_tool"),
        ("outer", "run_tool"),
        ("pay", "call_tool"),
    ]


async def test_a_stream_that_was_left_is_left_again(world: World) -> None:
    code = (
        "for event in tools.stream_tool('parts', {'n': 1000}):\n    if event['data'] == 3: break\n"
        "tools.look(n=1)\ntools.step(n=event['data'])"
    )
    result = await world.take_up(code, "look1")
    assert result.value == 3
    assert world.done == [("look", 1), ("step", 3)]


async def test_a_call_that_its_snippet_gave_up_is_given_up_again(world: World) -> None:
    code = (
        "import asyncio\n"
        "try:\n    await asyncio.wait_for(tools.aio.wait(n=1), 0.05)\nexcept asyncio.TimeoutError:\n    out = 'late'\n"
        "[out, tools.look(n=1), tools.step(n=2)]"
    )
    result = await world.take_up(code, "look1")
    assert result.value == ["late", 1, 2]
    assert world.done == [("look", 1), ("step", 2)]


async def test_a_snippet_that_does_not_come_to_the_same_point_does_nothing_new(world: World) -> None:
    code = "import time\ntools.step(n=time.time_ns() % 1000)\ntools.look(n=1)\ntools.step(n=2)"
    world.crash_in = "look1"
    result = await world.first.execute_code(code, backend="unsafe", profile="dev")
    world.done.clear()
    with pytest.raises(ReplayDiverged):
        await world.second.resume(result.execution_id)
    assert world.done == []
    assert result.ok


async def test_the_records_say_that_it_was_taken_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execution_id = await world.cut_off(CODE.format(tool="look"), "look2")
    monkeypatch.setattr(recorded, "_own_version", lambda: "99.9")
    await world.second.resume(execution_id)
    first, second = [
        one for one in await world.second.journal.records(execution_id) if isinstance(one, ExecutionStarted)
    ]
    assert (first.environment["toolexec"] != "99.9", second.environment["toolexec"]) == (True, "99.9")
    assert (second.seed, second.code) == (first.seed, first.code)
    journal = SqlJournal(f"sqlite:///{world.folder}/second.db")
    found = await journal.execution(execution_id)
    assert found is not None
    assert (found.mode, found.outcome) == (Mode.RESUME, "completed")
    assert (await journal.verify()).ok
    await journal.aclose()
    with pytest.raises(InvalidRequest, match="has ended"):
        await world.second.resume(execution_id)


def test_resume_is_by_hand_or_automatic() -> None:
    with pytest.raises(InvalidRequest, match="'auto' or None"):
        AsyncExec(resume="always")  # type: ignore[arg-type]
