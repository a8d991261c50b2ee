"""One statement on one connection, in SQLAlchemy's synchronous dress: these functions run inside `run_sync`."""

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, CursorResult, TextClause, bindparam, inspect, text
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.exc import DBAPIError

from gateway.base import JsonValue
from gateway.errors import PayloadTooLarge, ToolFailed
from gateway.providers.sql import cursor
from gateway.providers.sql.guard import Statement
from gateway.providers.sql.postgres import MAX_RECEIVED_BYTES, Inlet
from gateway.providers.sql.rows import BATCH, Rows
from gateway.providers.sql.target import Target

MAX_TABLES = 200
"""Tables that one description lists."""

_MYSQL_JSON = 245


def read(connection: Connection, target: Target, statement: Statement, values: Mapping[str, Any]) -> JsonValue:
    """The rows of a statement that only reads, fetched as far as they are wanted."""
    if target.dialect == "postgres" and not statement.lists:
        with _watched(connection, target):
            return cursor.read(connection, _clause(statement), values, target.max_rows).answer()
    _begin_reading(connection, target)
    options = {"stream_results": True, "max_row_buffer": BATCH}
    with _watched(connection, target):
        result = connection.execute(_clause(statement), values, execution_options=options)
        answer = _rows(result, target)
        if answer["truncated"] and target.dialect == "mysql":
            connection.invalidate()  # closing the cursor would read the rest of the rows
        result.close()
    return answer


def write(connection: Connection, target: Target, statement: Statement, values: Mapping[str, Any]) -> JsonValue:
    """What a statement changed, and the rows it returns. Committed last: when this raises, nothing has happened."""
    with _watched(connection, target):
        if target.dialect == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # sqlite3 begins by itself for some statements only
        result = connection.execute(_clause(statement), values)
        answer: dict[str, JsonValue] = _rows(result, target) if result.returns_rows else {}
    answer["rows_affected"] = result.rowcount if result.rowcount >= 0 else None
    _commit(connection)
    return answer


def tables(connection: Connection, target: Target, schema: str | None, table: str | None) -> JsonValue:
    """Tables and views with their columns; of all of them, or of one."""
    _begin_reading(connection, target)
    with _watched(connection, target):
        inspector = inspect(connection)
        kinds = dict.fromkeys(inspector.get_table_names(schema), "table")
        kinds |= dict.fromkeys(inspector.get_view_names(schema), "view")
        names = sorted(kinds) if table is None else [name for name in (table,) if name in kinds]
        listed = names[:MAX_TABLES]
        described = [{"name": name, "kind": kinds[name], **_table(inspector, name, schema)} for name in listed]
    return {"tables": described, "truncated": len(listed) < len(names)}


def _begin_reading(connection: Connection, target: Target) -> None:
    if target.dialect == "postgres":
        connection.execution_options(postgresql_readonly=True)  # in place; the pool takes it back


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


def _rows(result: CursorResult[Any], target: Target) -> dict[str, JsonValue]:
    rows = Rows(result.keys(), target.max_rows, _json_columns(result, target))
    is_more = True
    while is_more:
        batch = result.fetchmany(BATCH)
        is_more = len(batch) == BATCH  # fewer are the last ones: to ask again would be another turn of the driver
        for values in batch:
            if not rows.add(values):
                return rows.answer()
    return rows.answer()


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
