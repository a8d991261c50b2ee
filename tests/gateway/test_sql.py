"""What SQL tools promise on every kind of database."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.context import ToolContext
from gateway.errors import InvalidInput, InvalidRequest, PayloadTooLarge, ToolFailed, ToolUnavailable
from gateway.providers.sql import MAX_STATEMENT_CHARS, SqlDatabase
from gateway.providers.sql.guard import Statement
from tests.gateway.databases import call, execute, needs_asyncmy, opened, query, rows

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite", "postgres", "mariadb", "asyncmy"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shop.db'}"
    if request.param == "asyncmy":
        needs_asyncmy()
        return str(request.getfixturevalue("mariadb").url).replace("mysql://", "mysql+asyncmy://")
    return str(request.getfixturevalue(request.param).url)


@pytest.fixture
async def writer(url: str) -> AsyncIterator[SqlDatabase]:
    async with opened(url, read_only=False) as database:
        yield database


@pytest.fixture
async def table(writer: SqlDatabase) -> AsyncIterator[str]:
    name = f"t_{uuid.uuid4().hex[:8]}"
    await execute(
        writer, f"CREATE TABLE {name} (id integer PRIMARY KEY, name varchar(50) NOT NULL, price numeric(30,3))"
    )
    await execute(writer, f"INSERT INTO {name} VALUES (1, 'apple', 1.5), (2, 'pear', 20), (3, 'fig', NULL)")
    yield name
    await execute(writer, f"DROP TABLE {name}")


@pytest.fixture
async def reader(url: str, table: str) -> AsyncIterator[SqlDatabase]:
    async with opened(url) as database:
        yield database


async def test_a_fixed_statement_binds_its_arguments_by_name(reader: SqlDatabase, table: str) -> None:
    tool = reader.tool("shop:cheap", f"SELECT id, name FROM {table} WHERE price < :most ORDER BY id LIMIT :n")
    answer = await call(tool, {"most": 5, "n": 10})
    assert answer == {
        "columns": ["id", "name"],
        "rows": [{"id": 1, "name": "apple"}],
        "row_count": 1,
        "truncated": False,
    }
    assert tool.input_schema["required"] == ["most", "n"]
    assert tool.input_schema["properties"]["n"] == {"type": "integer"}
    assert (tool.read_only, tool.open_world) == (True, False)
    with pytest.raises(InvalidInput, match="most"):
        await call(tool, {"n": 1})
    with pytest.raises(InvalidInput, match="unexpected"):
        await call(tool, {"most": 1, "n": 1, "x": 1})


async def test_values_are_never_part_of_the_statement(reader: SqlDatabase, table: str) -> None:
    for hostile in ("' OR 1=1 --", "\\' OR 1=1 #", "'; DROP TABLE x; --", "%s :id {x}", "'\\\\' OR 'a'='a"):
        assert await rows(reader, f"SELECT id FROM {table} WHERE name = :name", name=hostile) == []
        (row,) = await rows(reader, "SELECT CAST(:v AS char(40)) AS v", v=hostile)
        assert str(row["v"]).rstrip() == hostile  # PostgreSQL pads a char
    assert len(await rows(reader, f"SELECT id FROM {table}")) == 3


async def test_lists_fill_an_in(reader: SqlDatabase, table: str) -> None:
    statement = f"SELECT id FROM {table} WHERE id IN :ids ORDER BY id"
    assert await rows(reader, statement, ids=[3, 1, 99]) == [{"id": 1}, {"id": 3}]
    assert await rows(reader, statement, ids=[]) == []
    tool = reader.tool("shop:some", statement)
    assert (await call(tool, {"ids": [2]}))["rows"] == [{"id": 2}]
    with pytest.raises(InvalidInput, match="array"):
        await call(tool, {"ids": 2})
    for value in ("13", 1, None, {"a": 1}):
        with pytest.raises(InvalidInput, match="give it a list"):
            await rows(reader, statement, ids=value)
    names = f"SELECT id FROM {table} WHERE name IN :names"
    if "postgres" not in reader.query_tool("q").description:
        assert await rows(reader, names, names=["fig", {"') OR 1=1 --": 1}, ["') OR 1=1 --"]]) == [{"id": 3}]


async def test_an_argument_that_is_left_out_is_null(reader: SqlDatabase, table: str) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    statement = f"SELECT id FROM {table} WHERE name = COALESCE(CAST(:name AS char(5)), 'pear')"
    tool = reader.tool("shop:default", statement, input_schema=schema)
    assert (await call(tool))["rows"] == [{"id": 2}]


async def test_schema_and_statement_must_name_the_same(reader: SqlDatabase) -> None:
    for names in ((), ("a", "b")):
        with pytest.raises(InvalidRequest, match="differ in"):
            reader.tool("x", "SELECT :a", input_schema={"type": "object", "properties": dict.fromkeys(names, True)})


async def test_columns_of_the_same_name_are_kept(reader: SqlDatabase, table: str) -> None:
    answer = await query(
        reader, f"SELECT a.id, b.id, b.name FROM {table} a JOIN {table} b ON b.id = a.id + 1 ORDER BY 1"
    )
    assert answer["columns"] == ["id", "id_2", "name"]
    assert answer["rows"][0] == {"id": 1, "id_2": 2, "name": "pear"}


async def test_columns_are_told_when_there_are_no_rows(reader: SqlDatabase, table: str) -> None:
    answer = await query(reader, f"SELECT id, name FROM {table} WHERE 1 = 0")
    assert answer == {"columns": ["id", "name"], "rows": [], "row_count": 0, "truncated": False}


@pytest.mark.parametrize("limit", ["", " LIMIT 100000"])
async def test_rows_are_capped_and_it_is_said(url: str, table: str, limit: str) -> None:
    statement = f"SELECT a.id FROM {table} a, {table} b, {table} c, {table} d{limit}"
    for most, count, truncated in ((80, 80, True), (81, 81, False), (2, 2, True), (1000, 81, False)):
        async with opened(url, max_rows=most) as database:
            answer = await query(database, statement)
            assert (answer["row_count"], len(answer["rows"]), answer["truncated"]) == (count, count, truncated)
            assert await rows(database, "SELECT 1 AS one") == [{"one": 1}]  # the connection, or a new one, is fine


async def test_large_answers_are_cut_before_they_are_too_large(
    reader: SqlDatabase, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = "x" * 900_000
    statement = f"SELECT CAST(:text AS char(900000)) AS v FROM {table}"
    many = f"{statement} a CROSS JOIN {table} b"
    answer = await query(reader, many, text=text)
    assert answer["truncated"] is True
    assert caplog.records == []  # what its connection is worth is no business of the operator's
    assert 1 <= answer["row_count"] <= 4


async def test_a_row_that_is_too_large_is_an_error(reader: SqlDatabase) -> None:
    columns = ", ".join(f":a AS c{i}" for i in range(6))
    with pytest.raises(PayloadTooLarge, match="a row"):
        await query(reader, f"SELECT {columns}".replace(":a", "CAST(:a AS char(900000))"), a="x" * 900_000)


async def test_decimals_keep_all_their_digits(writer: SqlDatabase, reader: SqlDatabase, table: str) -> None:
    if "SQLite" in repr(writer):
        pytest.skip("sqlite: it stores numbers as doubles")
    await execute(writer, f"INSERT INTO {table} VALUES (4, 'gold', 123456789012345678901234567.125)")
    found = await rows(reader, f"SELECT price FROM {table} ORDER BY id")
    assert [row["price"] for row in found] == [1.5, 20.0, None, "123456789012345678901234567.125"]


async def test_emoji_and_other_scripts_survive(writer: SqlDatabase, reader: SqlDatabase, table: str) -> None:
    await execute(writer, f"INSERT INTO {table} (id, name) VALUES (:id, :name)", id=7, name="naïve 😀 日本")
    assert await rows(reader, f"SELECT name FROM {table} WHERE name LIKE '%😀%'") == [{"name": "naïve 😀 日本"}]


async def test_structures_come_back_as_json_text_or_json(reader: SqlDatabase) -> None:
    cast = "json" if "postgres" in reader.query_tool("q").description else "char(100)"
    (row,) = await rows(reader, f"SELECT CAST(:v AS {cast}) AS v", v={"a": [1, "ä"]})
    assert row["v"] in ({"a": [1, "ä"]}, '{"a": [1, "ä"]}')


async def test_nothing_writes_through_a_reading_database(url: str, reader: SqlDatabase, table: str) -> None:
    for statement in (
        f"INSERT INTO {table} VALUES (9, 'x', 1)",
        f"UPDATE {table} SET name = 'x'",
        f"DELETE FROM {table}",
    ):
        with pytest.raises(InvalidInput, match="only reading is allowed"):
            await query(reader, statement)
        with pytest.raises(InvalidRequest, match="read_only=False"):
            reader.tool("shop:change", statement)
    for statement in (f"DROP TABLE {table}", f"CREATE TABLE {table}_2 (a int)", f"TRUNCATE TABLE {table}", "BEGIN"):
        with pytest.raises(InvalidInput, match="is not taken; use SELECT"):
            await query(reader, statement)
    assert len(await rows(reader, f"SELECT id FROM {table}")) == 3


async def test_the_database_itself_refuses_writes(url: str, table: str) -> None:
    """The second wall: statements that the guard never saw."""
    async with opened(url) as database:
        for text in (f"DELETE FROM {table}", f"CREATE TABLE {table}_2 (a int)", f"DROP TABLE {table}"):
            for is_read in (True, False):
                with pytest.raises(ToolFailed):
                    await database.execute(Statement(text, (), is_read), {}, ToolContext())
        assert len(await rows(database, f"SELECT id FROM {table}")) == 3


async def test_writes_say_what_they_changed(writer: SqlDatabase, table: str) -> None:
    tool = writer.tool("shop:rename", f"UPDATE {table} SET name = :name WHERE id > :id")
    assert tool.read_only is False
    assert await call(tool, {"name": "plum", "id": 1}) == {"rows_affected": 2}
    assert await call(tool, {"name": "plum", "id": 100}) == {"rows_affected": 0}
    assert (await query(writer, f"DELETE FROM {table} WHERE id = 1"))["rows_affected"] == 1
    assert await rows(writer, f"SELECT DISTINCT name FROM {table}") == [{"name": "plum"}]
    assert writer.tool("shop:all", f"SELECT * FROM {table}").read_only is True


async def test_writes_that_return_rows_do_both(writer: SqlDatabase, table: str) -> None:
    answer = await query(writer, f"INSERT INTO {table} (id, name) VALUES (10, 'a'), (11, 'b') RETURNING id")
    assert answer["rows"] == [{"id": 10}, {"id": 11}]
    assert len(await rows(writer, f"SELECT id FROM {table}")) == 5


async def test_a_failed_write_changes_nothing(writer: SqlDatabase, table: str) -> None:
    with pytest.raises(ToolFailed) as caught:
        await query(writer, f"INSERT INTO {table} (id, name) VALUES (20, 'x'), (1, 'again')")
    assert not caught.value.retryable
    assert {"sqlstate": "23505"}.items() <= caught.value.details.items() or (
        caught.value.details.get("mysql_error") == "1062"
        or caught.value.details.get("sqlite_error") == "SQLITE_CONSTRAINT_PRIMARYKEY"
    )
    assert await rows(writer, f"SELECT id FROM {table} WHERE id = 20") == []


async def test_a_write_whose_answer_is_too_large_changes_nothing(url: str, writer: SqlDatabase, table: str) -> None:
    columns = ", ".join(f"CAST(:a AS char(900000)) AS c{i}" for i in range(6))
    prefix = "" if "mysql" in url else "WITH one AS (SELECT 1 AS n) "
    source = "(SELECT 30 AS n)" if "mysql" in url else "(SELECT n + 29 AS n FROM one)"
    statement = f"{prefix}INSERT INTO {table} (id, name) SELECT n, 'x' FROM {source} AS s RETURNING id, {columns}"
    with pytest.raises(PayloadTooLarge):
        await query(writer, statement, a="x" * 900_000)
    assert await rows(writer, f"SELECT id FROM {table} WHERE id = 30") == []


async def test_a_writing_query_tool_still_keeps_to_rows(writer: SqlDatabase, table: str) -> None:
    for statement in (f"DROP TABLE {table}", "CREATE TABLE x (a int)", f"ALTER TABLE {table} ADD a int", "COMMIT"):
        with pytest.raises(InvalidInput, match="is not taken"):
            await query(writer, statement)


async def test_what_the_database_refuses_says_why(reader: SqlDatabase, table: str) -> None:
    with pytest.raises(ToolFailed, match=f"{table}_none") as caught:
        await query(reader, f"SELECT * FROM {table}_none")
    assert not caught.value.retryable
    assert caught.value.details.keys() & {"sqlstate", "mysql_error", "sqlite_error"}
    with pytest.raises(ToolFailed, match="nothing"):
        await query(reader, f"SELECT nothing FROM {table}")


async def test_binds_and_arguments_must_agree(reader: SqlDatabase) -> None:
    for arguments in ({}, {"a": 1, "b": 2}, {"b": 1}):
        with pytest.raises(InvalidInput, match="binds and arguments differ"):
            await query(reader, "SELECT :a AS a", **arguments)


async def test_long_statements_are_refused_unread(reader: SqlDatabase) -> None:
    columns = ", ".join(f"{i} AS c{i}" for i in range(100))
    assert len((await query(reader, f"SELECT {columns}"))["columns"]) == 100  # read in a thread
    with pytest.raises(InvalidInput, match=f"at most {MAX_STATEMENT_CHARS}"):
        await query(reader, "SELECT 1" + " " * MAX_STATEMENT_CHARS)


async def test_the_schema_is_described(reader: SqlDatabase, writer: SqlDatabase, table: str) -> None:
    await execute(
        writer,
        f"CREATE TABLE {table}_2 (a integer PRIMARY KEY, t integer DEFAULT 5 REFERENCES {table} (id), CHECK (a > 0))",
    )
    await execute(writer, f"CREATE VIEW {table}_3 AS SELECT id FROM {table}")
    tool = reader.schema_tool("shop:schema")
    try:
        described = {found["name"]: found for found in (await call(tool))["tables"]}
        (one,) = (await call(tool, {"table": table}))["tables"]
        assert (await call(tool, {"table": "none"}))["tables"] == []
    finally:
        await execute(writer, f"DROP VIEW {table}_3")
        await execute(writer, f"DROP TABLE {table}_2")
    assert tool.read_only is True
    assert described[table] == one
    assert [(column["name"], column["nullable"], column["primary_key"]) for column in one["columns"][1:]] == [
        ("name", False, False),
        ("price", True, False),
    ]
    assert one["columns"][1]["type"] == "VARCHAR(50)"
    assert one["columns"][0]["primary_key"] is True
    assert described[f"{table}_2"]["foreign_keys"] == [{"columns": ["t"], "table": table, "referred_columns": ["id"]}]
    assert described[f"{table}_2"]["columns"][1]["default"] == "5"
    assert described[f"{table}_3"]["kind"] == "view"


async def test_many_calls_share_the_pool(url: str, table: str) -> None:
    answers: list[Any] = []
    async with opened(url, pool_size=2) as database, anyio.create_task_group() as group:

        async def one(number: int) -> None:
            answers.append((await rows(database, f"SELECT id + :n AS id FROM {table} WHERE id = 1", n=number))[0]["id"])

        for number in range(30):
            group.start_soon(one, number)
    assert sorted(answers) == list(range(1, 31))


async def test_health_and_closing(reader: SqlDatabase, table: str) -> None:
    await reader.health()
    await reader.aclose()
    await reader.aclose()
    await reader.health()  # opens again


async def test_a_failed_connection_does_not_spoil_the_next(tmp_path: Path) -> None:
    file = tmp_path / "later.db"
    async with opened(f"sqlite:///{file}") as database:
        with pytest.raises(ToolUnavailable, match="unable to open"):
            await database.health()
        async with opened(f"sqlite:///{file}", read_only=False) as writer:
            await execute(writer, "CREATE TABLE t (a int)")
        await database.health()


async def test_the_tools_of_a_database_close_it_together(reader: SqlDatabase) -> None:
    tools = [reader.query_tool("q"), reader.schema_tool("s"), reader.tool("f", "SELECT 1 AS a")]
    for tool in tools:
        await tool.provider.health()
        await tool.provider.aclose()
