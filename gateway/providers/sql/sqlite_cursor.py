"""Reading from SQLite by aiosqlite itself: each step is a turn of its thread, and SQLAlchemy takes four or five."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from gateway.providers.sql.rows import BATCH, Rows


def read(connection: Connection, text: str, arguments: Sequence[Any], max_rows: int) -> Rows:
    """What it selects. Begins no transaction: a statement that reads is one by itself, while it is open."""
    adapted: Any = connection.connection.dbapi_connection
    found: Rows = adapted.run_async(lambda driver: _read(driver, text, arguments, max_rows))
    return found


async def _read(driver: Any, text: str, arguments: Sequence[Any], max_rows: int) -> Rows:
    cursor = await driver.execute(text, arguments)
    is_at_end = False
    try:
        rows = Rows([column[0] for column in cursor.description], max_rows)
        is_at_end = await _fill(rows, cursor)
    finally:
        if not is_at_end:
            await cursor.close()  # or what is left of the statement would lock the file against writers
    return rows


async def _fill(rows: Rows, cursor: Any) -> bool:
    """Whether all that the statement gives was fetched; it is over then."""
    is_more = True
    while is_more:
        batch = await cursor.fetchmany(BATCH)
        is_more = len(batch) == BATCH  # fewer are the last ones: to ask again would be another turn
        for values in batch:
            if not rows.add(values):
                return not is_more
    return True
