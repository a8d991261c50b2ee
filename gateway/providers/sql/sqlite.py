"""Connections to SQLite files and in-memory databases, by aiosqlite: one thread for each."""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiosqlite
import anyio.to_thread
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from gateway.providers.sql.target import Target

BUSY_SECONDS = 5.0
"""How long a statement waits for another writer of the same file."""

MAX_VALUE_BYTES = 64 << 20
"""Longest text or blob that is made or read; SQLite's own limit of 1 GB would be the host's memory."""

_WATCH_STEPS = 10_000  # of SQLite's virtual machine between two looks at the clock: under 1 ms (measured)

_PRAGMAS = frozenset(
    {
        *("foreign_key_list", "index_info", "index_list", "index_xinfo", "table_info", "table_list", "table_xinfo"),
        "read_uncommitted",  # SQLAlchemy asks for it; it has no effect on a database that is not shared
    }
)


@dataclass(slots=True)
class Watch:
    """Ends what one SQLite connection is doing, at the deadline or when nobody waits for it any more."""

    deadline: float = float("inf")
    ended: bool = False

    def __call__(self) -> int:
        return int(self.ended or time.monotonic() > self.deadline)


def sqlite_engine(target: Target, pool: dict[str, Any]) -> AsyncEngine:
    file = ":memory:"
    if not target.is_memory:
        mode = "ro" if target.read_only else "rwc"
        file = f"{Path(str(target.url.database)).absolute().as_uri()}?mode={mode}"
    if "poolclass" not in pool:
        pool = {"poolclass": AsyncAdaptedQueuePool, **pool}  # the default for :memory: would share transactions too
    if target.read_only:
        # What only reads needs no transaction, and none has to be ended: that would be a turn of the driver's thread.
        pool = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True, **pool}
    url = URL.create(f"sqlite+{target.driver}")
    engine = create_async_engine(url, async_creator=lambda: _connect(file), **pool)

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        record.info["watch"] = watch = Watch()
        connection.run_async(lambda driver: _prepare(driver, target, watch))

    return engine


async def _connect(file: str) -> aiosqlite.Connection:
    connection = aiosqlite.connect(file, timeout=BUSY_SECONDS, uri=True)
    try:
        return await connection
    except BaseException:
        # Its thread ends by itself, and tells the event loop so, which must not be closed by then.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(connection._thread.join, BUSY_SECONDS)
        raise


async def _prepare(connection: Any, target: Target, watch: Watch) -> None:
    await connection.execute("PRAGMA trusted_schema = OFF")
    await connection.execute("PRAGMA foreign_keys = ON")
    await connection.execute(f"PRAGMA query_only = {int(target.read_only)}")
    await connection._execute(connection._conn.setlimit, sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    await connection.set_progress_handler(watch, _WATCH_STEPS)
    await connection.set_authorizer(_authorizer(read_only=target.read_only))


def _authorizer(*, read_only: bool) -> Callable[..., int]:
    """SQLite asks this about every part of every statement: no other files, no settings, and no writes where asked."""
    refused = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH}
    taken = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}

    def authorize(action: int, first: str | None, second: str | None, *_where: str | None) -> int:
        if action == sqlite3.SQLITE_FUNCTION:
            allowed = str(second).lower() not in ("load_extension", "fts3_tokenizer")
        elif action == sqlite3.SQLITE_PRAGMA:
            allowed = str(first).lower() in _PRAGMAS
        else:
            allowed = action in taken if read_only else action not in refused
        return int(sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY)

    return authorize
