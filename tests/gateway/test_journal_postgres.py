"""Journals in PostgreSQL: many hosts at once, and a server that goes away and comes back."""

import anyio
import asyncpg
import pytest

from gateway.errors import InvalidRequest, JournalUnavailable, LeaseHeld, LeaseLost
from gateway.journal.base import CallStarted
from gateway.journal.sql import SqlJournal
from sandbox import AsyncExec
from tests.engines import PASSWORD, Postgres
from tests.gateway.journals import answer, call, ended, filled, started, whole

pytestmark = pytest.mark.anyio


async def test_hosts_share_the_chains(journal_server: Postgres) -> None:
    hosts = [SqlJournal(journal_server.url) for _ in range(3)]

    async def write(host: SqlJournal, name: str) -> None:
        for index in range(10):
            await host.append(call(name, index, tenant_id=f"t{index % 2}"))

    async with anyio.create_task_group() as tasks:
        for number, host in enumerate(hosts * 3):
            tasks.start_soon(write, host, f"e{number}")
    found = await hosts[0].verify()
    assert (found.records, found.findings) == (90, ())
    assert [head.sequence for head in found.heads] == [45, 45]
    for number in range(9):
        mine = [record.index for record in await hosts[1].records(f"e{number}") if isinstance(record, CallStarted)]
        assert sorted(mine) == [*range(10)]
    for host in hosts:
        await host.aclose()


async def test_hosts_that_begin_at_once_make_the_tables_once(journal_server: Postgres) -> None:
    hosts = [SqlJournal(journal_server.url) for _ in range(4)]
    async with anyio.create_task_group() as tasks:
        for number, host in enumerate(hosts):
            tasks.start_soon(host.append, started(f"e{number}"))
    assert len((await hosts[0].executions()).executions) == 4
    for host in hosts:
        await host.aclose()


async def test_one_of_many_hosts_takes_an_execution_over(journal_server: Postgres) -> None:
    zombie = SqlJournal(journal_server.url)
    await zombie.append(started("e"))
    await zombie._store.step(lambda rows: rows.run("UPDATE journal_leases SET expires_at = 0"))  # it slept
    hosts = [SqlJournal(journal_server.url) for _ in range(5)]
    got: list[str] = []

    async def take(host: SqlJournal) -> None:
        assert [one.execution_id for one in await host.unfinished()] in ([], ["e"])
        try:
            got.append((await host.lease("e", host.owner, 60)).owner)
        except LeaseHeld:
            return

    async with anyio.create_task_group() as tasks:
        for host in hosts:
            tasks.start_soon(take, host)
    assert len(got) == 1
    with pytest.raises(LeaseLost):
        await zombie.append(call("e", 0))
    (winner,) = [host for host in hosts if host.owner == got[0]]
    lease = await winner.lease("e", winner.owner, 60)
    await winner.append(ended("e"), lease=lease)
    assert (await winner.verify()).ok
    for host in (zombie, *hosts):
        await host.aclose()


async def test_a_server_that_restarts_between_two_calls_is_not_noticed(journal_server: Postgres) -> None:
    journal = SqlJournal(journal_server.url)
    await journal.append(started("e"))
    journal_server.restart()
    await journal.append(call("e", 0))
    assert len(await journal.records("e")) == 2
    await journal.aclose()


async def test_a_server_that_is_gone_is_said_and_nothing_is_lost(journal_server: Postgres) -> None:
    journal = SqlJournal(journal_server.url, wait_seconds=5)
    kept: list[int] = []
    refused: dict[int, JournalUnavailable] = {}

    async def write(index: int) -> None:
        try:
            await journal.append(call("e", index))
            kept.append(index)
        except JournalUnavailable as error:
            refused[index] = error

    await write(0)
    async with anyio.create_task_group() as tasks:
        for index in range(1, 50):
            tasks.start_soon(write, index)
        await anyio.lowlevel.checkpoint()
        journal_server.stop()
    await write(50)
    with pytest.raises(JournalUnavailable):
        await journal.records("e")
    assert 50 in refused
    assert all(error.retryable and PASSWORD not in str(error) for error in refused.values())
    journal_server.start()
    await write(51)
    found = {record.index for record in await journal.records("e") if isinstance(record, CallStarted)}
    assert {0, 51} <= {*kept} <= found
    assert (await journal.verify()).ok
    await journal.aclose()


async def test_no_tool_is_called_while_the_server_is_gone(journal_server: Postgres) -> None:
    called: list[int] = []
    async with AsyncExec(journal=journal_server.url) as host:

        @host.tool
        def add(a: int) -> int:
            """Add."""
            called.append(a)
            return a

        assert await host.run_tool("add", {"a": 1}) == 1
        journal_server.stop()
        with pytest.raises(JournalUnavailable):
            await host.run_tool("add", {"a": 2})
        journal_server.start()
        assert await host.run_tool("add", {"a": 3}) == 3
    assert called == [1, 3]


async def test_what_fails_is_said_by_a_server_without_our_tables(journal_server: Postgres) -> None:
    journal = SqlJournal(journal_server.url)
    await journal.append(*whole("e"))
    connection = await asyncpg.connect(journal_server.url)
    await connection.execute("UPDATE journal_schema SET version = 3")
    await connection.close()
    other = SqlJournal(journal_server.url)
    with pytest.raises(InvalidRequest, match="upgrade"):
        await other.append(answer("e", 1))
    await other.aclose()
    await journal.aclose()


async def test_a_change_on_the_server_is_found(journal_server: Postgres) -> None:
    journal = SqlJournal(journal_server.url)
    await filled(journal, 4)
    connection = await asyncpg.connect(journal_server.url)
    await connection.execute("UPDATE journal_records SET content = '{}' WHERE tenant_id = 'acme' AND sequence = 3")
    await connection.close()
    (finding,) = (await journal.verify()).findings
    assert (finding.tenant_id, finding.sequence) == ("acme", 3)
    await journal.aclose()


async def test_ids_that_postgres_cannot_keep(journal_server: Postgres) -> None:
    journal = SqlJournal(journal_server.url)
    with pytest.raises(InvalidRequest, match="NUL"):
        await journal.append(started("e", "a\0b"))
    await journal.append(call("e", 0))
    assert len(await journal.records("e")) == 1
    await journal.aclose()


async def test_a_wrong_password_is_said_without_it(journal_server: Postgres) -> None:
    url = journal_server.url.replace(PASSWORD, "another-secret")
    journal = SqlJournal(url)
    with pytest.raises(JournalUnavailable) as caught:
        await journal.append(started("e"))
    assert "another-secret" not in f"{caught.value} {journal!r}"
    await journal.aclose()
