"""Journals in SQLite: their file, what happens when its disk or its process fails, and who may go on then."""

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from gateway.errors import Closed, InvalidRequest, JournalCorrupt, JournalUnavailable, LeaseHeld, LeaseLost
from gateway.journal import sqlite
from gateway.journal.base import Blob, CallStarted, Record, Retention
from gateway.journal.jobs import Job
from gateway.journal.owner import is_gone, this_process
from gateway.journal.sql import SqlJournal
from tests.gateway.journals import answer, at, call, ended, ended_process, filled, raw, started, whole

pytestmark = pytest.mark.anyio


# The file


async def test_the_file_is_made_on_first_use_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = at(path)
    assert not path.exists()
    await journal.append(started("e"))
    assert modes(tmp_path) == dict.fromkeys(("journal.db", "journal.db-wal", "journal.db-shm"), 0o600)
    await journal.aclose()
    assert modes(tmp_path) == {"journal.db": 0o600}


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


async def test_another_process_reads_what_was_written(tmp_path: Path) -> None:
    journal, other = at(tmp_path / "journal.db"), at(tmp_path / "journal.db")
    await journal.append(*whole("e"))
    assert list(await other.records("e")) == whole("e")
    await other.append(*whole("f"))
    await journal.append(*whole("g"))
    found = await journal.verify()
    assert (found.records, found.findings) == (12, ())
    await journal.aclose()
    await other.aclose()


async def levels(journal: SqlJournal) -> list[str]:
    """How a start of an execution, a start and an end of a call, and an end are committed: 2 with a sync, 1 without."""
    store = journal._store
    assert isinstance(store, sqlite.SqliteStore)
    found = []
    await journal.append(started("warm"))
    for record in whole("e"):
        await journal.append(record)
        assert store._connection is not None
        found.append({2: "sync", 1: "no"}[store._connection.execute("PRAGMA synchronous").fetchone()[0]])
        assert store._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    await journal.aclose()
    return found


async def test_records_are_synced_by_default(tmp_path: Path) -> None:
    assert await levels(at(tmp_path / "default.db")) == ["sync"] * 4


async def test_what_is_synced_can_be_chosen(tmp_path: Path) -> None:
    chosen: dict[sqlite.Synchronous, list[str]] = {
        "full": ["sync"] * 4,
        "starts": ["sync", "sync", "no", "sync"],
        "normal": ["no"] * 4,
    }
    for synchronous, expected in chosen.items():
        assert await levels(SqlJournal(f"sqlite:///{tmp_path}/{synchronous}.db", synchronous=synchronous)) == expected


async def test_records_that_wait_share_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = at(tmp_path / "journal.db")
    await journal.append(started("e"))
    gate, groups = threading.Event(), []
    original = sqlite.SqliteStore._commit

    def commit(self: sqlite.SqliteStore, group: list[Job], work: object) -> None:
        gate.wait(5)
        groups.append(len(group))
        original(self, group, work)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(sqlite.SqliteStore, "_commit", commit)
    async with anyio.create_task_group() as tasks:
        for index in range(20):
            tasks.start_soon(journal.append, call("e", index))
        await anyio.sleep(0.05)
        gate.set()
    assert sum(groups) == 20
    assert len(groups) <= 2  # the first may have been alone
    await journal.aclose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:////tmp", "mysql://h/d", "journal.db", ""])
def test_a_url_that_names_no_journal_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        SqlJournal(url)


@pytest.mark.parametrize("option", [{"wait_seconds": 0}, {"host_ttl_seconds": -1}, {"sign_every": 0}])
def test_bounds_are_more_than_nothing(option: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest, match="more than 0"):
        SqlJournal("sqlite:///x.db", **option)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(InvalidRequest, match="synchronous"):
        SqlJournal("sqlite:///x.db", synchronous="off")  # type: ignore[arg-type]


async def of_version(path: Path, version: int) -> SqlJournal:
    journal = at(path)
    await journal.append(started("e"))
    await journal.aclose()
    with raw(path) as connection:
        connection.execute(f"UPDATE journal_schema SET version = {version}")
    return at(path)


async def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    journal = await of_version(tmp_path / "journal.db", 3)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=r"version 3 .* knows 2; upgrade"):
            await journal.append(started("f"))
        with pytest.raises(InvalidRequest, match="upgrade"):
            await journal.records("e")
    await journal.aclose()


async def test_an_older_journal_is_left_to_who_wrote_it(tmp_path: Path) -> None:
    journal = await of_version(tmp_path / "journal.db", 1)
    with pytest.raises(InvalidRequest, match=r"version 1 .* knows 2; keep it for the toolexec that wrote it"):
        await journal.append(started("f"))
    await journal.aclose()


async def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with raw(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    journal = at(path)
    with pytest.raises(InvalidRequest, match="something else"):
        await journal.append(started("e"))
    await journal.aclose()
    with raw(path) as connection:
        assert [row[0] for row in connection.execute("SELECT name FROM sqlite_schema")] == ["mine"]


async def test_what_is_no_database_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_text("hello " * 1000)
    journal = at(path)
    with pytest.raises(JournalCorrupt, match="not a database"):
        await journal.append(started("e"))
    await journal.aclose()


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    journal = at(tmp_path / "no" / "journal.db")
    with pytest.raises(JournalUnavailable, match="folder exists"):
        await journal.append(started("e"))
    (tmp_path / "no").mkdir()
    await journal.append(started("e"))
    assert len(await journal.records("e")) == 1
    await journal.aclose()


async def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = at(tmp_path / "journal.db")
    await journal.append(started("e"))
    await journal.aclose()
    with pytest.raises(Closed):
        await journal.append(started("f"))
    with pytest.raises(Closed):
        await journal.records("e")


async def test_an_append_that_is_cancelled_harms_nobody(tmp_path: Path) -> None:
    journal = at(tmp_path / "journal.db")
    async with anyio.create_task_group() as tasks:
        for index in range(10):
            tasks.start_soon(journal.append, call("e", index))
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    await journal.append(call("e", 10))
    assert (await journal.records("e"))[-1] == call("e", 10)
    assert (await journal.verify()).ok
    await journal.aclose()


async def test_a_writer_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqlJournal(f"sqlite:///{path}", wait_seconds=0.2)
    await journal.append(started("e"))
    with raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalUnavailable, match=r"within 0\.2 s"):
            await journal.append(call("e", 0))
    assert issubclass(JournalUnavailable, Exception)
    assert JournalUnavailable.retryable
    with anyio.fail_after(10):
        while True:  # the one above is written after all, or is not: both are in order
            try:
                await journal.append(call("e", 1))
                break
            except JournalUnavailable:
                continue
    assert (await journal.records("e"))[-1] == call("e", 1)
    assert (await journal.verify()).ok
    await journal.aclose()


# Disks that are full, or lie


@contextmanager
def at_most(pages: int) -> Iterator[None]:
    """Databases that cannot grow beyond so many pages, as on a full disk."""
    original = sqlite._prepare

    def prepare(connection: sqlite3.Connection, where: str) -> None:
        original(connection, where)
        connection.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "_prepare", prepare)
        yield


async def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    journal = at(tmp_path / "journal.db")
    kept = 0

    async def fill() -> None:
        nonlocal kept
        while True:
            await journal.append(call("e", kept, size=10_000))
            kept += 1

    with at_most(60):
        with pytest.raises(JournalUnavailable, match="full; free space on its disk"):
            await fill()
        assert kept
        assert len(await journal.records("e")) == kept
        with pytest.raises(JournalUnavailable):
            await journal.append(call("e", kept, size=10_000))
        with pytest.raises(JournalUnavailable):
            await journal.append(started("f"), call("e", kept, size=50_000))
        assert await journal.execution("f") is None
    await journal.append(call("e", kept, size=10_000))
    found = await journal.records("e")
    assert [record.index for record in found if isinstance(record, CallStarted)] == list(range(kept + 1))
    assert (await journal.verify()).ok
    await journal.aclose()


async def test_all_who_wait_hear_of_a_full_disk(tmp_path: Path) -> None:
    journal = at(tmp_path / "journal.db")
    await journal.append(started("e"))
    told: list[int] = []

    async def write(index: int) -> None:
        try:
            await journal.append(call("e", index, size=15_000))
        except JournalUnavailable:
            told.append(index)

    await journal.aclose()
    journal = at(tmp_path / "journal.db")
    with at_most(60):
        async with anyio.create_task_group() as tasks:
            for index in range(100):
                tasks.start_soon(write, index)
    kept = {record.index for record in await journal.records("e") if isinstance(record, CallStarted)}
    assert told
    assert kept == set(range(100)) - {*told}
    assert (await journal.verify()).ok
    await journal.aclose()


async def test_a_corrupt_last_page_is_said_and_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = at(path)
    await filled(journal, 40)
    heads = (await journal.verify()).heads
    await journal.aclose()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - 4096)
        file.write(os.urandom(4096))
    journal = at(path)
    found = await journal.verify(heads)
    assert not found.ok
    assert any("damaged" in one.what or "changed" in one.what or "missing" in one.what for one in found.findings)
    await journal.aclose()


async def test_any_corrupt_page_is_said(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = at(path)
    await filled(journal, 8)
    heads = (await journal.verify()).heads
    await journal.aclose()
    sound = path.read_bytes()
    for page in range(1, len(sound) // 4096):
        path.write_bytes(sound[: page * 4096] + b"\xa5" * 4096 + sound[(page + 1) * 4096 :])
        journal = at(path)
        found = await journal.verify(heads)
        await journal.aclose()
        assert not found.ok or not holds_ledger(sound, page), page


def holds_ledger(data: bytes, page: int) -> bool:
    """Whether there is content of records on this page; what is made from it, such as an index, is not read in full."""
    return b'"kind":"' in data[page * 4096 : (page + 1) * 4096]


async def test_the_end_of_the_log_cannot_vanish_unnoticed(tmp_path: Path) -> None:
    """SQLite takes a log whose end is damaged for a shorter one; a checkpoint kept elsewhere tells."""
    path = tmp_path / "journal.db"
    journal = at(path)
    await filled(journal, 4)
    await journal.append(*whole("last"))
    heads = (await journal.verify()).heads
    for name in ("journal.db", "journal.db-wal"):
        (tmp_path / f"copy-{name}").write_bytes((tmp_path / name).read_bytes())
    await journal.aclose()
    log = tmp_path / "copy-journal.db-wal"
    log.write_bytes(log.read_bytes()[:-1] + b"\xff")
    copy = at(tmp_path / "copy-journal.db")
    assert await copy.execution("last") is None
    assert (await copy.verify()).ok
    (finding,) = (await copy.verify(heads)).findings
    assert "what came after was removed" in finding.what
    await copy.aclose()


# Processes that die

WRITER = """
import asyncio, sys
from gateway.journal.sql import SqlJournal
from tests.gateway.journals import call, started

async def write(journal, name):
    await journal.append(started(name))
    print(name, -1, flush=True)
    for index in range(100_000):
        await journal.append(call(name, index, size=index % 7 * 3000))
        print(name, index, flush=True)

async def main():
    journal = SqlJournal(sys.argv[1])
    await asyncio.gather(*(write(journal, f"e{number}") for number in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 40, 333])
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "journal.db"
    command = [sys.executable, "-c", WRITER, f"sqlite:///{path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - it is to be killed
        assert process.stdout is not None
        heard = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        heard += process.stdout.readlines()
    journal = at(path)
    kept: dict[str, list[Record]] = {f"e{number}": [*await journal.records(f"e{number}")] for number in range(8)}
    for line in heard:
        if line.endswith("\n"):
            name, index = line.split()
            assert len(kept[name]) >= int(index) + 2
    for name, records in kept.items():
        expected = [started(name), *(call(name, index, size=index % 7 * 3000) for index in range(len(records) - 1))]
        assert records == expected[: len(records)]
    for record in kept["e0"][-3:]:
        if isinstance(record, CallStarted):
            assert len(await journal.read(record.arguments)) == record.arguments.size_bytes
    assert (await journal.verify()).ok
    assert {one.execution_id for one in await journal.unfinished()} == {name for name, found in kept.items() if found}
    await journal.aclose()


async def test_a_process_that_lives_is_at_work_on_its_executions(tmp_path: Path) -> None:
    journal, other = at(tmp_path / "journal.db"), at(tmp_path / "journal.db")
    await journal.append(started("open"))
    await journal.append(*whole("over"))
    await journal.append(call("host", 0))
    assert await other.unfinished() == []
    assert await journal.unfinished() == []
    with pytest.raises(LeaseHeld, match=f"held by process {os.getpid()}; it is free when that ends"):
        await other.lease("open", "other", 60)
    await other.lease("over", "other", 60)
    await journal.release(await journal.lease("open", "itself", 60))
    await journal.aclose()  # it says goodbye
    assert [one.execution_id for one in await other.unfinished()] == ["open"]
    await other.lease("open", f"{ended_process()}-1", 60)
    assert [one.execution_id for one in await other.unfinished()] == ["open"]
    lease = await other.lease("open", "other", 60)
    assert await other.unfinished() == []
    await other.append(ended("open"), lease=lease)
    await other.release(lease)
    assert await other.unfinished() == []
    await other.aclose()


async def test_every_wait_ends_one_by_one_and_those_that_come_later(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqlJournal(f"sqlite:///{path}", wait_seconds=0.3)
    await journal.append(started("e"))
    ended_after: list[float] = []

    async def hangs(index: int) -> None:
        begun = anyio.current_time()
        with pytest.raises(JournalUnavailable, match=r"within 0\.3 s"):
            await journal.append(call("e", index))
        ended_after.append(anyio.current_time() - begun)

    with raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for index in range(3):
                    tasks.start_soon(hangs, index)
                    await anyio.sleep(0.1)
            await hangs(3)  # no wait was left when it began
    assert len(ended_after) == 4
    assert min(ended_after) > 0.2  # each had its own time, not that of the first
    await journal.aclose()


def test_a_journal_serves_one_loop_after_another(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqlJournal(f"sqlite:///{path}", wait_seconds=0.3)
    for number in range(2):
        asyncio.run(journal.append(started(f"e{number}")))

    async def hangs() -> None:
        with anyio.fail_after(5), pytest.raises(JournalUnavailable, match=r"within 0\.3 s"):
            await journal.append(started("e2"))
        await journal.aclose()

    with raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        asyncio.run(hangs())


async def test_what_was_deleted_leaves_not_even_the_names_of_tools(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = at(path)
    await journal.append(started("open"), call("open", 0), *whole("e"))
    await journal.prune(Retention(older_than=timedelta(0)))
    await journal.aclose()
    with raw(path) as connection:
        found = connection.execute("SELECT execution_id FROM journal_records WHERE tool_id IS NOT NULL").fetchall()
    assert found == [("open",)]


async def test_who_was_taken_for_dead_writes_no_more_of_it(tmp_path: Path) -> None:
    zombie = SqlJournal(f"sqlite:///{tmp_path}/journal.db", host_ttl_seconds=3600)
    await zombie.append(started("e"), call("e", 0))
    monkey = at(tmp_path / "journal.db")
    await zombie._store.step(lambda rows: rows.run("UPDATE journal_leases SET expires_at = 0"))  # it slept
    assert [one.execution_id for one in await monkey.unfinished()] == ["e"]
    lease = await monkey.lease("e", "other", 60)
    with pytest.raises(LeaseLost):
        await zombie.append(answer("e", 0))
    await monkey.append(answer("e", 0), lease=lease)
    assert len(await monkey.records("e")) == 3
    await zombie.aclose()
    await monkey.aclose()


def test_a_process_is_gone_when_another_has_its_pid() -> None:
    owner = this_process()
    place, pid, born, rest = owner.split(":")
    assert not is_gone(owner)
    assert is_gone(ended_process())
    assert is_gone(f"{place}:{2**22 + 1}:{born}:{rest}")
    for unknown in ("", "x", f"elsewhere:{pid}:1:{rest}", f"{place}:x:1:{rest}", f"{place}:{pid}", f":{pid}:1:{rest}"):
        assert not is_gone(unknown)


async def test_a_child_that_nobody_waited_for_is_gone() -> None:
    script = "from gateway.journal.owner import this_process; print(this_process(), flush=True); input()"
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, **pipes)  # type: ignore[arg-type]
    assert process.stdout is not None
    owner = (await process.stdout.readline()).decode().strip()
    assert not is_gone(owner)
    process.kill()
    await process.wait()
    assert is_gone(owner)


async def test_values_of_any_size_come_back_whole(tmp_path: Path) -> None:
    journal = at(tmp_path / "journal.db")
    for index, size in enumerate((0, 16_000, 17_000, 4_000_000)):
        await journal.append(call("e", index, size=size))
    for record, size in zip(await journal.records("e"), (0, 16_000, 17_000, 4_000_000), strict=True):
        assert isinstance(record, CallStarted)
        assert (record.arguments.data is None) == (size > 16_384)
        data = await journal.read(record.arguments)
        assert Blob.of(data) == record.arguments == Blob.of_json({"a": record.index, "padding": "x" * size})
    await journal.aclose()
