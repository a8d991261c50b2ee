"""Connections to PostgreSQL, by asyncpg."""

import asyncio
import json
from functools import partial
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.providers.sql.dial import dialled, tls_context
from gateway.providers.sql.target import CONNECT_SECONDS, Target

MAX_RECEIVED_BYTES = 64 << 20
"""What one statement may make a server send: rows are fetched a few at a time, but a value comes whole, up to 1 GB."""


class Inlet(asyncio.Protocol):
    """Between a connection's transport and asyncpg: counts what comes, and cuts the connection when it is too much."""

    def __init__(self, transport: Any, inner: Any) -> None:
        self._transport = transport
        self._inner = inner
        self.received_bytes = 0

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        if self.received_bytes > MAX_RECEIVED_BYTES:
            self._transport.abort()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        answer: bool | None = self._inner.eof_received()
        return answer

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def postgres_engine(target: Target, pool: dict[str, Any]) -> AsyncEngine:
    import asyncpg  # noqa: PLC0415 - of an extra

    url = target.url.set(drivername=f"postgresql+{target.driver}", password=None)
    options = {
        "ssl": tls_context(target) or False,
        "timeout": CONNECT_SECONDS,
        "async_creator_fn": partial(dialled, target, asyncpg.connect),
    }
    engine = create_async_engine(url, connect_args=options, **pool)

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        record.info["session"] = connection.driver_connection.get_server_pid()
        record.info["inlet"] = _inlet(connection.driver_connection)
        connection.run_async(lambda driver: _prepare(driver, target))

    return engine


def _inlet(connection: Any) -> Inlet:
    inlet = Inlet(connection._transport, connection._protocol)
    connection._transport.set_protocol(inlet)
    return inlet


async def _prepare(connection: Any, target: Target) -> None:
    """Session settings in one round trip, and codecs through which dates and JSON pass as JSON has them."""
    await connection.execute(
        f"SET statement_timeout = {int(target.statement_timeout_seconds * 1000)};"
        f"SET default_transaction_read_only = {'on' if target.read_only else 'off'};"
        "SET standard_conforming_strings = on; SET datestyle = 'ISO'; SET intervalstyle = 'iso_8601';"
    )
    for name in ("date", "time", "timetz", "interval"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=str, decoder=str, format="text")
    for name in ("timestamp", "timestamptz"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=str, decoder=_iso, format="text")
    by_json = {"encoder": json.dumps, "decoder": json.loads}
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, schema="pg_catalog", format="text", **by_json)


def _iso(text: str) -> str:
    """2024-01-31 12:00:00+00 as ISO 8601 has it: a T between, and minutes in the offset."""
    date, _, rest = text.partition(" ")
    if not rest:
        return text  # infinity
    short_offset = len(rest) > 3 and rest[-3] in "+-"
    return f"{date}T{rest}:00" if short_offset else f"{date}T{rest}"
