"""What the tests of SQL tools share: a table on each kind of database, and calls as the runner makes them."""

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.providers.sql import SqlDatabase
from gateway.runner import Runner
from gateway.tools.model import Tool
from gateway.tools.registry import ToolRegistry
from tests.conftest import require


def needs_asyncmy() -> None:
    if importlib.util.find_spec("asyncmy") is None:
        require("asyncmy", "the second driver for MySQL is not installed")


async def call(tool: Tool, arguments: dict[str, Any] | None = None, timeout_seconds: float | None = None) -> Any:
    """The tool's answer, checked against its schemas on both sides."""
    registry = ToolRegistry([tool])
    context = ToolContext(tool_id=str(tool.id))
    runner = Runner(registry)
    return await runner.run(registry.tools()[0], arguments or {}, context, timeout_seconds=timeout_seconds)


async def query(database: SqlDatabase, statement: str, **arguments: JsonValue) -> Any:
    """As a caller of the query tool would."""
    return await call(database.query_tool("db:query"), {"statement": statement, "arguments": arguments})


async def rows(database: SqlDatabase, statement: str, **arguments: JsonValue) -> list[dict[str, JsonValue]]:
    found: list[dict[str, JsonValue]] = (await query(database, statement, **arguments))["rows"]
    return found


async def execute(database: SqlDatabase, statement: str, **arguments: JsonValue) -> Any:
    """As the operator's fixed statement."""
    return await call(database.tool("db:fixed", statement), arguments)


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[SqlDatabase]:
    database = SqlDatabase(url, **options)
    try:
        yield database
    finally:
        await database.aclose()
