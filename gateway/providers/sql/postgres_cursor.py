"""Reading from PostgreSQL by asyncpg itself: SQLAlchemy's way to a server-side cursor costs a round trip more, and as
much again in Python.

All that SQLAlchemy does elsewhere is the same here: binds by name, the codecs of the connection, its errors.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from gateway.providers.sql.rows import BATCH, Rows

_MAX_PREPARED = 100
"""Statements that one connection keeps prepared."""


def read(connection: Connection, text: str, arguments: Sequence[Any], max_rows: int) -> Rows:
    """What it selects, in a transaction that cannot write."""
    prepared = connection.info.setdefault("prepared", OrderedDict())
    adapted: Any = connection.connection.dbapi_connection
    try:
        found: Rows = adapted.run_async(lambda driver: _read(driver, prepared, text, arguments, max_rows))
    except Exception:
        if adapted.driver_connection.is_closed():
            connection.exec_driver_sql("")  # raises, and SQLAlchemy sees what that says of its other connections
        raise
    return found


async def _read(
    driver: Any, prepared: "OrderedDict[str, Any]", text: str, arguments: Sequence[Any], max_rows: int
) -> Rows:
    known = text in prepared
    statement = await _prepared(driver, prepared, text)
    try:
        return await _rows(driver, statement, arguments, max_rows)
    except Exception as error:
        if not known or type(error).__name__ != "InvalidCachedStatementError":
            raise
    del prepared[text]  # a table has changed since
    return await _rows(driver, await _prepared(driver, prepared, text), arguments, max_rows)


async def _rows(driver: Any, statement: Any, arguments: Sequence[Any], max_rows: int) -> Rows:
    rows = Rows([column.name for column in statement.get_attributes()], max_rows)
    async with driver.transaction(readonly=True):
        async for record in statement.cursor(*arguments, prefetch=BATCH):
            if not rows.add(record.values()):
                break
    return rows


async def _prepared(driver: Any, prepared: "OrderedDict[str, Any]", text: str) -> Any:
    if text not in prepared:
        prepared[text] = await driver.prepare(text)
        if len(prepared) > _MAX_PREPARED:
            prepared.popitem(last=False)
    prepared.move_to_end(text)
    return prepared[text]
