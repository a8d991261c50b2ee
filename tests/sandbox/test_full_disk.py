"""A journal on a disk that is really full: a small one in memory, mounted for the test. Needs root."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from gateway.errors import JournalUnavailable
from gateway.journal.base import CallStarted
from gateway.journal.sql import SqlJournal
from sandbox import AsyncExec, Outcome

pytestmark = pytest.mark.anyio

SNIPPET = "for n in range(200): tools.take(n=n, note='x' * 20_000)"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


async def test_a_full_disk_ends_the_execution_and_nothing_is_done_unrecorded(disk: Path, wasm: None) -> None:
    url = f"sqlite:///{disk}/journal.db"
    taken: list[int] = []
    async with AsyncExec(journal=url, limits={"tool_calls": 500}) as host:

        @host.tool
        def take(n: int, note: str) -> int:
            """Have an effect."""
            taken.append(n)
            return len(note)

        before = await host.execute_code("tools.take(n=-1, note='')", backend="wasm")
        with pytest.raises(JournalUnavailable, match="free space on its disk") as full:
            await host.execute_code(SNIPPET, backend="wasm")
        assert str(disk) in str(full.value)
        assert 1 < len(taken) < 200
        with pytest.raises(JournalUnavailable, match="free space on its disk"):
            await host.execute_code(SNIPPET, backend="wasm")

        await anyio.run_process(["mount", "-o", "remount,size=64m", str(disk)])
        after = await host.execute_code("tools.take(n=1000, note='')", backend="wasm")
        assert (before.outcome, after.outcome) == (Outcome.COMPLETED, Outcome.COMPLETED)
        assert sorted(await calls_started(url)) == sorted(taken)
    journal = SqlJournal(url)
    assert (await journal.verify()).ok
    await journal.aclose()


async def calls_started(url: str) -> list[int]:
    """Of every execution, in the records."""
    journal = SqlJournal(url)
    page = await journal.executions(limit=100)
    records = [record for one in page.executions for record in await journal.records(one.execution_id)]
    found = [record.arguments for record in records if isinstance(record, CallStarted)]
    numbers = [(await journal.read(arguments)).decode() for arguments in found]
    await journal.aclose()
    return [int(text.partition('"n":')[2].partition(",")[0]) for text in numbers]
