"""A store in a PostgreSQL or SQLite database: one table, made on first use. Time is PostgreSQL's, or this machine's."""

import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio

from gateway.errors import InvalidRequest, MissingExtra, ToolUnavailable
from gateway.policies.store import OPERATION_SECONDS, TOLERANCE, WHAT, Taken

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
    from sqlalchemy.schema import CreateIndex, CreateTable

    from gateway.providers.sql.engine import open_engine
    from gateway.providers.sql.target import Target, Tls, default_tls, own_server, parse_url
except ModuleNotFoundError as exc:
    raise MissingExtra("stores in SQL databases", "sql") from exc

SWEEP_SECONDS = 60.0
"""How often rows that have ended are deleted."""

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,50}")
_MAKING = 0x746F6F6C  # an advisory lock: PostgreSQL's IF NOT EXISTS does not hold for two that create at once
_TRIES = 5  # to claim a key whose record vanishes each time we look at it

_T = TypeVar("_T")


class SqlStore:
    """A store in the database of this URL, `postgresql://user@host/database` or `sqlite:///file`.

    `password`, `tls` and `ca_file` are as for `SqlDatabase`; `table` is lower-case letters, digits and `_`. Raises
    InvalidRequest, without showing the URL, and MissingExtra.
    """

    def __init__(
        self,
        url: str,
        *,
        password: str | Callable[[], str] | None = None,
        table: str = "toolexec_store",
        pool_size: int = 5,
        tls: Tls | None = None,
        ca_file: str | Path | None = None,
    ) -> None:
        parsed = parse_url(url)
        given = parsed.password or "" if password is None else password
        self._target = Target(
            url=parsed,
            password=given if callable(given) else lambda: given,
            read_only=False,
            max_rows=1,
            statement_timeout_seconds=OPERATION_SECONDS,
            pool_size=pool_size,
            pool_wait_seconds=OPERATION_SECONDS,
            tls=default_tls(parsed) if tls is None else tls,
            ca_file=None if ca_file is None else Path(ca_file),
            egress=own_server(parsed),
        )
        self._target.check()
        if self._target.dialect not in ("postgres", "sqlite"):
            raise InvalidRequest(f"a store needs PostgreSQL or SQLite, not {parsed.drivername}://")
        if pool_size < 1:
            raise InvalidRequest(f"pool_size must be at least 1, not {pool_size}")
        if not _NAME.fullmatch(table):
            raise InvalidRequest(f"table must be lower-case letters, digits and _, not {table!r}")
        self._table = _table(table)
        self._is_postgres = self._target.dialect == "postgres"
        self._engine: AsyncEngine | None = None
        self._making = anyio.Lock()
        self._swept = time.monotonic()

    async def get(self, key: str) -> bytes | None:
        t = self._table.c
        found: bytes | None = await self._scalar(sa.select(t.value).where(t.key == key, self._lives()))
        return found

    async def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        put = self._insert(key=key, value=value, expires_at=self._in(ttl_seconds))
        new = {"value": put.excluded.value, "expires_at": put.excluded.expires_at}
        await self._execute(put.on_conflict_do_update(index_elements=["key"], set_=new))

    async def set_if_absent(self, key: str, value: bytes, ttl_seconds: float | None) -> bytes | None:
        put = self._insert(key=key, value=value, expires_at=self._in(ttl_seconds))
        new = {"value": put.excluded.value, "expires_at": put.excluded.expires_at}
        claim = put.on_conflict_do_update(index_elements=["key"], set_=new, where=sa.not_(self._lives()))
        for _ in range(_TRIES):
            if await self._scalar(claim.returning(self._table.c.key)) is not None:
                return None
            if (found := await self.get(key)) is not None:
                return found
        raise ToolUnavailable(WHAT, "a record in it comes and goes")

    async def replace(self, key: str, expected: bytes, value: bytes, ttl_seconds: float | None) -> bool:
        t = self._table
        is_expected = (t.c.key == key, t.c.value == expected, self._lives())
        new = sa.update(t).where(*is_expected).values(value=value, expires_at=self._in(ttl_seconds))
        return bool(await self._execute(new))

    async def delete(self, key: str, expected: bytes | None = None) -> bool:
        gone = sa.delete(self._table).where(self._table.c.key == key, self._lives())
        return bool(await self._execute(gone if expected is None else gone.where(self._table.c.value == expected)))

    async def clear(self, prefix: str) -> int:
        gone = sa.delete(self._table).where(self._table.c.key.startswith(prefix, autoescape=True), self._lives())
        return int(await self._execute(gone))

    async def take(self, key: str, tokens: float, capacity: float, refill_per_second: float) -> Taken:
        t, now = self._table.c, self._now()
        full_at = now + tokens / refill_per_second  # a bucket that is full again is as good as a new one
        rest = min(capacity, capacity - tokens)
        put = self._insert(key=key, tokens=rest, taken_at=now, granted=True, expires_at=full_at)
        # The clock of a statement that waited for another one may be behind what that one wrote.
        latest = _greatest(put.excluded.taken_at, t.taken_at)
        filled = _least(sa.literal(capacity, sa.Double), t.tokens + (latest - t.taken_at) * refill_per_second)
        enough = filled >= tokens - TOLERANCE
        rest = _greatest(filled - tokens, sa.literal(0.0, sa.Double))
        left = sa.case((enough, _least(sa.literal(capacity, sa.Double), rest)), else_=filled)
        full_at = latest + (capacity - left) / refill_per_second
        new = {"tokens": left, "taken_at": latest, "granted": enough, "expires_at": full_at}
        put = put.on_conflict_do_update(index_elements=["key"], set_=new).returning(t.tokens, t.granted)
        available, granted = await self._row(put)
        return Taken(0.0 if granted else (tokens - available) / refill_per_second, available)

    async def aclose(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    def _insert(self, **values: Any) -> Any:
        dialect = postgresql if self._is_postgres else sqlite
        return dialect.insert(self._table).values(**values)

    def _now(self) -> Any:
        if self._is_postgres:
            return sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()), sa.Double)
        return sa.literal(time.time(), sa.Double)

    def _in(self, ttl_seconds: float | None) -> Any:
        return None if ttl_seconds is None else self._now() + ttl_seconds

    def _lives(self) -> Any:
        t = self._table.c
        return sa.or_(t.expires_at.is_(None), t.expires_at > self._now())

    async def _scalar(self, statement: Any) -> Any:
        async def run(connection: AsyncConnection) -> Any:
            return (await connection.execute(statement)).scalar_one_or_none()

        return await self._do(run)

    async def _row(self, statement: Any) -> Any:
        async def run(connection: AsyncConnection) -> Any:
            return (await connection.execute(statement)).one()

        return await self._do(run)

    async def _execute(self, statement: Any) -> int:
        """How many rows it changed."""

        async def run(connection: AsyncConnection) -> int:
            return (await connection.execute(statement)).rowcount

        return await self._do(run)

    async def _do(self, step: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
        """A step is not cut off by the caller's cancellation, only by its own time: connections stay in order."""
        reason = f"the database did not answer within {OPERATION_SECONDS:g} s"
        try:
            with anyio.move_on_after(OPERATION_SECONDS, shield=True):
                async with (await self._opened()).connect() as connection:
                    await self._sweep(connection)
                    return await step(connection)
        except (SQLAlchemyError, OSError, TimeoutError) as exc:
            reason = f"the database did not do what was asked ({type(exc).__name__})"
            raise ToolUnavailable(WHAT, reason) from exc
        raise ToolUnavailable(WHAT, reason)

    async def _sweep(self, connection: AsyncConnection) -> None:
        sync = connection.sync_connection
        if sync is not None and (inlet := sync.info.get("inlet")) is not None:
            inlet.received_bytes = 0  # it bounds one step
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            await connection.execute(sa.delete(self._table).where(sa.not_(self._lives())))

    async def _opened(self) -> AsyncEngine:
        if self._engine is None:
            async with self._making:
                if self._engine is None:
                    engine = open_engine(self._target)
                    try:
                        await self._make_table(engine)
                    except BaseException:
                        await engine.dispose()
                        raise
                    self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        return self._engine

    async def _make_table(self, engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            if self._is_postgres:
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKING)))
            await connection.execute(CreateTable(self._table, if_not_exists=True))
            for index in self._table.indexes:
                await connection.execute(CreateIndex(index, if_not_exists=True))


def _table(name: str) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.LargeBinary),
        sa.Column("expires_at", sa.Double, index=True),
        sa.Column("tokens", sa.Double),
        sa.Column("taken_at", sa.Double),
        sa.Column("granted", sa.Boolean),
    )


def _least(one: Any, other: Any) -> Any:
    return sa.case((one < other, one), else_=other)


def _greatest(one: Any, other: Any) -> Any:
    return sa.case((one > other, one), else_=other)
