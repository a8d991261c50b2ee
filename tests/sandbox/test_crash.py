"""A host killed at any moment of executions that have effects: what is taken up again ends, once, with all its effects.

`tests/crash_host.py` is the host. The moments come from a seed, which a failure names.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from gateway.journal.base import EVERYTHING
from gateway.journal.sql import SqlJournal
from runtimes.wasm.backend import WASM
from tests.conftest import require
from tests.crash_host import IN_FLIGHT, STEPS

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

WANTED = 200
"""Executions that are cut off, at the least."""

MAX_KILLS = 40
SECONDS = 60.0
"""Until a host that is not killed has ended everything."""


class Host:
    def __init__(self, url: str, effects: Path, executions: int, seed: int) -> None:
        argv = [sys.executable, "-m", "tests.crash_host", url, str(effects), str(executions), str(seed)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> str:
        said, _ = self.process.communicate(timeout=SECONDS)
        return said


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


async def test_whatever_was_cut_off_ends_with_every_effect_once(tmp_path: Path) -> None:
    if not WASM.exists():
        require("wasm", "the guest is not built")
    seed = int(os.environ.get("TOOLEXEC_CRASH_SEED", "7"))
    chance = random.Random(seed)
    url, effects = f"sqlite:///{tmp_path}/journal.db", tmp_path / "effects.db"
    make_effects(effects)
    cut_off = await kill_hosts(url, effects, chance)
    await end_all(url, effects)
    await check(url, effects, seed)
    assert cut_off >= WANTED, f"only {cut_off} executions were cut off"


async def kill_hosts(url: str, effects: Path, chance: random.Random) -> int:
    cut_off = 0
    for _ in range(MAX_KILLS):
        host = await anyio.to_thread.run_sync(Host, url, effects, IN_FLIGHT, chance.randrange(1 << 30))
        await some_effects(effects, chance)
        await anyio.to_thread.run_sync(host.kill)
        cut_off += await unfinished(url)
        if cut_off >= WANTED:
            break
    return cut_off


async def some_effects(effects: Path, chance: random.Random) -> None:
    """Until the host has got somewhere, however slow this machine is just now; where, is chance."""
    more = chance.randrange(IN_FLIGHT * STEPS // 2)
    wanted = count(effects) + more
    until = time.monotonic() + SECONDS
    while count(effects) < wanted and time.monotonic() < until:  # noqa: ASYNC110 - another process makes them
        await anyio.sleep(0.01)
    await anyio.sleep(chance.uniform(0, 0.05))


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
        host = await anyio.to_thread.run_sync(Host, url, effects, 0, 0)
        assert (await anyio.to_thread.run_sync(host.wait)) == "done\n"


async def check(url: str, effects: Path, seed: int) -> None:
    with closing(sqlite3.connect(effects)) as database:
        done = Counter(database.execute("SELECT execution, step FROM effects").fetchall())
    journal = SqlJournal(url)
    page = await journal.executions(EVERYTHING, limit=1000)
    verification = await journal.verify()
    await journal.aclose()
    assert {one.outcome for one in page.executions} == {"completed"}, f"seed {seed}"
    wanted = {(one.execution_id, step) for one in page.executions for step in range(1, STEPS + 1)}
    assert wanted - set(done) == set(), f"seed {seed}: effects are missing"
    assert {key: count for key, count in done.items() if count != 1} == {}, f"seed {seed}: effects were done twice"
    assert set(done) <= wanted, f"seed {seed}: effects of nobody"
    assert verification.ok, verification.findings
