"""A journal in one SQLite file: a thread that writes, and connections that read beside it.

All blocking work is in threads. What comes while the disk syncs is written with the next sync, all of it at once.
"""

import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import anyio.to_thread

from gateway.errors import Closed, InvalidRequest, JournalCorrupt, JournalUnavailable, SandboxError
from gateway.journal.jobs import MAX_GROUP, Job, Keeper, groups, settle_from_thread
from gateway.journal.rows import NO_BINDS, Rows, check_version, make_tables
from gateway.journal.schema import APPLICATION_ID
from gateway.journal.store import Store

Answer = TypeVar("Answer")
Synchronous: TypeAlias = Literal["full", "starts", "normal"]

BUSY_SECONDS = 5.0
"""How long a transaction waits for another process that is writing."""

_FIXES = {
    sqlite3.SQLITE_FULL: "free space on its disk",
    sqlite3.SQLITE_IOERR_SHMSIZE: "free space on its disk",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "see that its folder exists and is writable",
    sqlite3.SQLITE_PERM: "make the file readable and writable",
    sqlite3.SQLITE_IOERR: "see whether its disk works and has space",
    sqlite3.SQLITE_BUSY: "another process is writing to it; try again",
    sqlite3.SQLITE_LOCKED: "another process is writing to it; try again",
}


class SqliteRows:
    """A transaction on one connection."""

    dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def fetch(self, sql: str, binds: Mapping[str, Any] = NO_BINDS) -> list[Any]:
        return self._connection.execute(sql, binds).fetchall()

    def run(self, sql: str, binds: Mapping[str, Any] = NO_BINDS) -> int:
        return self._connection.execute(sql, binds).rowcount

    def many(self, sql: str, binds: Sequence[Mapping[str, Any]]) -> None:
        self._connection.executemany(sql, binds)

    def now(self) -> int:
        return time.time_ns() // 1000


class SqliteStore(Store):
    """Nothing is opened before the first use. With `create` off the file must be there."""

    def __init__(
        self, path: Path, keeper: Keeper, *, synchronous: Synchronous, wait_seconds: float, create: bool
    ) -> None:
        super().__init__(keeper, wait_seconds)
        self._path = path
        self._synchronous = synchronous
        self._level = ""
        self._create = create
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []

    @property
    def where(self) -> str:
        return str(self._path)

    async def read(self, step: Callable[[Rows], Answer]) -> Answer:
        if self._closed:
            raise Closed("journal")
        return await anyio.to_thread.run_sync(self._read, step, abandon_on_cancel=True)

    async def aclose(self) -> None:
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await anyio.to_thread.run_sync(thread.join, self._wait_seconds)
        while self._readers:
            self._readers.pop().close()

    def _hand_over(self, job: Job) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="toolexec-journal", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _read(self, step: Callable[[Rows], Answer]) -> Answer:
        """In a thread of the pool."""
        try:
            connection = self._readers.pop() if self._readers else self._open()
            try:
                connection.execute("BEGIN")
                answer = step(SqliteRows(connection))
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise translated(error, self.where) from error
        self._readers.append(connection)
        if self._closed:
            self._readers.pop().close()
        return answer

    # In the writer's thread

    def _work(self) -> None:
        over = False
        while not over:
            jobs, over = self._next()
            for group in groups(jobs) or [[]]:
                self._commit(group, self._keeper.perform)
                settle_from_thread(group)
        self._commit([], lambda rows, _: self._keeper.farewell(rows))
        self._disconnect()

    def _next(self) -> tuple[list[Job], bool]:
        """What waits, none when it is time for other things; and whether nothing more will come."""
        jobs: list[Job] = []
        try:
            job = self._jobs.get(timeout=self._keeper.pause_seconds())
        except queue.Empty:
            return jobs, False
        while job is not None:
            jobs.append(job)
            if len(jobs) == MAX_GROUP or self._jobs.empty():
                return jobs, False
            job = self._jobs.get_nowait()
        return jobs, True

    def _commit(self, group: list[Job], work: Callable[[Rows, list[Job]], None]) -> None:
        """One transaction. What goes wrong is for those of the group to hear; without a group, nobody waits."""
        self._keeper.begin()
        try:
            self._transact(group, work)
            self._keeper.committed()
        except Exception as error:  # noqa: BLE001 - raised again where the group waits
            self._keeper.undo()
            known = isinstance(error, (sqlite3.Error, OSError))
            told = translated(error, self.where) if known else error
            for job in group:
                job.error = told

    def _syncs(self, group: list[Job]) -> bool:
        """Whether the disk must have it before anybody hears of it."""
        if self._synchronous == "starts":
            return not group or any(job.write is None or job.write.is_ahead for job in group)
        return self._synchronous == "full"

    def _transact(self, group: list[Job], work: Callable[[Rows, list[Job]], None]) -> None:
        if self._connection is None:
            self._connection, self._level = self._open(), ""
        connection = self._connection
        level = "full" if self._syncs(group) else "normal"
        try:
            if level != self._level:
                connection.execute(f"PRAGMA synchronous = {level}")
                self._level = level
            connection.execute("BEGIN IMMEDIATE")
            work(SqliteRows(connection), group)
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            if isinstance(error, (sqlite3.Error, OSError)):
                self._disconnect()  # what a disk that failed has kept is read anew, never guessed
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._create:
            _make(self._path)
        elif not self._path.exists():
            raise JournalUnavailable(self.where, "there is no such file", "name the file that a host writes to")
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, self.where)
        except BaseException:
            connection.close()
            raise
        return connection


def translated(error: Exception, where: str) -> SandboxError:
    """What went wrong in SQLite or in its files, as one of our errors."""
    if isinstance(error, OSError):
        return JournalUnavailable(where, error.strerror or str(error), "see that its folder exists and is writable")
    code = getattr(error, "sqlite_errorcode", 0)
    if fix := _FIXES.get(code) or _FIXES.get(code & 0xFF):
        return JournalUnavailable(where, str(error), fix)
    return JournalCorrupt(where, str(error))


def _make(path: Path) -> None:
    """An empty file for its owner alone, whose name survives a loss of power."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _prepare(connection: sqlite3.Connection, where: str) -> None:
    ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    if not ours and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise InvalidRequest(f"{where} is a database of something else; name a new file for the journal")
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise JournalUnavailable(where, "its file system keeps no write-ahead log", "put it on a local disk")
    for pragma in (
        "synchronous = FULL",
        "fullfsync = ON",  # macOS: a sync that reaches the disk
        "checkpoint_fullfsync = ON",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "secure_delete = ON",  # what retention deletes is overwritten
    ):
        connection.execute(f"PRAGMA {pragma}")
    rows = SqliteRows(connection)
    if not ours:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        make_tables(rows, where)
        connection.execute("COMMIT")
    check_version(rows, where)
