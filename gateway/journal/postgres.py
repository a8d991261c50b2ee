"""A journal in a PostgreSQL database that many hosts may share: one task that writes, and a pool that reads.

Needs the extra `postgres`.
"""

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from gateway.errors import Closed, JournalCorrupt, JournalUnavailable, MissingExtra, SandboxError, ToolError
from gateway.journal.jobs import MAX_GROUP, Job, Keeper, groups
from gateway.journal.rows import NO_BINDS, Rows, make_tables
from gateway.journal.store import Store

try:
    from sqlalchemy import Connection, TextClause, exc, text
    from sqlalchemy.ext.asyncio import AsyncEngine

    from gateway.providers.sql.engine import open_engine
    from gateway.providers.sql.target import CONNECT_SECONDS, Target, default_tls, own_server, parse_url
except ModuleNotFoundError as error:
    raise MissingExtra("Journals in PostgreSQL", "postgres") from error

Answer = TypeVar("Answer")

POOL_SIZE = 5
_SCHEMA_LOCK = 0x746F6F6C
_FULL = "53100"
_DAMAGED = ("XX001", "XX002")


class PostgresRows:
    """A transaction on one connection, within SQLAlchemy's greenlet."""

    dialect = "postgresql"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def fetch(self, sql: str, binds: Mapping[str, Any] = NO_BINDS) -> list[Any]:
        return list(self._connection.execute(_clause(sql), dict(binds)))

    def run(self, sql: str, binds: Mapping[str, Any] = NO_BINDS) -> int:
        return self._connection.execute(_clause(sql), dict(binds)).rowcount

    def many(self, sql: str, binds: Sequence[Mapping[str, Any]]) -> None:
        if binds:
            self._connection.execute(_clause(sql), [dict(values) for values in binds])

    def now(self) -> int:
        found = self.fetch("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")
        return int(found[0][0])


class PostgresStore(Store):
    """Nothing is connected before the first use; a connection that broke is made anew at the next."""

    def __init__(self, url: str, keeper: Keeper, *, wait_seconds: float) -> None:
        super().__init__(keeper, wait_seconds)
        parsed = parse_url(url)
        password = parsed.password
        self._target = Target(
            url=parsed,
            password=lambda: str(password or ""),
            read_only=False,
            statement_timeout_seconds=wait_seconds,
            pool_size=POOL_SIZE,
            pool_wait_seconds=wait_seconds,
            tls=default_tls(parsed),
            ca_file=None,
            max_rows=1,
            egress=own_server(parsed),
        )
        self._target.check()
        self._engine: AsyncEngine | None = None
        self._is_ready = False
        self._opening = asyncio.Lock()
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None

    @property
    def where(self) -> str:
        return f"in {self._target}"

    async def read(self, step: Callable[[Rows], Answer]) -> Answer:
        if self._closed:
            raise Closed("journal")
        try:
            async with asyncio.timeout(self._wait_seconds + CONNECT_SECONDS):
                return await self._transact(step)
        except TimeoutError:
            raise self._late() from None

    async def aclose(self) -> None:
        self._closed = True
        writer, self._writer = self._writer, None
        if writer is not None:
            self._jobs.put_nowait(None)
            await asyncio.wait([writer], timeout=self._wait_seconds)
            writer.cancel()
            await asyncio.wait([writer])
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    def _hand_over(self, job: Job) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._work())
        self._jobs.put_nowait(job)

    async def _work(self) -> None:
        over = False
        while not over:
            jobs, over = await self._next()
            for group in groups(jobs) or [[]]:
                await self._commit(group, self._keeper.perform)
                for job in group:
                    job.settle()
        await self._commit([], lambda rows, _: self._keeper.farewell(rows))

    async def _next(self) -> tuple[list[Job], bool]:
        """What waits, none when it is time for other things; and whether nothing more will come."""
        jobs: list[Job] = []
        try:
            async with asyncio.timeout(self._keeper.pause_seconds()):
                job = await self._jobs.get()
        except TimeoutError:
            return jobs, False
        while job is not None and len(jobs) < MAX_GROUP:
            jobs.append(job)
            if self._jobs.empty():
                return jobs, False
            job = self._jobs.get_nowait()
        if job is not None:
            jobs.append(job)
        return jobs, job is None

    async def _commit(self, group: list[Job], work: Callable[[Rows, list[Job]], None]) -> None:
        """One transaction. What goes wrong is for those of the group to hear; without a group, nobody waits."""
        self._keeper.begin()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._transact(lambda rows: work(rows, group))
            self._keeper.committed()
        except Exception as error:  # noqa: BLE001 - raised again where the group waits
            self._keeper.undo()
            told = self._late() if isinstance(error, TimeoutError) else error
            for job in group:
                job.error = told

    async def _transact(self, step: Callable[[Rows], Answer]) -> Answer:
        """A server that was restarted is met with a connection that it closed: that is tried once more."""
        try:
            engine = await self._opened()
            for is_last in (False, True):
                async with engine.connect() as connection:
                    try:
                        answer = await connection.run_sync(lambda plain: step(PostgresRows(plain)))
                    except exc.DBAPIError as error:
                        if is_last or not error.connection_invalidated:
                            raise
                        continue
                    await connection.commit()
                    return answer
            raise AssertionError("unreachable")
        except (exc.SQLAlchemyError, OSError, ToolError) as error:
            raise translated(error, self.where) from error

    async def _opened(self) -> AsyncEngine:
        async with self._opening:
            if self._engine is None:
                self._engine = open_engine(self._target)
            if not self._is_ready:
                async with self._engine.begin() as connection:
                    await connection.run_sync(self._prepare)
                self._is_ready = True
            return self._engine

    def _prepare(self, connection: Connection) -> None:
        rows = PostgresRows(connection)
        rows.fetch("SELECT pg_advisory_xact_lock(:key)", {"key": _SCHEMA_LOCK})
        make_tables(rows, self.where)


@functools.lru_cache(maxsize=256)
def _clause(sql: str) -> TextClause:
    return text(sql)


def translated(error: Exception, where: str) -> SandboxError:
    """What went wrong in the driver, the connection or the server, as one of our errors."""
    driver: BaseException = error
    while (below := driver.__cause__) is not None:
        driver = below
    state = getattr(driver, "sqlstate", None) or ""
    words = str(driver).partition("\n")[0] or type(driver).__name__
    if state in _DAMAGED:
        return JournalCorrupt(where, words)
    if state == _FULL:
        return JournalUnavailable(where, words, "free space on its server's disk")
    return JournalUnavailable(where, words)
