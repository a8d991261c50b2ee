"""Sessions: variables live from one execution to the next, each in a fresh sandbox, and nothing is done twice."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.policies.approval import Approval
from gateway.policies.base import Policies
from runtimes.wasm.backend import WASM
from sandbox import AsyncExec, Closed, Exec, InvalidRequest, Outcome, Session
from tests.conftest import require

pytestmark = pytest.mark.anyio


class Rig:
    def __init__(self, exec: AsyncExec) -> None:  # noqa: A002 - the project's name for it
        self.exec = exec
        self.added: list[int] = []
        exec.tool()(self.add)
        exec.tool(policies=Policies(approval=Approval()))(self.pay)

    async def add(self, n: int) -> int:
        """Add, and give the sum."""
        self.added.append(n)
        return sum(self.added)

    async def pay(self, n: int) -> int:
        """Needs a person."""
        return await self.add(n)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    if not WASM.exists():
        require("wasm", "the guest is not built")
    async with AsyncExec(workers=1, pool_size=1, journal=f"sqlite:///{tmp_path}/journal.db") as exec:
        yield Rig(exec)


async def value(session: Session, code: str, **options: Any) -> Any:
    result = await session.execute_code(code, **options)
    assert result.error is None, result.error
    return result.value


async def test_variables_live_on_and_nothing_is_called_twice(rig: Rig) -> None:
    async with rig.exec.session() as session:
        first = await session.execute_code(
            "import random, time\nprint('one')\nx, t = random.random(), time.time()\nn = tools.add(n=1)\n[x, t, n]"
        )
        second = await session.execute_code("print('two')\n[x, t, n, tools.add(n=2), random.random()]")
    assert second.value[:3] == first.value
    assert second.value[3] == 3
    assert second.value[4] not in first.value
    assert (first.stdout, second.stdout) == ("one\n", "two\n")
    assert [len(first.tool_calls), len(second.tool_calls)] == [1, 1]
    assert rig.added == [1, 2]
    assert first.execution_id != second.execution_id


async def test_functions_imports_files_and_parallel_calls_are_there(rig: Rig) -> None:
    async with rig.exec.session() as session:
        await session.execute_code("import asyncio, json\ndef twice(n): return 2 * n\nopen('a', 'w').write('hello')")
        await session.execute_code("got = sorted(await asyncio.gather(*[tools.aio.add(n=1) for n in range(3)]))")
        assert await value(session, "json.dumps([twice(4), got, open('a').read()])") == '[8, [1, 2, 3], "hello"]'
    assert rig.added == [1, 1, 1]


async def test_what_raised_has_done_what_it_did(rig: Rig) -> None:
    async with rig.exec.session() as session:
        raised = await session.execute_code("x = 1\ny = 1 / 0")
        assert raised.outcome is Outcome.RAISED
        assert await value(session, "x") == 1
        assert (await session.execute_code("y")).outcome is Outcome.RAISED


async def test_what_was_ended_from_outside_leaves_no_trace(rig: Rig) -> None:
    async with rig.exec.session() as session:
        await session.execute_code("x = 1")
        ended = await session.execute_code("x = 2\nwhile True: pass", limits={"wall_seconds": 1})
        assert ended.outcome is Outcome.TIMED_OUT
        assert await value(session, "x") == 1


async def test_an_out_variable_is_of_its_own_execution(rig: Rig) -> None:
    async with rig.exec.session() as session:
        assert await value(session, "__out = 5") == 5
        assert await value(session, "x = 1") is None


async def test_a_fork_has_the_same_past_and_another_future(rig: Rig) -> None:
    async with rig.exec.session() as session:
        await session.execute_code("x = [tools.add(n=1)]")
        fork = session.fork()
        await fork.execute_code("x.append('fork')")
        await session.execute_code("x.append('first')")
        assert await value(fork, "x") == [1, "fork"]
        assert await value(session, "x") == [1, "first"]
    assert rig.added == [1]


async def test_another_host_goes_on_with_it(rig: Rig, tmp_path: Path) -> None:
    async with rig.exec.session() as session:
        await session.execute_code("x = tools.add(n=1)")
    async with AsyncExec(workers=1, pool_size=1, journal=f"sqlite:///{tmp_path}/journal.db") as other:
        async with other.session(after=session.last) as again:
            assert await value(again, "x") == 1
        assert (await other.replay(again.last)).same
    assert rig.added == [1]


async def test_a_suspended_execution_is_decided_before_the_session_goes_on(rig: Rig) -> None:
    async with rig.exec.session() as session:
        await session.execute_code("x = 1")
        suspended = await session.execute_code("x = tools.pay(n=5)")
        assert suspended.outcome is Outcome.SUSPENDED
        with pytest.raises(InvalidRequest, match="resume it first"):
            await session.execute_code("x")
        (pending,) = await rig.exec.approvals()
        await rig.exec.approve(pending.id)
        assert (await rig.exec.resume(suspended.execution_id)).ok
        assert await value(session, "x") == 5
    assert rig.added == [5]


async def test_a_budget_is_of_one_execution(rig: Rig) -> None:
    async with rig.exec.session(limits={"tool_calls": 2}) as session:
        for _ in range(3):
            await value(session, "tools.add(n=1), tools.add(n=1)")
    assert len(rig.added) == 6


async def test_a_session_that_is_idle_or_closed_is_over(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    session = rig.exec.session(idle_seconds=60)
    await session.execute_code("1")
    now = time.monotonic()
    monkeypatch.setattr("sandbox.session.time.monotonic", lambda: now + 61)
    with pytest.raises(Closed):
        await session.execute_code("1")
    monkeypatch.undo()
    with pytest.raises(Closed):
        session.fork()
    with pytest.raises(InvalidRequest, match="idle_seconds"):
        rig.exec.session(idle_seconds=0)


def test_without_awaits() -> None:
    if not WASM.exists():
        require("wasm", "the guest is not built")
    with Exec(workers=1, pool_size=1) as exec, exec.session() as session:
        session.execute_code("x = 1")
        fork = session.fork()
        assert fork.execute_code("x + 1").value == 2
        assert session.last != fork.last
