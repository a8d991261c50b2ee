"""Connections to MySQL and MariaDB, by aiomysql or asyncmy."""

from functools import partial
from typing import Any

from aiomysql.connection import Connection
from pymysql.constants import CLIENT
from pymysql.err import OperationalError
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.providers.sql.dial import dialled, tls_context
from gateway.providers.sql.target import CONNECT_SECONDS, Target

_NO_TLS = 2026  # what MySQL's own client says then


def mysql_engine(target: Target, pool: dict[str, Any]) -> AsyncEngine:
    url = target.url.set(drivername=f"mysql+{target.driver}", password=None)
    options: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "charset": "utf8mb4"}
    connect: Any = _connect
    if target.driver == "aiomysql":
        options["ssl"] = tls_context(target)
    else:
        import asyncmy  # noqa: PLC0415 - the second driver, which few have

        connect = asyncmy.connect
    options["async_creator_fn"] = partial(dialled, target, connect)
    engine = create_async_engine(url, connect_args=options, **pool)

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        record.info["session"] = connection.driver_connection.thread_id()
        cursor = connection.cursor()
        for setting in _settings(target, is_mariadb="MariaDB" in connection.driver_connection.get_server_info()):
            cursor.execute(f"SET SESSION {setting}")
        cursor.close()

    return engine


def _settings(target: Target, *, is_mariadb: bool) -> list[str]:
    seconds = target.statement_timeout_seconds
    modes = "'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'"  # quotes as the guard reads them
    timeout = f"max_statement_time = {seconds}" if is_mariadb else f"max_execution_time = {int(seconds * 1000)}"
    settings = [f"sql_mode = {modes}", timeout, f"sql_select_limit = {target.max_rows + 1}"]
    return [*settings, "TRANSACTION READ ONLY"] if target.read_only else settings


class _StrictConnection(Connection):  # type: ignore[misc] # aiomysql has no types
    """aiomysql goes on in the clear where a server, or who sits before it, offers no TLS; this one does not.

    Nor does it take several statements at once.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.client_flag &= ~CLIENT.MULTI_STATEMENTS

    async def _request_authentication(self) -> None:
        if self._ssl_context and not self.server_capabilities & CLIENT.SSL:
            raise OperationalError(_NO_TLS, "the server offers no TLS; enable it there, or pass tls='off'")
        await super()._request_authentication()


async def _connect(**options: Any) -> _StrictConnection:
    connection = _StrictConnection(**options)
    await connection._connect()
    return connection
