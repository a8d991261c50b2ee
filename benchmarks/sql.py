"""What an SQL tool adds to a query, on this machine: `run_tool` beside bare SQLAlchemy, turn and turn about."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from figures import Figure, added, by_turns, left_out, rounds, spread
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.providers.sql import SqlDatabase
from sandbox import AsyncExec
from tests.engines import Postgres, running

STATEMENT = "SELECT id, name, total FROM orders WHERE id = :id"
ROW = {"id": 7, "name": "order 7", "total": 7.5}
TABLE = (
    "CREATE TABLE orders (id integer PRIMARY KEY, name varchar(40), total double precision)",
    "INSERT INTO orders (id, name, total) VALUES (:id, :name, :total)",
)


async def measure(share: float) -> list[Figure]:
    count = rounds(2000, share)
    return await sqlite(count) + await postgres(count)


async def sqlite(count: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "orders.db")
        return await compared("SQLite", f"sqlite:///{file}", f"sqlite+aiosqlite:///{file}", count)


async def postgres(count: int) -> list[Figure]:
    if program := Postgres.missing():
        return left_out("PostgreSQL", f"{program} is not installed")
    with running(Postgres) as server:
        bare_url = server.url.replace("postgresql://", "postgresql+asyncpg://")
        return await compared("PostgreSQL", server.url, bare_url, count)


async def compared(name: str, url: str, bare_url: str, count: int) -> list[Figure]:
    engine = create_async_engine(bare_url)
    async with AsyncExec() as host:
        await filled(engine)
        database = SqlDatabase(url)
        host.register(database.tool("orders:fixed", STATEMENT), database.query_tool("orders:query"))

        async def bare() -> None:
            async with engine.connect() as connection:
                found: Sequence[object] = (await connection.execute(text(STATEMENT), {"id": 7})).mappings().all()
            assert found == [ROW]

        async def fixed() -> None:
            answer = await host.run_tool("orders:fixed", {"id": 7})
            assert isinstance(answer, dict)
            assert answer["rows"] == [ROW]

        async def query() -> None:
            answer = await host.run_tool("orders:query", {"statement": STATEMENT, "arguments": {"id": 7}})
            assert isinstance(answer, dict)
            assert answer["rows"] == [ROW]

        bares, fixeds, queries = await by_turns(count, bare, fixed, query)
    await engine.dispose()
    return [
        spread(f"reference: a SELECT through bare SQLAlchemy, {name}", "µs", bares),
        spread(f"SQL: what run_tool adds to it, {name}", "µs", added(fixeds, bares), target=200),
        spread(f"SQL: the same with the caller's own statement, {name}", "µs", added(queries, bares), target=200),
    ]


async def filled(engine: AsyncEngine) -> None:
    rows = [{"id": number, "name": f"order {number}", "total": number + 0.5} for number in range(1000)]
    async with engine.begin() as connection:
        await connection.execute(text(TABLE[0]))
        await connection.execute(text(TABLE[1]), rows)
