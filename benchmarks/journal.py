"""What it costs to keep records in a file: on calls, on executions, and to check them."""

import asyncio
import os
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
from figures import Figure, added, by_turns, rounds, spread, timed, timed_sync

from gateway.journal.base import Blob, CallFinished, CallStarted, CallStatus, Journal, Lease, Record
from gateway.journal.memory import MemoryJournal
from gateway.journal.sql import SqlJournal
from sandbox import AsyncExec

AT_ONCE = 8
BATCH = 40
NOW = datetime.now(UTC)


async def measure(share: float) -> list[Figure]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # where a journal would be; /tmp may be in memory
        return [
            sync_reference(Path(folder), rounds(500, share)),
            *await calls(Path(folder), rounds(2000, share)),
            *await executions(Path(folder), rounds(30, share)),
            *await records(Path(folder), rounds(100_000, share)),
            await replay(Path(folder), rounds(1000, share)),
        ]


async def replay(folder: Path, count: int) -> Figure:
    """How many times faster than live, with tools of 1 ms."""
    async with AsyncExec(journal=f"sqlite:///{folder}/replay.db", limits={"tool_calls": count}) as host:

        @host.tool
        async def one(n: int) -> int:
            await anyio.sleep(0.001)
            return n

        await host.execute_code("1", backend="wasm")
        started = time.perf_counter()
        result = await host.execute_code(f"for n in range({count}): tools.one(n=n)", backend="wasm")
        live = time.perf_counter() - started
        again = await timed(lambda: host.replay(result.execution_id))
    name = f"replay of {count} calls of 1 ms, times faster than live"
    return Figure(name, "x", live / again, target=5.0, more_is_better=True)


def sync_reference(folder: Path, count: int) -> Figure:
    """The disk alone: a page, written over another one, and its sync."""
    file = os.open(folder / "sync", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(file, b"x" * 4096 * count, 0)
        os.fsync(file)

        def once(number: int) -> None:
            os.pwrite(file, b"y" * 4096, number * 4096)
            os.fdatasync(file)

        seconds = [timed_sync(lambda: once(number)) for number in range(count)]  # noqa: B023 - called at once
    finally:
        os.close(file)
    return spread("journal: reference, one sync of the disk", "µs", seconds)


class BareLog(MemoryJournal):
    """The least that is durable without blocking the event loop: in a thread, a page that is written and synced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._waiting: queue.SimpleQueue[asyncio.Future[None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    async def append(self, *records: Record, lease: Lease | None = None) -> None:
        written = asyncio.get_running_loop().create_future()
        self._waiting.put(written)
        await written
        await super().append(*records, lease=lease)

    async def aclose(self) -> None:
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)
        await super().aclose()

    def _work(self) -> None:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT)
        while (written := self._waiting.get()) is not None:
            os.pwrite(file, b"y" * 4096, 0)
            os.fdatasync(file)
            written.get_loop().call_soon_threadsafe(written.set_result, None)
        os.close(file)


async def calls(folder: Path, count: int) -> list[Figure]:
    log = BareLog(folder / "log")
    starts = SqlJournal(f"sqlite:///{folder}/starts.db", synchronous="starts")
    async with (
        host_at(None) as bare,
        host_at(log) as least,
        host_at(folder / "calls.db") as kept,
        host_at(starts) as half,
    ):

        async def without() -> None:
            await bare.run_tool("nothing")

        async def with_log() -> None:
            await least.run_tool("nothing")

        async def with_journal() -> None:
            await kept.run_tool("nothing")

        async def with_half() -> None:
            await half.run_tool("nothing")

        for _ in range(1000):  # until their logs are overwritten, not made longer: half the time
            await with_journal()
            await with_half()
        one, log_too, other, third = await by_turns(count, without, with_log, with_journal, with_half)
    return [
        spread("journal: run_tool, records in memory", "µs", one),
        spread("journal: reference, what two syncs in a thread add to it", "µs", added(log_too, one)),
        spread("journal: what SQLite adds to it, two syncs", "µs", added(other, one), target=300),
        spread('journal: the same with synchronous="starts"', "µs", added(third, one), target=300),
    ]


async def executions(folder: Path, count: int) -> list[Figure]:
    async with host_at(None) as bare, host_at(folder / "executions.db") as kept:

        async def some(host: AsyncExec) -> None:
            numbers = iter(range(BATCH))

            async def work() -> None:
                for _ in numbers:
                    assert (await host.execute_code("1 + 1", backend="wasm")).value == 2

            async with anyio.create_task_group() as tasks:
                for _ in range(AT_ONCE):
                    tasks.start_soon(work)

        pairs = []
        for number in range(count + 3):
            turn = [(bare, 0), (kept, 1)] if number % 2 else [(kept, 1), (bare, 0)]
            took = {which: await timed(lambda: some(host)) for host, which in turn}  # noqa: B023 - awaited at once
            pairs.append((took[0], took[1]))
    settled = pairs[3:]
    costs = [100 * (1 - one / other) for one, other in settled]
    name = f"journal: fresh WASM guests, {AT_ONCE} at a time"
    rates = [BATCH / statistics.median(side) for side in zip(*settled, strict=True)]
    return [
        Figure(f"{name}, in memory", "/s", rates[0], more_is_better=True),
        Figure(f"{name}, in SQLite", "/s", rates[1], more_is_better=True),
        Figure("journal: throughput that SQLite costs, median of turns", "%", statistics.median(costs), target=10),
    ]


async def records(folder: Path, count: int) -> list[Figure]:
    journal = SqlJournal(f"sqlite:///{folder}/records.db")
    found = []
    for at_once in (1, AT_ONCE, 64):
        total = max(500, count // 50)
        numbers = iter(range(total))

        async def work() -> None:
            for number in numbers:  # noqa: B023 - awaited below
                await journal.append(call(number, number))

        async def all_of_them() -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(at_once):  # noqa: B023
                    tasks.start_soon(work)

        rate = total / await timed(all_of_them)
        found.append(Figure(f"journal: records kept, {at_once} waiting at a time", "/s", rate, more_is_better=True))
    for start in range(0, count, 100):
        await journal.append(*(one for number in range(start, start + 100, 2) for one in pair(start, number)))
    started = time.perf_counter()
    checked = await journal.verify()
    rate = checked.records / (time.perf_counter() - started)
    assert checked.ok
    await journal.aclose()
    return [*found, Figure("journal: records verified", "/s", rate, target=50_000, more_is_better=True)]


@asynccontextmanager
async def host_at(where: Path | Journal | None) -> AsyncIterator[AsyncExec]:
    async with AsyncExec(journal=f"sqlite:///{where}" if isinstance(where, Path) else where) as host:

        @host.tool
        async def nothing() -> None:
            pass

        yield host


def call(execution: int, index: int) -> CallStarted:
    return CallStarted(
        execution_id=f"{execution:032x}",
        tenant_id="acme",
        at=NOW,
        index=index,
        tool_id="crm:lookup",
        arguments=Blob.of_json({"customer": index, "fields": ["name", "address"]}),
        arguments_sha256="0" * 64,
        via="run_tool",
    )


def pair(execution: int, index: int) -> list[Record]:
    result = Blob.of_json({"name": "Ada", "address": "12 St James's Square", "customer": index})
    end = CallFinished(
        execution_id=f"{execution:032x}",
        tenant_id="acme",
        at=NOW,
        index=index,
        status=CallStatus.COMPLETED,
        result=result,
        error=None,
        attempts=1,
        duration_seconds=0.012,
        usage={"input_bytes": 40, "output_bytes": 60, "attempts": 1},
    )
    return [call(execution, index), end]
