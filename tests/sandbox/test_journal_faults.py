"""Executions whose journal fails in their middle: a disk that is full, a server that stops, a page that is corrupt."""

import os
import random
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import anyio
import pytest

from gateway.errors import JournalUnavailable
from gateway.journal.base import CallStarted, ExecutionFinished, Record
from gateway.journal.sql import SqlJournal
from runtimes.mock import MockBackend
from sandbox import AsyncExec
from tests.conftest import require
from tests.crash_host import SNIPPET, Work, add_tools, script
from tests.crashing import Template, all_records, check, count, in_sqlite, opened, some_effects, unfinished
from tests.engines import Postgres
from tests.gateway.journals import started

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

PAGE_BYTES = 4096


class Disk:
    """A small file system of its own, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(PAGE_BYTES))
        assert os.statvfs(self.folder).f_bavail == 0

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0:
        require("tmpfs", "only root can mount one")
    if (done := subprocess.run(mount, capture_output=True, text=True, check=False)).returncode:
        require("tmpfs", done.stderr.strip())
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_a_host_goes_on_when_there_is_space_again(disk: Disk, effects: Path) -> None:
    refused = await outlive(f"sqlite:///{disk.folder}/journal.db", effects, disk.fill, disk.free)
    assert all("free space on its disk" in str(error) for error in refused)


async def test_a_journal_that_is_opened_on_a_full_disk_says_so(disk: Disk) -> None:
    url = f"sqlite:///{disk.folder}/journal.db"
    for name in ("a new file", "one that is there"):
        disk.fill()
        async with opened(url) as journal:
            with pytest.raises(JournalUnavailable, match="free space on its disk"):
                await journal.executions()
            disk.free()
            await journal.append(started(name))


async def test_a_host_goes_on_when_the_server_is_there_again(journal_server: Postgres, effects: Path) -> None:
    await outlive(journal_server.url, effects, journal_server.stop, journal_server.start)


async def outlive(
    url: str, effects: Path, fail: Callable[[], None], repair: Callable[[], None]
) -> list[JournalUnavailable]:
    """One host from before its journal fails to after; what it was told meanwhile."""
    refused: list[JournalUnavailable] = []
    async with mocked(url) as host:
        add_tools(host, str(effects), random.Random(7))

        async def run() -> None:
            try:
                assert (await host.execute_code(SNIPPET, backend="mock")).ok
            except JournalUnavailable as error:
                refused.append(error)

        await run()
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(run)
            await some_effects(effects, 25)
            before, heads = await all_records(host.journal), (await host.journal.verify()).heads
            fail()
        assert refused, "nothing was under way"
        made = count(effects)
        for _ in range(3):
            with pytest.raises(JournalUnavailable):
                await host.execute_code(SNIPPET, backend="mock")
            with pytest.raises(JournalUnavailable):
                await host.run_tool("shop:take", {"step": 1, "note": ""})
        assert count(effects) == made
        repair()
        after = await all_records(host.journal)
        assert all(after[one][: len(records)] == records for one, records in before.items())
        assert made_keys(effects) <= {key for one, records in after.items() for key in started_keys(one, records)}
        lost = {one.execution_id for one in await host.unfinished()}
        assert lost == {one for one, records in after.items() if one.isalnum() and not is_over(records)}
        assert lost <= {error.execution_id for error in refused}
        for execution_id in await unfinished(host.journal):
            assert (await host.resume(execution_id)).ok
        assert await host.unfinished() == ()
        assert (await host.execute_code(SNIPPET, backend="mock")).ok
    await check(url, effects, heads)
    return refused


@asynccontextmanager
async def mocked(url: str) -> AsyncIterator[AsyncExec]:
    backends = {"mock": MockBackend.scripted(script)}
    async with AsyncExec(journal=SqlJournal(url), backends=backends) as host:
        yield host


def made_keys(effects: Path) -> set[str]:
    with closing(sqlite3.connect(effects)) as database:
        return {key for (key,) in database.execute("SELECT key FROM effects")}


def is_over(records: list[Record]) -> bool:
    return isinstance(records[-1], ExecutionFinished)


def started_keys(execution_id: str, records: list[Record]) -> set[str]:
    return {f"{execution_id}/{record.index}" for record in records if isinstance(record, CallStarted)}


async def test_what_is_on_a_corrupt_last_page_is_not_passed_over(template: Template, effects: Path) -> None:
    url, work = in_sqlite(effects), Work(in_sqlite(effects), str(effects), 10, 7, "mock")
    host = await template.start(work)
    await some_effects(effects, 30)
    await host.die()
    async with opened(url) as journal:
        heads = (await journal.verify()).heads
    corrupt_last(effects.parent / "journal.db")
    made = made_keys(effects)
    host = await template.start(work)
    await anyio.to_thread.run_sync(host.until_over)
    said = "\n".join(host.heard)
    assert "journal.db is damaged" in said, said
    assert "`toolexec journal verify` says how far its records hold" in said
    async with opened(url) as journal:
        found = await journal.verify(heads)
    assert not found.ok
    with closing(sqlite3.connect(effects)) as database:
        twice = database.execute("SELECT execution, step FROM effects GROUP BY 1, 2 HAVING count(*) > 1").fetchall()
    assert made <= made_keys(effects)
    assert twice == []


def corrupt_last(path: Path) -> None:
    """The last page that holds content of records."""
    data = path.read_bytes()
    pages = range(len(data) // PAGE_BYTES)
    last = [at for page in pages if b'"kind":"' in data[(at := page * PAGE_BYTES) : at + PAGE_BYTES]][-1]
    path.write_bytes(data[:last] + random.Random(7).randbytes(PAGE_BYTES) + data[last + PAGE_BYTES :])
