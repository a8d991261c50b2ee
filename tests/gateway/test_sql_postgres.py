"""PostgreSQL: types, clocks, cancellation as the server sees it, TLS, restarts."""

import resource
import socket
from collections.abc import AsyncIterator

import anyio
import pytest

from gateway.context import ToolContext
from gateway.errors import InvalidInput, PayloadTooLarge, SandboxError, ToolFailed, ToolTimeout, ToolUnavailable
from gateway.providers.sql import SqlDatabase
from gateway.providers.sql.guard import Statement
from gateway.providers.sql.target import Tls
from sandbox import Exec
from tests.engines import PASSWORD, Postgres
from tests.gateway.databases import call, execute, opened, query, rows

pytestmark = pytest.mark.anyio

SLEEP = frozenset({"pg_sleep"})


@pytest.fixture
async def reader(postgres: Postgres) -> AsyncIterator[SqlDatabase]:
    async with opened(postgres.url, functions=SLEEP, statement_timeout_seconds=2) as database:
        yield database


@pytest.fixture
async def writer(postgres: Postgres) -> AsyncIterator[SqlDatabase]:
    async with opened(postgres.url, read_only=False) as database:
        yield database


async def at_work(database: SqlDatabase) -> list[object]:
    statement = "SELECT query FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%' AND pid <> %s"
    found = await rows(database, statement.replace("%s", "0") + " AND query NOT LIKE '%pg_stat_activity%'")
    return [row["query"] for row in found]


async def test_types_of_its_own(reader: SqlDatabase) -> None:
    (row,) = await rows(
        reader,
        """
        SELECT date '2024-01-31' AS d, timestamp '2024-01-31 12:00' AS ts, timestamptz '2024-01-31 12:00+02' AS tstz,
               timestamptz '2024-01-31 12:00:00.5+05:30' AT TIME ZONE 'UTC' AS half, 'infinity'::timestamp AS forever,
               time '12:30' AS t, interval '1 day 2 hours' AS i, 19.99::numeric AS n, 'NaN'::numeric AS nan,
               '-infinity'::float8 AS inf, '7f0c0001-0000-0000-0000-000000000000'::uuid AS u,
               '{"a": [1.5, null]}'::jsonb AS j, '[1]'::json AS j2, ARRAY[1, NULL, 3] AS a,
               ARRAY[date '2024-01-31'] AS ad, ARRAY[[1], [2]] AS aa,
               int4range(1, 5) AS r, '10.0.0.0/8'::inet AS ip, B'101' AS bits, ROW(1, 'x') AS composite,
               decode('00ff', 'hex') AS b, 9223372036854775807 AS big, point(1, 2) AS p, 'a'::"char" AS c
        """,
    )
    assert row.pop("tstz") == "2024-01-31T10:00:00+00:00"
    assert row == {
        "d": "2024-01-31",
        "ts": "2024-01-31T12:00:00",
        "half": "2024-01-31T06:30:00.5",
        "forever": "infinity",
        "t": "12:30:00",
        "i": "P1DT2H",
        "n": 19.99,
        "nan": "NaN",
        "inf": "-Infinity",
        "u": "7f0c0001-0000-0000-0000-000000000000",
        "j": {"a": [1.5, None]},
        "j2": [1],
        "a": [1, None, 3],
        "ad": ["2024-01-31"],
        "aa": [[1], [2]],
        "r": row["r"],
        "ip": "10.0.0.0/8",
        "bits": row["bits"],
        "composite": row["composite"],
        "b": "AP8=",
        "big": 2**63 - 1,
        "p": [1, 2],
        "c": row["c"],
    }


async def test_json_arguments_become_what_the_server_asks_for(reader: SqlDatabase) -> None:
    statement = """
        SELECT CAST(:d AS date) + 1 AS d, CAST(:ts AS timestamptz) AS ts, CAST(:u AS uuid) AS u,
               CAST(:n AS numeric) AS n, CAST(:j AS jsonb) -> 'a' AS j, CAST(:i AS interval) AS i,
               3 = ANY(CAST(:a AS int[])) AS found
    """
    arguments = {"d": "2024-02-28", "ts": "2024-01-31T12:00:00Z", "u": "7f0c0001-0000-0000-0000-000000000000"}
    (row,) = await rows(reader, statement, **arguments, n=1.5, j={"a": ["ä"]}, i="P1D", a=[1, 3])
    assert row == {
        "d": "2024-02-29",
        "ts": "2024-01-31T12:00:00+00:00",
        "u": arguments["u"],
        "n": 1.5,
        "j": ["ä"],
        "i": "P1D",
        "found": True,
    }
    for misfit in ({"d": "2024-02-31"}, {"d": "someday"}, {"d": 5}):
        with pytest.raises(InvalidInput, match="does not fit"):
            await rows(reader, "SELECT CAST(:d AS date) AS d", **misfit)
    for value in ("one", 2**40):
        with pytest.raises(InvalidInput, match="does not fit"):
            await rows(reader, "SELECT CAST(:n AS int) + 1 AS n", n=value)
    with pytest.raises(InvalidInput, match="does not fit"):
        await rows(reader, "SELECT CAST(:t AS text) AS t", t="a\x00b")


@pytest.mark.parametrize("tls", ["off", "encrypt"])
async def test_a_value_of_any_size_cannot_fill_the_hosts_memory(postgres: Postgres, tls: Tls) -> None:
    async with opened(postgres.url, read_only=False, tls=tls) as database:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        many = "SELECT repeat('x', 10000000) AS x FROM generate_series(1, 50)"
        for statement in ("SELECT repeat('x', 200000000) AS x", many):
            with pytest.raises(PayloadTooLarge):
                await query(database, statement)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000  # KiB
        assert await rows(database, "SELECT length(repeat('x', 100000000)) AS n") == [{"n": 100_000_000}]


@pytest.mark.parametrize("tls", ["off", "encrypt"])
def test_the_same_in_the_loop_that_an_exec_uses(postgres: Postgres, tls: Tls) -> None:
    with Exec() as exec:
        exec.register(SqlDatabase(postgres.url, tls=tls).query_tool("db:query"))
        assert exec.run_tool("db:query", {"statement": "SELECT 1 AS a"})["rows"] == [{"a": 1}]
        with pytest.raises(PayloadTooLarge):
            exec.run_tool("db:query", {"statement": "SELECT repeat('x', 100000000) AS x"})
        assert exec.run_tool("db:query", {"statement": "SELECT 2 AS a"})["rows"] == [{"a": 2}]


async def test_the_server_ends_slow_statements_by_its_own_clock(postgres: Postgres) -> None:
    async with opened(postgres.url, functions=SLEEP, statement_timeout_seconds=0.3) as database:
        with pytest.raises(ToolTimeout, match=r"0\.3 s"):
            await query(database, "SELECT pg_sleep(30)")
        assert await rows(database, "SELECT 1 AS a") == [{"a": 1}]


async def test_a_cancelled_statement_ends_on_the_server(reader: SqlDatabase, writer: SqlDatabase) -> None:
    async with opened(str(writer._target.url.render_as_string(hide_password=False)), functions=SLEEP) as database:
        with pytest.raises(ToolTimeout, match=r"0\.3 s"):
            await call(database.query_tool("q"), {"statement": "SELECT pg_sleep(30)"}, timeout_seconds=0.3)
        assert await at_work(reader) == []
        (before,) = await rows(database, "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = ''")
        assert await rows(database, "SELECT 1 AS a") == [{"a": 1}]
        assert before


async def test_a_cancelled_caller_sees_its_cancellation(reader: SqlDatabase) -> None:
    with anyio.move_on_after(0.2) as scope:
        await query(reader, "SELECT pg_sleep(30)")
    assert scope.cancelled_caught
    assert await at_work(reader) == []


async def test_a_cancelled_write_is_undone(writer: SqlDatabase) -> None:
    await execute(writer, "CREATE TABLE cancelled (a int)")
    try:
        tool = writer.tool("x", "INSERT INTO cancelled SELECT 1 FROM pg_sleep(30)")
        with pytest.raises(ToolTimeout):
            await call(tool, timeout_seconds=0.3)
        assert await rows(writer, "SELECT * FROM cancelled") == []
    finally:
        await execute(writer, "DROP TABLE cancelled")


async def test_the_second_wall(postgres: Postgres) -> None:
    """Statements that the guard never saw: each runs in a transaction that cannot write, nor be made to."""
    hostile = [
        "SELECT set_config('transaction_read_only', 'off', false), lo_create(0)",
        "SET TRANSACTION READ WRITE",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT nextval('wall_seq')",
        "SELECT 1; SELECT 2",
        "DO $$ BEGIN CREATE TABLE wall (a int); END $$",
    ]
    async with opened(postgres.url) as database, opened(postgres.url, read_only=False) as writer:
        await execute(writer, "CREATE SEQUENCE wall_seq")
        try:
            for text in hostile[:1] + hostile[3:]:
                with pytest.raises((ToolFailed, InvalidInput)):
                    await database.execute(Statement(text.replace(":", "\\:"), (), is_read=True), {}, ToolContext())
        finally:
            await execute(writer, "DROP SEQUENCE wall_seq")


async def test_what_is_taken_for_reading_cannot_write_even_where_writing_is_allowed(writer: SqlDatabase) -> None:
    with pytest.raises(ToolFailed, match="read-only transaction"):
        await writer.execute(Statement("CREATE TABLE wall (a int)", (), is_read=True), {}, ToolContext())


async def test_a_lock_that_is_held_makes_the_caller_wait_or_time_out(postgres: Postgres, writer: SqlDatabase) -> None:
    await execute(writer, "CREATE TABLE locked (a int)")
    try:
        await execute(writer, "INSERT INTO locked VALUES (0)")
        options = {"read_only": False, "statement_timeout_seconds": 0.3}
        async with opened(postgres.url, **options) as database, anyio.create_task_group() as group:
            group.start_soon(
                call, writer.tool("x", "WITH s AS (UPDATE locked SET a = 1 RETURNING a) SELECT pg_sleep(1) FROM s")
            )
            await anyio.sleep(0.3)
            with pytest.raises(ToolTimeout):
                await execute(database, "UPDATE locked SET a = 2")
    finally:
        await execute(writer, "DROP TABLE locked")


async def test_a_table_that_changes_under_a_prepared_statement(reader: SqlDatabase, writer: SqlDatabase) -> None:
    await execute(writer, "CREATE TABLE changing AS SELECT 1 AS a")
    try:
        assert await rows(reader, "SELECT * FROM changing") == [{"a": 1}]
        await execute(writer, "ALTER TABLE changing ALTER COLUMN a TYPE text, ADD COLUMN b integer")
        assert await rows(reader, "SELECT * FROM changing") == [{"a": "1", "b": None}]
    finally:
        await execute(writer, "DROP TABLE changing")


async def test_a_connection_keeps_so_many_statements_prepared(postgres: Postgres) -> None:
    async with opened(postgres.url, pool_size=1) as database:
        for number in range(130):
            assert await rows(database, f"SELECT {number} AS n, 1 AS one") == [{"n": number, "one": 1}]
        (found,) = await rows(database, "SELECT count(*) AS n FROM pg_prepared_statements")
    assert 90 <= int(str(found["n"])) <= 105


async def test_a_restart_is_one_clear_error_and_then_all_is_well(postgres: Postgres) -> None:
    async with opened(postgres.url, pool_size=3, functions=SLEEP) as database:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(lambda: query(database, "SELECT pg_sleep(0.2)"))
        postgres.restart()
        with pytest.raises(ToolUnavailable, match="try again later") as caught:
            await rows(database, "SELECT 1 AS a")
        assert caught.value.retryable
        for _ in range(3):
            assert await rows(database, "SELECT 1 AS a") == [{"a": 1}]


async def test_a_server_that_goes_away_under_a_statement(postgres: Postgres) -> None:
    async with opened(postgres.url, functions=SLEEP) as database:
        failed: list[SandboxError] = []

        async def slow() -> None:
            try:
                await query(database, "SELECT pg_sleep(30)")
            except SandboxError as error:
                failed.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(slow)
            await anyio.sleep(0.3)
            postgres.stop()
        assert [type(error) for error in failed] == [ToolUnavailable]
        with pytest.raises(ToolUnavailable):  # nobody listens
            await database.health()
        postgres.start()
        await database.health()


async def test_one_broken_connection_tells_of_the_others(postgres: Postgres) -> None:
    async with opened(postgres.url, pool_size=3, functions=SLEEP) as database:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(lambda: query(database, "SELECT pg_sleep(0.2)"))
        failed: list[SandboxError] = []

        async def slow() -> None:
            try:
                await query(database, "SELECT pg_sleep(30)")
            except SandboxError as error:
                failed.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(slow)
            await anyio.sleep(0.3)
            postgres.restart()
        assert [type(error) for error in failed] == [ToolUnavailable]
        for _ in range(3):
            await database.health()


async def test_a_wrong_password_is_final_and_not_shown(postgres: Postgres) -> None:
    wrong = postgres.url.replace(PASSWORD, "wrong-secret")
    async with opened(wrong) as database:
        with pytest.raises(ToolFailed, match="password authentication failed") as caught:
            await database.health()
        assert "wrong-secret" not in str(caught.value)
        assert caught.value.details["sqlstate"] == "28P01"
        assert not caught.value.retryable


async def test_the_password_is_asked_for_when_it_is_needed(postgres: Postgres) -> None:
    url = postgres.url.replace(f":{PASSWORD}", "")
    current = ["wrong"]
    async with opened(url, password=lambda: current[0]) as database:
        with pytest.raises(ToolFailed):
            await database.health()
        current[0] = PASSWORD
        await database.health()


async def test_tls_is_verified(postgres: Postgres) -> None:
    encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    options = {"functions": {"pg_backend_pid"}}
    for tls, ca_file, expected in (("off", None, False), ("encrypt", None, True), ("verify", postgres.ca_file, True)):
        async with opened(postgres.url, tls=tls, ca_file=ca_file, **options) as database:
            assert await rows(database, encrypted) == [{"ssl": expected}]
    async with opened(postgres.url, tls="verify") as database:
        with pytest.raises(ToolFailed, match="certificate"):
            await database.health()


async def test_no_tls_on_the_other_side_is_no_connection() -> None:
    """A server, or who sits before it, that says N to TLS must not get to hear a user or password."""
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(8)
                connection.sendall(b"N")
                connection.settimeout(5)
                heard.extend(connection.recv(1000))

        url = f"postgresql://u:secret@127.0.0.1:{listener.getsockname()[1]}/d"
        async with opened(url, tls="encrypt") as database, anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, refuse)
            with pytest.raises((ToolUnavailable, ToolFailed)):
                await database.health()
    assert heard == b""


async def test_an_unknown_database_and_server(postgres: Postgres) -> None:
    async with opened(postgres.url.removesuffix("toolexec") + "none") as database:
        with pytest.raises(ToolFailed, match="does not exist"):
            await database.health()
    async with opened("postgresql://u:secret@127.0.0.1:1/d") as database:
        with pytest.raises(ToolUnavailable, match=r"127\.0\.0\.1:1") as caught:
            await database.health()
        assert "secret" not in str(caught.value)


async def test_too_many_connections_pass(postgres: Postgres) -> None:
    async with opened(postgres.url, pool_size=60, functions=SLEEP) as database:
        refused: list[SandboxError] = []

        async def one() -> None:
            try:
                await query(database, "SELECT pg_sleep(0.5)")
            except ToolUnavailable as error:
                refused.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(one)
        assert 1 <= len(refused) < 60
        await database.health()
