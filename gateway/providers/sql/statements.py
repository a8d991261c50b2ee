"""One statement on one connection, in SQLAlchemy's synchronous dress: these functions run inside `run_sync`."""

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect, TextClause, bindparam, inspect, text
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

from gateway.base import JsonValue
from gateway.errors import PayloadTooLarge, ToolFailed
from gateway.providers.sql import postgres_cursor, sqlite_cursor
from gateway.providers.sql.guard import Statement
from gateway.providers.sql.postgres import MAX_RECEIVED_BYTES, Inlet
from gateway.providers.sql.rows import BATCH, Rows
from gateway.providers.sql.target import Target

MAX_TABLES = 200
"""Tables that one description lists."""

_MYSQL_JSON = 245

_READERS = {"postgres": postgres_cursor.read, "sqlite": sqlite_cursor.read}
"""By the driver itself, where that takes fewer steps than SQLAlchemy's streams."""


def read(connection: Connection, target: Target, statement: Statement, values: Mapping[str, Any]) -> JsonValue:
    """The rows of a statement that only reads, fetched as far as they are wanted."""
    reader = _READERS.get(target.dialect)
    with _watched(connection, target):
        if reader is None:
            return _stream(connection, target, statement, values)
        text, arguments = _rendered(statement, connection.dialect, values)
        return reader(connection, text, arguments, target.max_rows).answer()


def _stream(connection: Connection, target: Target, statement: Statement, values: Mapping[str, Any]) -> JsonValue:
    options = {"stream_results": True, "max_row_buffer": BATCH}
    result = connection.execute(_clause(statement), values, execution_options=options)
    rows, is_at_end = _empty(result, target), False
    try:
        is_at_end = _fill(rows, result)
    finally:
        if is_at_end:
            result.close()
        else:
            connection.invalidate()  # closing the cursor would read the rest of the rows
    return rows.answer()


def write(connection: Connection, target: Target, statement: Statement, values: Mapping[str, Any]) -> JsonValue:
    """What a statement changed, and the rows it returns. Committed last: when this raises, nothing has happened."""
    with _watched(connection, target):
        if target.dialect == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # sqlite3 begins by itself for some statements only
        result = connection.execute(_clause(statement), values)
        answer: dict[str, JsonValue] = {}
        if result.returns_rows:
            rows = _empty(result, target)
            _fill(rows, result)
            answer = rows.answer()
    answer["rows_affected"] = result.rowcount if result.rowcount >= 0 else None
    _commit(connection)
    return answer


def tables(connection: Connection, target: Target, schema: str | None, table: str | None) -> JsonValue:
    """Tables and views with their columns; of all of them, or of one."""
    if target.dialect == "postgres":
        connection.execution_options(postgresql_readonly=True)  # in place; the pool takes it back
    with _watched(connection, target):
        inspector = inspect(connection)
        kinds = dict.fromkeys(inspector.get_table_names(schema), "table")
        kinds |= dict.fromkeys(inspector.get_view_names(schema), "view")
        names = sorted(kinds) if table is None else [name for name in (table,) if name in kinds]
        listed = names[:MAX_TABLES]
        described = [{"name": name, "kind": kinds[name], **_table(inspector, name, schema)} for name in listed]
    return {"tables": described, "truncated": len(listed) < len(names)}


def _commit(connection: Connection) -> None:
    try:
        connection.commit()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise ToolFailed(
            "the connection was lost during the commit; whether the change was made is not known, so look",
            details={"outcome": "unknown"},
        ) from error


@contextlib.contextmanager
def _watched(connection: Connection, target: Target) -> Iterator[None]:
    """Count what a statement costs where the database does not: SQLite's time, and the bytes that PostgreSQL sends."""
    if target.dialect == "sqlite":
        connection.info["watch"].deadline = time.monotonic() + target.statement_timeout_seconds
        connection.info["watch"].ended = False
    inlet: Inlet | None = connection.info.get("inlet")
    if inlet is not None:
        inlet.received_bytes = 0
    try:
        yield
    except Exception as error:
        if inlet is None or inlet.received_bytes <= MAX_RECEIVED_BYTES:
            raise
        connection.invalidate()  # the inlet has cut it
        raise PayloadTooLarge("what the database sends", inlet.received_bytes, MAX_RECEIVED_BYTES) from error


@functools.lru_cache(maxsize=512)
def _clause(statement: Statement) -> TextClause:
    return text(statement.text).bindparams(*(bindparam(name, expanding=True) for name in statement.lists))


@functools.lru_cache(maxsize=512)
def _compiled(statement: Statement, dialect: Dialect) -> SQLCompiler:
    compiled = _clause(statement).compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    return compiled


def _rendered(statement: Statement, dialect: Dialect, values: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
    """The statement in the driver's own spelling of binds, and their values in its order."""
    rendered = _compiled(statement, dialect).construct_expanded_state(dict(values))
    return rendered.statement, rendered.positional_parameters


def _empty(result: CursorResult[Any], target: Target) -> Rows:
    return Rows(result.keys(), target.max_rows, _json_columns(result, target))


def _fill(rows: Rows, result: CursorResult[Any]) -> bool:
    """Whether all rows of the result were taken."""
    while batch := result.fetchmany(BATCH):
        for values in batch:
            if not rows.add(values):
                return False
    return True


def _json_columns(result: CursorResult[Any], target: Target) -> set[str]:
    """MySQL gives its JSON as text; PostgreSQL's codec has decoded it, and the others have no such type."""
    if target.dialect != "mysql" or result.cursor is None:
        return set()
    return {column[0] for column in result.cursor.description or () if column[1] == _MYSQL_JSON}


def _table(inspector: Any, name: str, schema: str | None) -> dict[str, JsonValue]:
    keys = set(inspector.get_pk_constraint(name, schema)["constrained_columns"])
    columns = [_column(column, is_key=column["name"] in keys) for column in inspector.get_columns(name, schema)]
    references = [
        {
            "columns": key["constrained_columns"],
            "table": ".".join(filter(None, (key["referred_schema"], key["referred_table"]))),
            "referred_columns": key["referred_columns"],
        }
        for key in inspector.get_foreign_keys(name, schema)
    ]
    return {"columns": columns, "foreign_keys": references}


def _column(column: ReflectedColumn, *, is_key: bool) -> dict[str, JsonValue]:
    described: dict[str, JsonValue] = {
        "name": column["name"],
        "type": str(column["type"]),
        "nullable": bool(column["nullable"]),
        "primary_key": is_key,
    }
    if column.get("default") is not None:
        described["default"] = str(column["default"])
    if column.get("comment"):
        described["comment"] = str(column["comment"])
    return described
