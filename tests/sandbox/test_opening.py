"""The start of an execution goes into the journal with the record that follows it, and is there in time without one."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from gateway.errors import JournalUnavailable
from gateway.journal.base import CallFinished, ExecutionFinished, ExecutionStarted, Lease, Record
from gateway.journal.memory import MemoryJournal
from runtimes.mock import MockGuest
from sandbox import AsyncExec
from sandbox.opening import OPEN_SECONDS
from tests.sandbox.test_exec import mocked

pytestmark = pytest.mark.anyio


class Slow(MemoryJournal):
    """A journal whose appends take their time, as those of a disk do. `failures` are those that come first."""

    def __init__(self, seconds: float = 0.0, failures: int = 0) -> None:
        super().__init__()
        self.appended: list[Sequence[str]] = []
        self.seconds = seconds
        self.failures = failures

    async def append(self, *records: Record, lease: Lease | None = None) -> None:
        await anyio.sleep(self.seconds)
        if self.failures:
            self.failures -= 1
            raise JournalUnavailable("in this test", "it is told to fail")
        self.appended.append([type(record).__name__ for record in records])
        await super().append(*records, lease=lease)


def noop(host: AsyncExec) -> None:
    @host.tool(name="noop")
    async def nothing() -> None: ...


async def test_an_execution_without_calls_is_kept_at_once() -> None:
    async def script(guest: MockGuest) -> int:
        return len(guest.code)

    journal = Slow()
    async with mocked(script, journal=journal) as exec:
        result = await exec.execute_code("one")
        records = await journal.records(result.execution_id)
    assert journal.appended == [["ExecutionStarted", "ExecutionFinished"]]
    assert [type(record) for record in records] == [ExecutionStarted, ExecutionFinished]


async def test_the_start_goes_with_the_first_call_before_its_tool_runs() -> None:
    journal = Slow()
    seen: list[Sequence[str]] = []

    async def script(guest: MockGuest) -> None:
        await guest.run_tool("look")
        await guest.run_tool("look")

    async with mocked(script, journal=journal) as exec:
        exec.tool(name="look")(lambda: seen.extend(journal.appended))
        await exec.execute_code("x")
    assert seen[0] == ["ExecutionStarted", "CallStarted"]
    assert journal.appended[0] == seen[0]
    assert sum(names.count("ExecutionStarted") for names in journal.appended) == 1


async def test_one_that_runs_on_is_known_to_be_under_way() -> None:
    journal = Slow()
    known = anyio.Event()

    async def script(guest: MockGuest) -> None:
        await known.wait()

    async with mocked(script, journal=journal) as exec, anyio.create_task_group() as tasks:
        tasks.start_soon(exec.execute_code, "long")
        with anyio.fail_after(5):
            while not (found := (await journal.executions()).executions):  # noqa: ASYNC110 - the journal does not call
                await anyio.sleep(OPEN_SECONDS / 10)
        assert [one.outcome for one in found] == [""]
        known.set()
    assert journal.appended == [["ExecutionStarted"], ["ExecutionFinished"]]


async def test_calls_at_once_wait_for_the_start_and_none_is_kept_without_it() -> None:
    journal = Slow(seconds=0.02)

    async def script(guest: MockGuest) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(guest.run_tool, "noop")

    async with mocked(script, journal=journal) as exec:
        noop(exec)
        result = await exec.execute_code("x")
        records = await journal.records(result.execution_id)
    assert isinstance(records[0], ExecutionStarted)
    assert sum(isinstance(record, ExecutionStarted) for record in records) == 1
    assert sum(isinstance(record, CallFinished) for record in records) == 5


async def test_a_start_that_could_not_be_kept_goes_with_the_end() -> None:
    async def script(guest: MockGuest) -> None:
        await guest.run_tool("noop")

    journal = Slow(failures=1)
    async with mocked(script, journal=journal) as exec:
        noop(exec)
        with pytest.raises(JournalUnavailable):
            await exec.execute_code("x")
        (found,) = (await journal.executions()).executions
        assert found.outcome == "journal_unavailable"
        records = await journal.records(found.execution_id)
        assert [type(record) for record in records] == [ExecutionStarted, ExecutionFinished]
        result = await exec.resume(found.execution_id)
    assert [(call.index, call.status) for call in result.tool_calls] == [(0, "completed")]


async def test_a_failure_in_the_background_is_told_at_the_next_record() -> None:
    failed = anyio.Event()

    class Failing(Slow):
        async def append(self, *records: Record, lease: Lease | None = None) -> None:
            if not self.appended:
                failed.set()
                raise OSError("disk full")
            await super().append(*records, lease=lease)

    async def script(guest: MockGuest) -> None:
        await failed.wait()

    async with mocked(script, journal=Failing()) as exec:
        with anyio.fail_after(5), pytest.raises(OSError, match="disk full"):
            await exec.execute_code("x")


async def test_a_cancelled_execution_is_kept_with_its_start_once(tmp_path: Path) -> None:
    at_work = anyio.Event()

    async def script(guest: MockGuest) -> None:
        at_work.set()
        await guest.run_tool("noop")

    async with mocked(script, journal=f"sqlite:///{tmp_path}/journal.db") as exec:
        noop(exec)
        for _ in range(20):
            async with anyio.create_task_group() as tasks:
                at_work = anyio.Event()
                tasks.start_soon(exec.execute_code, "x")
                await at_work.wait()
                tasks.cancel_scope.cancel()
        found = (await exec.journal.executions()).executions
        assert len(found) == 20
        for one in found:
            names = [type(record).__name__ for record in await exec.journal.records(one.execution_id)]
            assert names[0] == "ExecutionStarted"
            assert names[-1] == "ExecutionFinished"
            assert names.count("ExecutionStarted") == names.count("ExecutionFinished") == 1
            assert one.outcome == "cancelled"
