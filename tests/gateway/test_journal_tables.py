"""`verify` on the tables beside the ledger: each change in them is found, and nothing in those of a journal at work."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import anyio
import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.journal import comparing, reading
from gateway.journal.base import Finding, Mode, Retention
from gateway.journal.ledger import Verifier
from gateway.journal.signing import Keys
from gateway.journal.sql import SqlJournal
from tests.engines import Postgres, without_tables
from tests.gateway.journals import NOW, answer, call, ended, filled, raw, started, whole

pytestmark = pytest.mark.anyio

LATER = NOW + timedelta(hours=1)


@dataclass
class World:
    """A journal, and how somebody with a client of its database changes it."""

    url: str
    journal: SqlJournal
    change: Callable[[str], Awaitable[None]]

    async def findings(self) -> Sequence[Finding]:
        return (await self.journal.verify()).findings


@pytest.fixture(params=["sqlite", "postgres"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/journal.db"

        async def change(sql: str) -> None:
            with raw(tmp_path / "journal.db") as connection:
                assert connection.execute(sql).rowcount > 0
    else:
        server: Postgres = request.getfixturevalue("postgres")
        await without_tables(server)
        url = server.url

        async def change(sql: str) -> None:
            connection = await asyncpg.connect(server.url)
            assert not (await connection.execute(sql)).endswith(" 0")
            await connection.close()

    journal = SqlJournal(url)
    yield World(url, journal, change)
    await journal.aclose()


async def healthy(journal: SqlJournal) -> None:
    """All that an execution may come to: 1 to 8 of tenant acme are those of e1 and e3."""
    await filled(journal, 4)
    await journal.append(call("h", 0), answer("h", 0), call("h", 1), answer("h", 1))
    await journal.append(started("open"), call("open", 0))
    await journal.append(started("twice"), call("twice", 0), replace(ended("twice"), outcome="suspended"))
    await journal.append(
        replace(started("twice"), at=LATER, mode=Mode.RESUME, backend="docker"), call("twice", 0), ended("twice")
    )
    await journal.append(call("ended", 0), ended("ended"))
    await journal.append(call("odd", 3), call("odd", 0), replace(call("odd", 0), at=LATER))
    await journal.append(replace(call("nul", 0), tool_id="a\0b"))
    await journal.put("open", b"ahead of its record" * 2000)


EXECUTION = "UPDATE journal_executions SET"
TOOL = "UPDATE journal_records SET tool_id ="
OF = "WHERE execution_id ="
NEW = (
    "INSERT INTO journal_executions SELECT 'new', tenant_id, owner, started_at, '', '', '', 'host', '', '', NULL "
    f"FROM journal_executions {OF} 'h'"
)
HIDDEN = "mode = 'host', outcome = '', language = '', profile = '', backend = '', ended_at = NULL"
NO_USE = "that it refers to is not noted as in use"
ANOTHER_TOOL = "is filed under another tool than its own"
CHANGES = {
    "no row": (f"DELETE FROM journal_executions {OF} 'e3'", "acme", 5, "execution e3 began here and is not listed"),
    "no row of the host's": (f"DELETE FROM journal_executions {OF} 'h'", "acme", 9, "execution h began here"),
    "a start": (
        f"{EXECUTION} started_at = started_at + 1 {OF} 'e1'",
        "acme",
        0,
        "e1 is listed with another started_at",
    ),
    "a resumed one's start": (f"{EXECUTION} started_at = 5 {OF} 'twice'", "acme", 0, "twice is listed with another st"),
    "the host's start": (f"{EXECUTION} started_at = 5 {OF} 'h'", "acme", 0, "h is listed with another started_at"),
    "the host's tenant": (f"{EXECUTION} tenant_id = 'x' {OF} 'h'", "x", 0, "h is listed with another tenant_id"),
    "an end": (f"{EXECUTION} ended_at = ended_at - 1 {OF} 'e1'", "acme", 0, "e1 is listed with another ended_at"),
    "no end": (f"{EXECUTION} ended_at = NULL {OF} 'twice'", "acme", 0, "twice is listed with another ended_at"),
    "an end of an open one": (f"{EXECUTION} ended_at = 5 {OF} 'open'", "acme", 0, "open is listed with another ended"),
    "the host's outcome": (f"{EXECUTION} outcome = 'raised' {OF} 'h'", "acme", 0, "h is listed with another outcome"),
    "an open one hidden": (f"{EXECUTION} mode = 'host' {OF} 'open'", "acme", 0, "open is listed with another mode"),
    "an ended one hidden": (f"{EXECUTION} {HIDDEN} {OF} 'e1'", "acme", 0, "e1 is listed with another language"),
    "the host's that never was": (NEW, "acme", 0, "execution new is listed with another start than"),
    "a tool": (f"{TOOL} 'math:sub' WHERE tenant_id = 'acme' AND sequence = 2", "acme", 2, ANOTHER_TOOL),
    "no tool": (f"{TOOL} NULL WHERE tenant_id = 'acme' AND sequence = 2", "acme", 2, ANOTHER_TOOL),
    "a tool that nothing calls": (f"{TOOL} 'x' WHERE tenant_id = 'acme' AND sequence = 3", "acme", 3, ANOTHER_TOOL),
    "no uses at all": ("DELETE FROM journal_blob_uses", "acme", 4, NO_USE),
    "one use less": (f"DELETE FROM journal_blob_uses {OF} 'e1'", "acme", 4, NO_USE),
    "a use of other data": (f"UPDATE journal_blob_uses SET sha256 = 'x' {OF} 'e1'", "acme", 4, NO_USE),
    "a size": ("UPDATE journal_blobs SET size_bytes = 7 WHERE size_bytes = 20000", "", 0, "with 7 bytes and has 20000"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_beside_the_ledger_is_found(world: World, change: str) -> None:
    sql, tenant_id, sequence, what = CHANGES[change]
    await healthy(world.journal)
    assert await world.findings() == ()
    await world.change(sql)
    found = await world.findings()
    assert any((one.tenant_id, one.sequence) == (tenant_id, sequence) and what in one.what for one in found), found
    assert len(found) == 1 or change == "no uses at all", found


async def test_data_that_is_no_bytes_is_found(tmp_path: Path) -> None:
    journal = SqlJournal(f"sqlite:///{tmp_path}/journal.db")
    await filled(journal, 1)
    with raw(tmp_path / "journal.db") as connection:
        connection.execute("UPDATE journal_blobs SET data = 'x'")
    (finding,) = (await journal.verify()).findings
    assert "was changed" in finding.what
    await journal.aclose()


async def test_what_was_deleted_and_what_went_on_after_it_is_in_order(world: World) -> None:
    await healthy(world.journal)
    gone = await world.journal.prune(Retention(older_than=timedelta(0)))
    assert gone.executions == 7
    assert await world.findings() == ()
    await world.journal.append(replace(started("twice"), at=LATER, mode=Mode.RESUME), ended("twice"))
    await world.journal.append(call("h", 2), answer("h", 2), *whole("late", "other"))
    assert await world.findings() == ()


async def test_a_journal_at_work_is_in_order(world: World) -> None:
    await filled(world.journal, 600)
    writer = SqlJournal(world.url)
    over = False

    async def write() -> None:
        number = 0
        while not over:
            number += 1
            name, tenant_id = f"new{number}", f"t{number % 3}"
            await writer.append(started(name, tenant_id), call(name, 0, tenant_id))
            await writer.append(answer(name, 0, tenant_id), ended(name, tenant_id))
            await writer.append(replace(started(name, tenant_id), at=LATER, mode=Mode.RESUME))
            await writer.append(ended(name, tenant_id), call(f"host{number}", 0, tenant_id))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        for _ in range(8):
            found = await world.journal.verify()
            assert found.findings == ()
        over = True
    assert found.records > 2400
    await writer.aclose()


async def test_what_is_deleted_while_it_is_compared_is_no_finding(world: World) -> None:
    await healthy(world.journal)
    store, verifier = world.journal._store, Verifier()
    links, tools = zip(*await store.read(partial(reading.filed, after=("", 0))), strict=True)
    told = verifier.feed(links, tools)
    assert told.blobs
    assert {"e1", "h"} <= told.begun.keys()
    await world.journal.prune(Retention(older_than=timedelta(0)))
    await store.read(partial(comparing.check_told, verifier=verifier, told=told))
    assert verifier.end().findings == ()


# Signatures


async def signed(world: World, key: Ed25519PrivateKey, every: int = 4) -> None:
    """Chains of acme and other with 8 records each."""
    journal = SqlJournal(world.url, signing_key=key, sign_every=every)
    await filled(journal, 4)
    await journal.aclose()


async def test_a_chain_that_nothing_is_signed_of_is_found(world: World) -> None:
    key = Ed25519PrivateKey.generate()
    await signed(world, key)
    keys = Keys([key.public_key()])
    found = await world.journal.verify(keys=keys)
    assert (found.findings, found.unsigned) == ((), {"acme": 0, "other": 0})
    await world.change("DELETE FROM journal_signatures WHERE tenant_id = 'acme'")
    found = await world.journal.verify(keys=keys)
    assert found.findings == (Finding("acme", 0, "nothing of this chain is signed with a key that was given"),)
    assert found.unsigned == {"acme": 8, "other": 0}
    found = await world.journal.verify()
    assert (found.findings, found.unsigned) == ((), None)


async def test_what_came_after_the_last_signature_is_counted(world: World) -> None:
    key = Ed25519PrivateKey.generate()
    await signed(world, key)
    await world.journal.append(call("e1", 1), answer("e1", 1))
    found = await world.journal.verify(keys=Keys([key.public_key()]))
    assert (found.findings, found.unsigned) == ((), {"acme": 2, "other": 0})
    await world.change("DELETE FROM journal_signatures WHERE tenant_id = 'acme' AND sequence = 8")
    found = await world.journal.verify(keys=Keys([key.public_key()]))
    assert (found.findings, found.unsigned) == ((), {"acme": 6, "other": 0})


async def test_a_signature_of_another_chain_does_not_count(world: World) -> None:
    key = Ed25519PrivateKey.generate()
    await signed(world, key)
    await world.change("UPDATE journal_signatures SET tenant_id = 'x' WHERE tenant_id = 'acme'")
    found = await world.journal.verify(keys=Keys([key.public_key()]))
    assert Finding("acme", 0, "nothing of this chain is signed with a key that was given") in found.findings


async def test_a_chain_of_which_nothing_is_left_needs_no_signature(world: World) -> None:
    key = Ed25519PrivateKey.generate()
    await signed(world, key)
    await world.journal.prune(Retention(older_than=timedelta(0)))
    found = await world.journal.verify(keys=Keys([key.public_key()]))
    assert (found.findings, found.signatures, found.unsigned) == ((), 0, {"acme": 1, "other": 1})
    await world.journal.append(replace(started("new"), at=datetime.now(UTC)))
    found = await world.journal.verify(keys=Keys([key.public_key()]))
    assert [one.tenant_id for one in found.findings] == ["acme"]
