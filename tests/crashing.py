"""Hosts to kill, the database in which their tools have effects, and what must hold in the end."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from gateway.journal.base import EVERYTHING, Checkpoint, Journal, Record
from gateway.journal.sql import SqlJournal
from runtimes.wasm.backend import WASM
from tests.conftest import require
from tests.crash_host import LOST, SECONDS, STEPS, Work


class Template:
    """A process that forks hosts, one after the other."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", "tests.crash_host"]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.host: Host | None = None

    async def start(self, work: Work) -> "Host":
        self.host = await anyio.to_thread.run_sync(Host, self.process, work)
        return self.host

    def close(self) -> None:
        if self.host is not None and not self.host.is_over:
            self.host.kill()
        self.process.communicate(timeout=SECONDS)


class Host:
    def __init__(self, process: "subprocess.Popen[str]", work: Work) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.began = datetime.now(UTC)
        self.killed = datetime.max.replace(tzinfo=UTC)
        self.heard: list[str] = []
        self._lines = process.stdout
        process.stdin.write(json.dumps(asdict(work)) + "\n")
        process.stdin.flush()
        self._hear()
        self._pidfd = os.pidfd_open(int(self.heard.pop()))

    @property
    def is_over(self) -> bool:
        return self.heard[-1:] == ["over"]

    @property
    def was_at_work(self) -> bool:
        return "at work" in self.heard and "done" not in self.heard

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # it may have come to its end
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.until_over()
        self.killed = datetime.now(UTC)

    def until(self, *said: str) -> None:
        """Until it has said one of these, or is over."""
        while not self.is_over and not {*said} & {*self.heard}:
            self._hear()

    def until_over(self) -> None:
        self.until()
        os.close(self._pidfd)

    def _hear(self) -> None:
        line = self._lines.readline()
        assert line, "the template is gone"
        self.heard.append(line.rstrip("\n"))

    async def work(self) -> None:
        await anyio.to_thread.run_sync(self.until, "at work", "done")

    async def end(self) -> None:
        await anyio.to_thread.run_sync(self.until_over)
        assert "done" in self.heard, self.heard

    async def die(self) -> None:
        await anyio.to_thread.run_sync(self.kill)


@pytest.fixture
def effects(tmp_path: Path) -> Path:
    """A database in which tools have effects."""
    path = tmp_path / "effects.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        columns = "key TEXT PRIMARY KEY, execution TEXT, step INTEGER, note TEXT, asked INTEGER"
        database.execute(f"CREATE TABLE effects ({columns})")
    return path


@pytest.fixture
def guest() -> None:
    if not WASM.exists():
        require("wasm", "the guest is not built")


@contextmanager
def new_template() -> Iterator[Template]:
    template = Template()
    try:
        yield template
    finally:
        template.close()


@pytest.fixture
def template(runs: Path) -> Iterator[Template]:
    del runs  # it is where the hosts have their folders
    with new_template() as made:
        yield made


def in_sqlite(effects: Path) -> str:
    return f"sqlite:///{effects.parent}/journal.db"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlJournal]:
    journal = SqlJournal(url)
    try:
        yield journal
    finally:
        await journal.aclose()


async def all_records(journal: Journal) -> dict[str, list[Record]]:
    """Of every execution, by its id."""
    found: dict[str, list[Record]] = {}
    cursor, more = None, True
    while more:
        page = await journal.executions(EVERYTHING, limit=1000, cursor=cursor)
        for one in page.executions:
            found[one.execution_id] = [*await journal.records(one.execution_id)]
        cursor, more = page.cursor, page.cursor is not None
    return found


async def some_effects(effects: Path, wanted: int) -> None:
    """Until a host has got somewhere, however slow this machine is just now."""
    with anyio.fail_after(SECONDS):
        while count(effects) < wanted:  # noqa: ASYNC110 - another process makes them
            await anyio.sleep(0.01)


def count(effects: Path) -> int:
    with closing(sqlite3.connect(effects)) as database:
        found: int = database.execute("SELECT count(*) FROM effects").fetchone()[0]
        return found


async def unfinished(journal: Journal) -> list[str]:
    """Executions that may be taken up, by a host or once it is gone."""
    found = (await journal.executions(EVERYTHING, limit=1000)).executions
    return [one.execution_id for one in found if one.outcome in ("", *LOST)]


async def end_all(template: Template, work: Work) -> None:
    """Leases of hosts that were killed run out; then a host that lives ends the rest. On a busy machine a worker may be
    lost with its guests, and they are taken up too."""
    with anyio.fail_after(2 * SECONDS):
        while await left(work.url):
            host = await template.start(replace(work, executions=0, lease_seconds=2.0))
            await host.end()


async def left(url: str) -> list[str]:
    async with opened(url) as journal:
        return await unfinished(journal)


async def check(url: str, effects: Path, checkpoints: Sequence[Checkpoint] = ()) -> None:
    """Every execution has ended, with each of its effects once, and nothing that was recorded is lost."""
    with closing(sqlite3.connect(effects)) as database:
        done = Counter(database.execute("SELECT execution, step FROM effects").fetchall())
    async with opened(url) as journal:
        page = await journal.executions(EVERYTHING, limit=1000)
        verification = await journal.verify(checkpoints)
    assert page.cursor is None, "look at all of them"
    assert {one.outcome for one in page.executions} == {"completed"}
    wanted = {(one.execution_id, step) for one in page.executions for step in range(1, STEPS + 1)}
    assert wanted - set(done) == set(), "effects are missing"
    assert {key: count for key, count in done.items() if count != 1} == {}, "effects were done twice"
    assert set(done) <= wanted, "effects of nobody"
    assert verification.ok, verification.findings
