"""A host killed at any moment of executions that have effects: what is taken up again ends, once, with all its effects.

`tests/crash_host.py` is the host; each is forked from a process that has imported what it needs. The moments come from
a seed, which a failure names. `make crash` kills 200 hosts, and 60 that write to PostgreSQL.
"""

import multiprocessing
import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.journal.base import EVERYTHING, ExecutionStarted, Mode
from gateway.journal.sql import SqlJournal
from runtimes.wasm.backend import WASM
from tests import crash_host
from tests.conftest import require
from tests.contract.test_journals import without_tables
from tests.crash_host import STEPS
from tests.engines import Postgres

pytestmark = [pytest.mark.anyio, pytest.mark.alone, pytest.mark.timeout(900)]

SEED = int(os.environ.get("TOOLEXEC_CRASH_SEED", "7"))

KILLS = int(os.environ.get("TOOLEXEC_CRASH_KILLS", "20"))
KILLS_IN_POSTGRES = max(1, KILLS * 3 // 10)
BEGUN = 4
"""Executions that a host begins; it takes up as well what others have left, once their leases have run out."""

SECONDS = 60.0
"""Until a host that is not killed has ended everything."""


_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([crash_host.__name__, "gateway.server"])


class Host:
    def __init__(self, live: Callable[..., None], *arguments: Any) -> None:
        self._heard, told = _processes.Pipe(duplex=False)
        self._process = _processes.Process(target=live, args=(told.send, *arguments))
        self._process.start()
        told.close()
        assert self.hear() == "ready"

    def hear(self) -> object:
        assert self._heard.poll(SECONDS), "the host says nothing"
        return self._heard.recv()

    def kill(self) -> None:
        self._process.kill()
        self._process.join(SECONDS)

    def end(self) -> None:
        assert self.hear() == "done"
        self._process.join(SECONDS)
        assert self._process.exitcode == 0


def make_effects(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE effects (key TEXT PRIMARY KEY, execution TEXT, step INTEGER, note TEXT)")


async def unfinished(url: str) -> int:
    journal = SqlJournal(url)
    try:
        page = await journal.executions(limit=1000)
        return sum(one.outcome in ("", "sandbox_lost") for one in page.executions)
    finally:
        await journal.aclose()


@pytest.fixture
def effects(tmp_path: Path) -> Path:
    if not WASM.exists():
        require("wasm", "the guest is not built")
    make_effects(tmp_path / "effects.db")
    return tmp_path / "effects.db"


@pytest.fixture
async def server(postgres: Postgres) -> AsyncIterator[Postgres]:
    await without_tables(postgres)
    yield postgres
    await without_tables(postgres)


async def test_whatever_was_cut_off_ends_with_every_effect_once(effects: Path) -> None:
    await crash(f"sqlite:///{effects.parent}/journal.db", effects, KILLS)


async def test_the_same_in_postgres(effects: Path, server: Postgres) -> None:
    await crash(server.url, effects, KILLS_IN_POSTGRES)


async def test_a_host_takes_up_by_itself_what_another_one_left(effects: Path) -> None:
    url = f"sqlite:///{effects.parent}/journal.db"
    left = await leave(url, effects)
    await by_itself(url, effects, hosts=1)
    await check(url, effects, SEED)
    assert await resumptions(url) == dict.fromkeys(left, 1)


async def test_two_hosts_that_take_up_by_themselves_share_what_there_is(effects: Path, server: Postgres) -> None:
    left = await leave(server.url, effects)
    await by_itself(server.url, effects, hosts=2)
    await check(server.url, effects, SEED)
    assert await resumptions(server.url) == dict.fromkeys(left, 1)


async def crash(url: str, effects: Path, kills: int) -> None:
    most = await kill_hosts(url, effects, random.Random(SEED), kills)
    await end_all(url, effects)
    await check(url, effects, SEED)
    print(f"seed {SEED}: {kills} hosts killed, up to {most} executions cut off at once, {count(effects)} effects")
    assert most > BEGUN


async def leave(url: str, effects: Path) -> set[str]:
    """Executions whose host was killed in their middle."""
    host = await anyio.to_thread.run_sync(Host, crash_host.run, url, str(effects), 10, SEED)
    await some_effects(effects, 15)
    await anyio.to_thread.run_sync(host.kill)
    journal = SqlJournal(url)
    left = {one.execution_id for one in await journal.unfinished()}
    await journal.aclose()
    assert left
    return left


async def by_itself(url: str, effects: Path, *, hosts: int) -> None:
    """Hosts with `resume="auto"`, at the same time, until nothing is left."""
    living: list[Host] = []

    async def live() -> None:
        living.append(await anyio.to_thread.run_sync(Host, crash_host.run_by_itself, url, str(effects), SEED))

    async with anyio.create_task_group() as tasks:
        for _ in range(hosts):
            tasks.start_soon(live)
    for host in living:
        await anyio.to_thread.run_sync(host.end)


async def resumptions(url: str) -> dict[str, int]:
    """How often each execution was taken up, of those that were."""
    journal = SqlJournal(url)
    page = await journal.executions(EVERYTHING, limit=1000)
    found: Counter[str] = Counter()
    for one in page.executions:
        for record in await journal.records(one.execution_id):
            if isinstance(record, ExecutionStarted) and record.mode is Mode.RESUME:
                found[one.execution_id] += 1
    await journal.aclose()
    return dict(found)


async def kill_hosts(url: str, effects: Path, chance: random.Random, kills: int) -> int:
    """The most executions that had no end at a time."""
    most = 0
    for _ in range(kills):
        arguments = (crash_host.run, url, str(effects), BEGUN, chance.randrange(1 << 30))
        host = await anyio.to_thread.run_sync(Host, *arguments)
        await some_effects(effects, chance.randrange(BEGUN * STEPS // 2))
        await anyio.sleep(chance.uniform(0, 0.05))
        await anyio.to_thread.run_sync(host.kill)
        most = max(most, await unfinished(url))
    return most


async def some_effects(effects: Path, more: int) -> None:
    """Until the host has got somewhere, however slow this machine is just now."""
    wanted = count(effects) + more
    until = time.monotonic() + SECONDS
    while count(effects) < wanted and time.monotonic() < until:  # noqa: ASYNC110 - another process makes them
        await anyio.sleep(0.01)


def count(effects: Path) -> int:
    with closing(sqlite3.connect(effects)) as database:
        found: int = database.execute("SELECT count(*) FROM effects").fetchone()[0]
        return found


async def end_all(url: str, effects: Path) -> None:
    """Leases of hosts that were killed run out; then a host that lives ends the rest. On a busy machine a worker may be
    lost with its guests, and they are taken up too."""
    until = time.monotonic() + 2 * SECONDS
    while await unfinished(url):
        assert time.monotonic() < until, "some executions do not end"
        host = await anyio.to_thread.run_sync(Host, crash_host.run, url, str(effects), 0, 0)
        await anyio.to_thread.run_sync(host.end)


async def check(url: str, effects: Path, seed: int) -> None:
    with closing(sqlite3.connect(effects)) as database:
        done = Counter(database.execute("SELECT execution, step FROM effects").fetchall())
    journal = SqlJournal(url)
    page = await journal.executions(EVERYTHING, limit=1000)
    verification = await journal.verify()
    await journal.aclose()
    assert page.cursor is None
    assert {one.outcome for one in page.executions} == {"completed"}, f"seed {seed}"
    wanted = {(one.execution_id, step) for one in page.executions for step in range(1, STEPS + 1)}
    assert wanted - set(done) == set(), f"seed {seed}: effects are missing"
    assert {key: count for key, count in done.items() if count != 1} == {}, f"seed {seed}: effects were done twice"
    assert set(done) <= wanted, f"seed {seed}: effects of nobody"
    assert verification.ok, verification.findings
