"""SQLite: its files, its one-connection databases in memory, its clock and its second wall."""

import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest

from gateway.context import ToolContext
from gateway.errors import InvalidInput, InvalidOutput, PayloadTooLarge, ToolFailed, ToolTimeout, ToolUnavailable
from gateway.providers.sql import SqlDatabase
from gateway.providers.sql.guard import Statement
from tests.gateway.databases import call, execute, opened, query, rows

pytestmark = pytest.mark.anyio

ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) AS n FROM r"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
async def memory() -> AsyncIterator[SqlDatabase]:
    async with opened("sqlite://", read_only=False, statement_timeout_seconds=0.5) as database:
        await execute(database, "CREATE TABLE t (a, b)")
        yield database


async def test_an_in_memory_database_stays(memory: SqlDatabase) -> None:
    assert await execute(memory, "INSERT INTO t VALUES (1, :b)", b="x") == {"rows_affected": 1}
    assert await rows(memory, "SELECT * FROM t") == [{"a": 1, "b": "x"}]
    await memory.aclose()
    with pytest.raises(ToolFailed, match="no such table"):
        await rows(memory, "SELECT * FROM t")


async def test_concurrent_callers_of_an_in_memory_database_take_turns(memory: SqlDatabase) -> None:
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(lambda number: execute(memory, "INSERT INTO t VALUES (:n, 0)", n=number), number)
    assert (await rows(memory, "SELECT count(*) AS n FROM t"))[0] == {"n": 20}


async def test_a_statement_that_never_ends_is_ended(memory: SqlDatabase) -> None:
    with pytest.raises(ToolTimeout, match=r"0\.5 s"):
        await query(memory, ENDLESS)
    assert await rows(memory, "SELECT count(*) AS n FROM t") == [{"n": 0}]  # the same connection, or it would be gone


async def test_a_cancelled_statement_ends_and_the_database_stays(memory: SqlDatabase) -> None:
    async with opened("sqlite://", read_only=False) as database:
        await execute(database, "CREATE TABLE t (a)")
        with pytest.raises(ToolTimeout, match=r"0\.2 s"):
            await call(database.query_tool("q"), {"statement": ENDLESS}, timeout_seconds=0.2)
        started = time.monotonic()
        assert await rows(database, "SELECT count(*) AS n FROM t") == [{"n": 0}]
        assert time.monotonic() - started < 5  # there is one connection: it was free again


async def test_a_cancelled_write_is_undone(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'x.db'}", read_only=False) as database:
        await execute(database, "CREATE TABLE t (a)")
        endless = ENDLESS.replace("max(n) AS n", "n")
        insert = database.tool("x", f"INSERT INTO t {endless}")
        with pytest.raises(ToolTimeout):
            await call(insert, timeout_seconds=0.3)
        assert await rows(database, "SELECT count(*) AS n FROM t") == [{"n": 0}]
        assert await execute(database, "INSERT INTO t VALUES (1)") == {"rows_affected": 1}  # no lock is left


async def test_concurrent_writers_of_one_file_wait_for_each_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    async with opened(url, read_only=False, pool_size=4) as one, opened(url, read_only=False, pool_size=4) as other:
        await execute(one, "CREATE TABLE t (a)")
        async with anyio.create_task_group() as group:
            for number in range(40):
                writer = (one, other)[number % 2]
                group.start_soon(lambda writer: execute(writer, "INSERT INTO t SELECT count(*) FROM t"), writer)
        assert [row["a"] for row in await rows(one, "SELECT a FROM t ORDER BY a")] == list(range(40))


async def test_a_writer_that_never_ends_makes_others_come_back_later(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("CREATE TABLE t (a)")
    other.execute("BEGIN IMMEDIATE")
    async with opened(f"sqlite:///{file}", read_only=False) as database:
        with pytest.raises(ToolUnavailable, match="locked") as caught:
            await execute(database, "INSERT INTO t VALUES (1)")
        assert caught.value.retryable
        assert await rows(database, "SELECT a FROM t") == []  # readers do not wait
        other.execute("COMMIT")
        assert await execute(database, "INSERT INTO t VALUES (1)") == {"rows_affected": 1}
    other.close()


async def test_a_reading_database_never_makes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "none ?.db"
    async with opened(f"sqlite:///{file}") as database:
        with pytest.raises(ToolUnavailable, match="unable to open"):
            await query(database, "SELECT 1")
    assert names(tmp_path) == []


async def test_odd_file_names_are_names(tmp_path: Path) -> None:
    file = tmp_path / "a b%20#c;d&mode=rwc.db"
    url = f"sqlite:///{file}".replace("%", "%25")  # as in every URL
    async with opened(url, read_only=False) as database:
        await execute(database, "CREATE TABLE t (a)")
    assert names(tmp_path) == [file.name]


@pytest.mark.parametrize("read_only", [True, False])
async def test_the_second_wall(tmp_path: Path, *, read_only: bool) -> None:
    """Statements that the guard never saw: SQLite itself reaches no other file and no setting."""
    file = tmp_path / "x.db"
    sqlite3.connect(file).execute("CREATE TABLE t (a)").connection.close()
    hostile = [
        f"ATTACH '{tmp_path / 'other.db'}' AS y",
        "PRAGMA query_only = 0",
        "PRAGMA writable_schema = 1",
        "PRAGMA journal_mode = WAL",
        "SELECT load_extension('x')",
        "SELECT fts3_tokenizer('x')",
        f"VACUUM INTO '{tmp_path / 'copy.db'}'",
    ]
    if read_only:
        hostile += ["BEGIN", "BEGIN IMMEDIATE", "SAVEPOINT s"]  # what only reads has no transaction to leave open
    async with opened(f"sqlite:///{file}", read_only=read_only) as database:
        for text in hostile:
            with pytest.raises((ToolFailed, InvalidInput)):
                await database.execute(Statement(text, (), is_read=True), {}, ToolContext())
    assert names(tmp_path) == ["x.db"]


async def test_a_read_leaves_nothing_open_behind_it(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    with sqlite3.connect(file, timeout=0) as writer:
        writer.execute("CREATE TABLE t (a)")
        writer.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(200)])
    async with opened(f"sqlite:///{file}", max_rows=120) as database:
        for statement, count, more in (("SELECT a FROM t", 120, True), ("SELECT a FROM t WHERE a < 50", 50, False)):
            answer = await query(database, statement)
            assert (answer["row_count"], answer["truncated"]) == (count, more)
            writer.execute("DELETE FROM t WHERE a > 1000")  # a reader that held the file would be told off here
            writer.commit()
        with pytest.raises(ToolFailed, match="no such table"):
            await query(database, "SELECT a FROM missing")
        with pytest.raises(PayloadTooLarge, match="a row"):
            await query(database, "SELECT zeroblob(20000000) AS z FROM t")
        writer.execute("DROP TABLE t")
        writer.commit()
    writer.close()


async def test_a_small_read_takes_two_turns_of_the_drivers_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite3.connect(tmp_path / "a.db").close()
    async with opened(f"sqlite:///{tmp_path / 'a.db'}") as database:
        assert await rows(database, "SELECT 1 AS a") == [{"a": 1}]
        turns: list[str] = []
        execute_in_thread: Any = aiosqlite.Connection._execute

        async def counted(self: aiosqlite.Connection, function: Any, *args: Any, **more: Any) -> Any:
            turns.append(function.__name__)
            return await execute_in_thread(self, function, *args, **more)

        monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
        assert await rows(database, "SELECT 1 AS a") == [{"a": 1}]
        assert turns == ["execute", "fetchmany"]


async def test_columns_are_called_what_the_statement_calls_them(memory: SqlDatabase) -> None:
    assert await rows(memory, 'SELECT 1 AS "t.a", 2 AS "%s", 3 AS ":b"') == [{"t.a": 1, "%s": 2, ":b": 3}]
    insert = memory.tool("t:insert", 'INSERT INTO t VALUES (1, 2) RETURNING a AS "t.a"')
    assert (await call(insert))["rows"] == [{"t.a": 1}]


async def test_values_of_its_own_kinds(memory: SqlDatabase) -> None:
    (row,) = await rows(
        memory, "SELECT x'00ff' AS b, 9e999 AS inf, 1 = 1 AS yes, 9223372036854775807 AS n, NULL AS none"
    )
    assert row == {"b": "AP8=", "inf": "Infinity", "yes": 1, "n": 2**63 - 1, "none": None}
    assert await rows(memory, "SELECT typeof(:a) AS a, typeof(:b) AS b", a=True, b=1.0) == [
        {"a": "integer", "b": "real"}
    ]


async def test_bytes_go_in_as_base64(memory: SqlDatabase) -> None:
    schema = {"type": "object", "properties": {"b": {"type": "string", "contentEncoding": "base64"}}}
    tool = memory.tool("x", "SELECT length(:b) AS n, typeof(:b) AS kind, :b AS b", input_schema=schema)
    assert (await call(tool, {"b": "AP8="}))["rows"] == [{"n": 2, "kind": "blob", "b": "AP8="}]
    with pytest.raises(InvalidInput, match="not base64"):
        await call(tool, {"b": "?"})


async def test_values_that_do_not_fit(memory: SqlDatabase) -> None:
    with pytest.raises(InvalidInput, match="does not fit"):
        await rows(memory, "SELECT :n AS n", n=2**64)
    with pytest.raises(InvalidInput, match="too big"):
        await rows(memory, "SELECT length(zeroblob(1000000000)) AS n")


async def test_text_that_is_not_utf8(memory: SqlDatabase) -> None:
    with pytest.raises(InvalidOutput, match="not UTF-8"):
        await rows(memory, "SELECT CAST(x'ff' AS text) AS t")


async def test_a_full_pool_is_said_and_passes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    async with opened(
        url, read_only=False, pool_size=1, pool_wait_seconds=0.2, statement_timeout_seconds=2
    ) as database:
        failed: list[Exception] = []

        async def endless() -> None:
            try:
                await query(database, ENDLESS)
            except ToolTimeout as error:
                failed.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(endless)
            await anyio.sleep(0.3)
            with pytest.raises(ToolUnavailable, match="all of its connections are in use") as caught:
                await query(database, "SELECT 1")
            assert caught.value.retryable
        assert len(failed) == 1
        assert await rows(database, "SELECT 1 AS a") == [{"a": 1}]


async def test_cancelled_waiting_leaves_the_pool_whole(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'x.db'}", read_only=False, pool_size=2) as database:
        for seconds in (0, 0.001, 0.002, 0.005, 0.01) * 4:
            with anyio.move_on_after(seconds):
                await query(database, ENDLESS)
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(lambda: rows(database, "SELECT 1 AS a"))
