"""SQLAlchemy engines, by dialect."""

from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from gateway.errors import MissingExtra
from gateway.providers.sql.target import Target


def open_engine(target: Target, *, pooled: bool = True) -> AsyncEngine:
    """An engine whose connections keep to `target`; nothing is connected yet. Raises MissingExtra."""
    pool: dict[str, Any] = {"poolclass": NullPool}
    if pooled:
        size = 1 if target.is_memory else target.pool_size  # one connection is the whole in-memory database
        pool = {"pool_size": size, "max_overflow": 0, "pool_timeout": target.pool_wait_seconds}
    try:
        engine = _engine(target, pool)
    except ModuleNotFoundError as exc:
        raise MissingExtra(f"{target.url.drivername} databases", target.extra) from exc
    if target.dialect != "sqlite":

        @event.listens_for(engine.sync_engine, "do_connect")
        def authenticate(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
            options["password"] = target.password()

    return engine


def _engine(target: Target, pool: dict[str, Any]) -> AsyncEngine:
    match target.dialect:
        case "sqlite":
            from gateway.providers.sql.sqlite import sqlite_engine  # noqa: PLC0415 - each needs its driver

            return sqlite_engine(target, pool)
        case "postgres":
            from gateway.providers.sql.postgres import postgres_engine  # noqa: PLC0415

            return postgres_engine(target, pool)
    from gateway.providers.sql.mysql import mysql_engine  # noqa: PLC0415

    return mysql_engine(target, pool)
