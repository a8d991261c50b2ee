"""MariaDB, and by it MySQL: its clock, cancellation as the server sees it, TLS, restarts, and its vendor's escapes."""

import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.context import ToolContext
from gateway.errors import InvalidInput, PayloadTooLarge, SandboxError, ToolFailed, ToolTimeout, ToolUnavailable
from gateway.providers.sql import SqlDatabase
from gateway.providers.sql.guard import Statement
from tests.engines import PASSWORD, MariaDB
from tests.gateway.databases import call, execute, needs_asyncmy, opened, query, rows

pytestmark = pytest.mark.anyio

SLEEP = frozenset({"sleep"})


@pytest.fixture(params=["aiomysql", "asyncmy"])
def url(request: pytest.FixtureRequest, mariadb: MariaDB) -> str:
    if request.param == "asyncmy":
        needs_asyncmy()
    return mariadb.url.replace("mysql://", f"mysql+{request.param}://")


@pytest.fixture
async def writer(url: str) -> AsyncIterator[SqlDatabase]:
    async with opened(url, read_only=False) as database:
        yield database


async def sleeping(database: SqlDatabase) -> int:
    statement = "SELECT count(*) AS n FROM information_schema.processlist WHERE info LIKE '%sleep(30)%' AND id <> {}"
    (row,) = await rows(database, statement.format("0 AND info NOT LIKE '%processlist%'"))
    return int(str(row["n"]))


async def test_types_of_its_own(writer: SqlDatabase) -> None:
    await execute(
        writer,
        "CREATE TABLE kinds"
        " (d date, dt datetime(3), t time, y year, b blob, bits bit(3), s set('a','b'), j json, n double)",
    )
    try:
        await execute(
            writer,
            "INSERT INTO kinds VALUES"
            " ('2024-01-31', '2024-01-31 12:00:00.5', '-30:05:00', 2024, x'00ff', b'101', 'a,b', :j, 1e300)",
            j='{"a": ["😀"]}',
        )
        (row,) = await rows(writer, "SELECT * FROM kinds")
    finally:
        await execute(writer, "DROP TABLE kinds")
    assert row.pop("s") in ("a,b", ["a", "b"])
    assert row == {
        "d": "2024-01-31",
        "dt": "2024-01-31T12:00:00.500000",
        "t": "-30:05:00",
        "y": 2024,
        "b": "AP8=",
        "bits": "BQ==",
        "j": '{"a": ["😀"]}',
        "n": 1e300,
    }


async def test_the_server_ends_slow_statements_by_its_own_clock(url: str) -> None:
    statement = "SELECT count(*) AS n FROM " + ", ".join(f"information_schema.columns c{i}" for i in range(4))
    async with opened(url, statement_timeout_seconds=0.5) as database:
        with pytest.raises(ToolTimeout, match=r"0\.5 s"):
            await query(database, statement)
        assert await rows(database, "SELECT 1 AS a") == [{"a": 1}]


async def test_the_rows_that_are_not_wanted_are_not_waited_for(url: str) -> None:
    statement = "SELECT seq FROM seq_1_to_2000000000 LIMIT 2000000000"
    async with opened(url, max_rows=10, statement_timeout_seconds=5) as database:
        assert (await query(database, statement))["truncated"] is True
        assert await rows(database, "SELECT 1 AS a") == [{"a": 1}]
        with pytest.raises(PayloadTooLarge, match="a row"):
            await query(database, statement.replace("seq", "repeat('x', 5000000) AS s", 1))
        assert await rows(database, "SELECT 1 AS a") == [{"a": 1}]


async def test_a_cancelled_statement_ends_on_the_server(url: str, writer: SqlDatabase) -> None:
    async with opened(url, functions=SLEEP) as database:
        with anyio.move_on_after(0.5) as scope:
            await query(database, "SELECT sleep(30) AS s")
        assert scope.cancelled_caught
        assert await sleeping(writer) == 0
        assert await rows(database, "SELECT 1 AS a") == [{"a": 1}]
        with pytest.raises(ToolTimeout, match=r"0\.3 s"):
            await call(database.query_tool("q"), {"statement": "SELECT sleep(30) AS s"}, timeout_seconds=0.3)
        assert await sleeping(writer) == 0


async def test_a_cancelled_write_is_undone(writer: SqlDatabase) -> None:
    await execute(writer, "CREATE TABLE cancelled (a int) ENGINE=InnoDB")
    try:
        tool = writer.tool("x", "INSERT INTO cancelled SELECT 1 UNION SELECT sleep(30)")
        with pytest.raises(ToolTimeout):
            await call(tool, timeout_seconds=0.5)
        assert await rows(writer, "SELECT * FROM cancelled") == []
    finally:
        await execute(writer, "DROP TABLE cancelled")


async def test_the_second_wall(url: str, writer: SqlDatabase) -> None:
    """Statements that the guard never saw."""
    await execute(writer, "CREATE TABLE wall (a int) ENGINE=InnoDB")
    try:
        async with opened(url) as database:
            for text in (
                "INSERT INTO wall VALUES (1)",
                "DROP TABLE wall",
                "CREATE TABLE wall_2 (a int)",
                "TRUNCATE TABLE wall",
                "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE wall",
            ):
                with pytest.raises((ToolFailed, InvalidInput, ToolUnavailable)):
                    await database.execute(Statement(text, (), is_read=True), {}, ToolContext())
        assert await rows(writer, "SELECT * FROM wall") == []
    finally:
        await execute(writer, "DROP TABLE wall")


async def test_one_call_is_one_statement(mariadb: MariaDB) -> None:
    async with opened(mariadb.url, read_only=False) as database:
        with pytest.raises(ToolFailed, match="syntax"):
            await database.execute(Statement("SELECT 1; SELECT 2", (), is_read=False), {}, ToolContext())


async def test_quotes_mean_what_the_guard_takes_them_for(mariadb: MariaDB, writer: SqlDatabase) -> None:
    """Whatever the server's own mode is: under ANSI_QUOTES or NO_BACKSLASH_ESCAPES the text would end elsewhere."""
    await execute(writer, "SET GLOBAL sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES'")
    try:
        async with opened(mariadb.url) as database:
            (row,) = await rows(database, "SELECT \"a\" AS a, 'it\\'s -- \\\\' AS b, :c AS c", c="\\'")
            assert row == {"a": "a", "b": "it's -- \\", "c": "\\'"}
    finally:
        await execute(writer, "SET GLOBAL sql_mode = DEFAULT")


async def test_a_restart_is_one_clear_error_and_then_all_is_well(url: str, mariadb: MariaDB) -> None:
    async with opened(url, pool_size=3, functions=SLEEP) as database:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(lambda: query(database, "SELECT sleep(0.2) AS s"))
        mariadb.restart()
        with pytest.raises(ToolUnavailable, match="try again later"):
            await rows(database, "SELECT 1 AS a")
        for _ in range(3):
            assert await rows(database, "SELECT 1 AS a") == [{"a": 1}]


async def test_a_server_that_goes_away_under_a_statement(url: str, mariadb: MariaDB) -> None:
    async with opened(url, functions=SLEEP) as database:
        failed: list[SandboxError] = []

        async def slow() -> None:
            try:
                await query(database, "SELECT sleep(30) AS s")
            except SandboxError as error:
                failed.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(slow)
            await anyio.sleep(0.5)
            mariadb.stop()
        assert [type(error) for error in failed] == [ToolUnavailable]
        with pytest.raises(ToolUnavailable):
            await database.health()
        mariadb.start()
        await database.health()


async def test_a_wrong_password_is_final_and_not_shown(url: str) -> None:
    async with opened(url.replace(PASSWORD, "wrong-secret")) as database:
        with pytest.raises(ToolFailed, match="Access denied") as caught:
            await database.health()
        assert "wrong-secret" not in str(caught.value)
        assert caught.value.details["mysql_error"] == "1045"
    async with opened(url.replace(f":{PASSWORD}", ""), password=lambda: PASSWORD) as database:
        await database.health()


async def test_tls_is_verified(mariadb: MariaDB) -> None:
    statement = "SELECT variable_value <> '' AS tls FROM information_schema.session_status WHERE variable_name = :name"
    cases: list[tuple[str, Path | None, int]] = [("off", None, 0), ("encrypt", None, 1), ("verify", mariadb.ca_file, 1)]
    for tls, ca_file, expected in cases:
        async with opened(mariadb.url, tls=tls, ca_file=ca_file) as database:
            assert await rows(database, statement, name="Ssl_cipher") == [{"tls": expected}]
    async with opened(mariadb.url, tls="verify") as database:
        with pytest.raises((ToolFailed, ToolUnavailable), match="certificate"):
            await database.health()


async def test_no_tls_on_the_other_side_is_no_connection() -> None:
    """A server, or who sits before it, that offers no TLS must not get to hear a user or password."""
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(greeting_without_tls())
                connection.settimeout(5)
                heard.extend(connection.recv(1000))

        url = f"mysql://u:secret@127.0.0.1:{listener.getsockname()[1]}/d"
        async with opened(url, tls="encrypt") as database, anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, refuse)
            with pytest.raises((ToolUnavailable, ToolFailed), match="offers no TLS"):
                await database.health()
    assert heard == b""


def greeting_without_tls() -> bytes:
    capabilities = 0x00000001 | 0x00000200 | 0x00008000 | 0x00080000  # and not CLIENT_SSL, 0x800
    salt = b"12345678"
    body = b"\x0a" + b"10.11.0-MariaDB\x00" + struct.pack("<I", 1) + salt + b"\x00"
    body += struct.pack("<HBHHB", capabilities & 0xFFFF, 45, 2, capabilities >> 16, 21) + b"\x00" * 10
    body += b"123456789012\x00" + b"mysql_native_password\x00"
    return struct.pack("<I", len(body))[:3] + b"\x00" + body


async def test_a_server_that_never_greets(mariadb: MariaDB) -> None:
    del mariadb
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with opened(f"mysql://u@127.0.0.1:{listener.getsockname()[1]}/d") as database:
            with pytest.raises(ToolTimeout):
                await call(database.query_tool("q"), {"statement": "SELECT 1"}, timeout_seconds=0.5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from("ab'\"\\%_:;-#/*\n `😀"), max_size=12))
def test_any_text_is_bound_as_it_is(mariadb: MariaDB, text: str) -> None:
    async def bound() -> list[dict[str, object]]:
        async with opened(mariadb.url) as database:
            return await rows(database, "SELECT CAST(:v AS char) AS v", v=text)

    assert anyio.run(bound) == [{"v": text}]
