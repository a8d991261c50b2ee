"""SQL databases as tools: SQLite, PostgreSQL, MySQL and MariaDB, through SQLAlchemy's asynchronous engine.

    db = SqlDatabase("postgresql://reader@db.example.com/shop", password=lambda: os.environ["SHOP_PASSWORD"])
    find = db.tool("orders:find", "SELECT id, total FROM orders WHERE customer = :customer LIMIT :limit")

Values are bound by name on every database. Needs `pip install 'toolexec[sql]'`, or `[postgres]`, `[mysql]`.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, Unpack

import anyio
import anyio.to_thread

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import InvalidInput, InvalidRequest, MissingExtra, ToolTimeout, ToolUnavailable
from gateway.policies.destinations import Destination
from gateway.policies.egress import Egress
from gateway.providers.secret import Secret, revealed
from gateway.providers.sql.values import driver_value
from gateway.providers.unsent import unsent
from gateway.tools.model import Tool, ToolFields, ToolId
from gateway.tracing import request_span

try:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from gateway.providers.sql import statements
    from gateway.providers.sql.engine import open_engine
    from gateway.providers.sql.errors import Call, translating
    from gateway.providers.sql.guard import Statement, read, read_trusted
    from gateway.providers.sql.schemas import CHANGES, QUERY, ROWS, SCALAR, TABLES, WHICH
    from gateway.providers.sql.target import CONNECT_SECONDS, Target, Tls, default_tls, origin_url, parse_url
except ModuleNotFoundError as exc:
    raise MissingExtra("SQL databases", "sql") from exc

MAX_STATEMENT_CHARS = 10_000
"""Longest statement of a caller: reading it takes 15 ms for each 1,000 characters (measured)."""

_THREAD_CHARS = 1000  # statements over this are read in a thread, so that they do not hold up the event loop
_GRACE_SECONDS = 1.0  # for the server to end a statement by its own clock, before we do
_END_SECONDS = 5.0  # for a statement to end that was cancelled

NOWHERE = Egress()

_T = TypeVar("_T")


class SqlDatabase:
    """One database and its pool of connections, opened at the first call; any number of tools share them.

    `url` is SQLAlchemy's: `sqlite:///file.db`, `sqlite://` for an in-memory database that lives until `aclose`,
    `postgresql://user@host/database`, `mysql://user@host/database`; `mysql+asyncmy://` chooses that driver.

    | option | meaning | default |
    | --- | --- | --- |
    | `password` | text, or a function that is asked at each new connection | that of the URL |
    | `read_only` | no connection can write: by the parser, by the server's or SQLite's own mode | True |
    | `max_rows` | rows of one answer; it says when there were more | 1,000 |
    | `statement_timeout_seconds` | held by the server where it can | 20 |
    | `pool_size`, `pool_wait_seconds` | connections, and how long a call waits for one | 5, 5 s |
    | `tls` | `verify`, `encrypt` (any certificate) or `off` | `verify`; `off` on this machine |
    | `ca_file` | certificates to trust, a PEM file | the system's |
    | `egress` | what may be connected to beside the URL's host: a private address it leads to | nothing |
    | `functions` | more functions that statements may call, such as `my_schema.score` | none |

    Raises InvalidRequest.
    """

    def __init__(
        self,
        url: str,
        *,
        password: Secret | None = None,
        read_only: bool = True,
        max_rows: int = 1000,
        statement_timeout_seconds: float = 20.0,
        pool_size: int = 5,
        pool_wait_seconds: float = 5.0,
        tls: Tls | None = None,
        ca_file: str | Path | None = None,
        functions: Collection[str] = (),
        egress: Egress = NOWHERE,
    ) -> None:
        _check(max_rows, statement_timeout_seconds, pool_size, pool_wait_seconds)
        parsed = parse_url(url)
        self._target = Target(
            url=parsed,
            password=partial(revealed, parsed.password or "" if password is None else password),
            read_only=read_only,
            max_rows=max_rows,
            statement_timeout_seconds=statement_timeout_seconds,
            pool_size=pool_size,
            pool_wait_seconds=pool_wait_seconds,
            tls=default_tls(parsed) if tls is None else tls,
            ca_file=None if ca_file is None else Path(ca_file),
        )
        self._target.check()
        if self._target.host:
            self._target = replace(self._target, egress=egress.with_url(origin_url(self._target)))
        self._name = str(self._target)
        self._functions = frozenset(name.lower() for name in functions)
        self._engine: AsyncEngine | None = None

    def __repr__(self) -> str:
        return f"SqlDatabase({self._target})"

    def tool(
        self,
        id: str,  # noqa: A002 - what everything calls it
        statement: str,
        *,
        input_schema: dict[str, Any] | None = None,
        **fields: Unpack[ToolFields],
    ) -> Tool:
        """A tool that runs this one statement; its arguments are the named binds, as in `WHERE id = :id`.

        Without an `input_schema` each bind is required, and takes what a cast or LIMIT around it says, or any scalar.
        With one, an argument that may be left out and is, is NULL; texts with `contentEncoding: base64` are bytes, and
        `IN :ids` takes a list. The result is {columns, rows, row_count, truncated} with rows as objects, and
        `rows_affected` where the statement writes. Raises InvalidToolId and InvalidRequest.
        """
        try:
            found, writes_because = read_trusted(statement, self._target.dialect, self._functions)
        except InvalidInput as refused:
            raise InvalidRequest(f"the statement of {id} cannot be used: {refused.message}") from refused
        if writes_because and self._target.read_only:
            allow = "SqlDatabase(…, read_only=False) allows it"
            raise InvalidRequest(f"{id} is not known to read only: {writes_because}; {allow}")
        schema = _schema_of(found) if input_schema is None else input_schema
        provider = _FixedStatement(self, found, _base64_names(id, found, schema))
        return _tool(id, provider, "", schema, ROWS if found.is_read else CHANGES, fields)

    def query_tool(self, id: str, **fields: Unpack[ToolFields]) -> Tool:  # noqa: A002 - as above
        """A tool that runs one statement of the caller's: a SELECT, or where writing is allowed a change of rows.

        Whatever could reach beyond the rows of the database is refused before it is sent.
        """
        words = f"Run one SQL statement ({self._target.dialect}); bind values by name, as in `WHERE id = :id`."
        rules = "Only reading is allowed." if self._target.read_only else "Reads and writes rows."
        about = f"{words} {rules} At most {self._target.max_rows} rows come back."
        read_only = self._target.read_only
        return _tool(id, _AnyStatement(self), about, QUERY, ROWS if read_only else CHANGES, fields)

    def schema_tool(self, id: str, **fields: Unpack[ToolFields]) -> Tool:  # noqa: A002 - as above
        """A tool that describes tables and views: columns with type, nullability and default, keys and references."""
        about = f"The tables and views of the {self._target.dialect} database, with their columns."
        return _tool(id, _Description(self), about, WHICH, TABLES, fields)

    async def health(self) -> None:
        """Raises ToolUnavailable or ToolFailed when the database does not answer."""
        statement = read("SELECT 1", self._target.dialect)
        await self.run(lambda connection: statements.read(connection, self._target, statement, {}), ToolContext())

    async def aclose(self) -> None:
        """Close every connection; an in-memory database is gone then. The next call opens them again. Idempotent."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    async def read_statement(self, source: str) -> Statement:
        """A caller's statement, if it may run here. Raises InvalidInput."""
        if len(source) > MAX_STATEMENT_CHARS:
            raise InvalidInput(f"the statement has {len(source)} characters; at most {MAX_STATEMENT_CHARS} are taken")
        arguments = (source, self._target.dialect, self._functions)
        long = len(source) > _THREAD_CHARS
        statement = await anyio.to_thread.run_sync(read, *arguments) if long else read(*arguments)
        if self._target.read_only and not statement.is_read:
            raise InvalidInput("the statement writes, and only reading is allowed here")
        return statement

    def destination(self, tables: frozenset[str] | None, verbs: frozenset[str] | None) -> tuple[Destination, ...]:
        """Where a call goes that uses these tables in these ways."""
        return (self._target.destination(tables, verbs),)

    async def execute(
        self,
        statement: Statement,
        arguments: Mapping[str, JsonValue],
        context: ToolContext,
        base64_names: frozenset[str] = frozenset(),
    ) -> JsonValue:
        """Run one statement with a value for each of its binds. Raises ToolError."""
        try:
            values = {
                name: self._value(name, arguments.get(name), statement, is_base64=name in base64_names)
                for name in statement.binds
            }
        except ValueError as exc:
            raise InvalidInput(f"an argument is not base64: {exc}") from exc
        step = statements.read if statement.is_read else statements.write
        return await self.run(lambda connection: step(connection, self._target, statement, values), context)

    def _value(self, name: str, value: JsonValue, statement: Statement, *, is_base64: bool) -> Any:
        structures = self._target.dialect == "postgres"
        if name not in statement.lists:
            return driver_value(value, is_base64=is_base64, takes_structures=structures)
        if not isinstance(value, list):
            raise InvalidInput(f"{name} stands for all values of an IN; give it a list")
        return [driver_value(part, is_base64=is_base64, takes_structures=structures) for part in value]

    async def describe(self, schema: str | None, table: str | None, context: ToolContext) -> JsonValue:
        """Tables and views of the database, or one of them. Raises ToolError."""
        return await self.run(lambda connection: statements.tables(connection, self._target, schema, table), context)

    async def run(self, step: Callable[[Connection], _T], context: ToolContext) -> _T:
        """`step` on a connection of its own. When nobody waits any more, the statement ends on the server too."""
        call = Call(context.tool_id, self._name, self._target.statement_timeout_seconds)
        with request_span(context, "db", self._target.attributes):
            with unsent(), translating(call):
                connection = await self._connect()
            with translating(call):
                try:
                    return await self._see_through(connection, step, call)
                finally:
                    with anyio.move_on_after(_END_SECONDS, shield=True):
                        await connection.close()

    async def _connect(self) -> AsyncConnection:
        if self._engine is None:
            self._engine = open_engine(self._target)
        seconds = self._target.pool_wait_seconds + CONNECT_SECONDS
        with anyio.move_on_after(seconds):
            return await self._engine.connect()
        raise ToolUnavailable(self._name, f"no connection within {seconds:g} s")

    async def _see_through(self, connection: AsyncConnection, step: Callable[[Connection], _T], call: Call) -> _T:
        """The driver never sees our cancellation: it would give up the connection, and the statement would go on."""
        work = asyncio.ensure_future(connection.run_sync(step))
        try:
            await asyncio.wait({work}, timeout=self._target.statement_timeout_seconds + _GRACE_SECONDS)
            if work.done():
                return work.result()
        finally:
            if not work.done():
                with anyio.CancelScope(shield=True):
                    await self._end(connection, work)
        raise ToolTimeout(call.tool_id, self._target.statement_timeout_seconds)

    async def _end(self, connection: AsyncConnection, work: "asyncio.Future[_T]") -> None:
        with anyio.move_on_after(_END_SECONDS):
            try:
                await self._end_on_server(connection)
            except Exception:  # noqa: BLE001 - however asking the server fails, the connection can be given up
                work.cancel()
            await asyncio.wait({work})
        if not work.done():
            work.cancel()
            await asyncio.wait({work}, timeout=_END_SECONDS)
        if work.done() and not work.cancelled():
            work.exception()  # looked at, so that asyncio does not complain

    async def _end_on_server(self, connection: AsyncConnection) -> None:
        info = connection.sync_connection.info if connection.sync_connection is not None else {}
        if self._target.dialect == "sqlite":
            info["watch"].ended = True
            return
        session = int(info["session"])
        is_postgres = self._target.dialect == "postgres"
        command = f"SELECT pg_cancel_backend({session})" if is_postgres else f"KILL QUERY {session}"
        async with open_engine(self._target, pooled=False).connect() as other:
            await other.exec_driver_sql(command)


@dataclass(frozen=True, slots=True)
class _OfDatabase(ABC):
    database: SqlDatabase

    @abstractmethod
    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue: ...

    @abstractmethod
    async def destinations(self, arguments: Mapping[str, JsonValue]) -> tuple[Destination, ...]: ...

    async def health(self) -> None:
        await self.database.health()

    async def aclose(self) -> None:
        await self.database.aclose()


@dataclass(frozen=True, slots=True)
class _FixedStatement(_OfDatabase):
    statement: Statement
    base64_names: frozenset[str]

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        return await self.database.execute(self.statement, arguments, context, self.base64_names)

    async def destinations(self, arguments: Mapping[str, JsonValue]) -> tuple[Destination, ...]:
        del arguments
        return self.database.destination(self.statement.tables, self.statement.verbs)


@dataclass(frozen=True, slots=True)
class _AnyStatement(_OfDatabase):
    async def destinations(self, arguments: Mapping[str, JsonValue]) -> tuple[Destination, ...]:
        statement = await self.database.read_statement(arguments["statement"])
        return self.database.destination(statement.tables, statement.verbs)

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        statement = await self.database.read_statement(arguments["statement"])
        values = arguments["arguments"]
        odd = set(statement.binds) ^ set(values)
        if odd:
            raise InvalidInput(f"binds and arguments differ: {', '.join(sorted(odd))}; give each bind one argument")
        return await self.database.execute(statement, values, context)


@dataclass(frozen=True, slots=True)
class _Description(_OfDatabase):
    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        return await self.database.describe(arguments.get("schema"), arguments.get("table"), context)

    async def destinations(self, arguments: Mapping[str, JsonValue]) -> tuple[Destination, ...]:
        named = [arguments[part] for part in ("schema", "table") if arguments.get(part)]
        return self.database.destination(
            frozenset({".".join(named)}) if "table" in arguments else None, frozenset({"describe"})
        )


def _check(max_rows: int, statement_timeout_seconds: float, pool_size: int, pool_wait_seconds: float) -> None:
    for name, count in (("max_rows", max_rows), ("pool_size", pool_size)):
        if count < 1:
            raise InvalidRequest(f"{name} must be at least 1, not {count}")
    waits = (("statement_timeout_seconds", statement_timeout_seconds), ("pool_wait_seconds", pool_wait_seconds))
    for name, seconds in waits:
        if not (seconds > 0 and math.isfinite(seconds)):
            raise InvalidRequest(f"{name} must be above 0 and finite, not {seconds}")


def _schema_of(statement: Statement) -> dict[str, Any]:
    types = dict(statement.types)
    properties = {
        name: {"type": "array", "items": SCALAR}
        if name in statement.lists
        else ({"type": types[name]} if name in types else SCALAR)
        for name in statement.binds
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _base64_names(tool_id: str, statement: Statement, schema: Mapping[str, Any]) -> frozenset[str]:
    """The binds that are bytes; on the way it is checked that schema and statement speak of the same names."""
    properties = schema.get("properties", {})
    odd = set(properties) ^ set(statement.binds)
    if odd:
        raise InvalidRequest(f"{tool_id}: schema and statement differ in {', '.join(sorted(odd))}; name each bind once")
    return frozenset(name for name, below in properties.items() if below.get("contentEncoding") == "base64")


def _tool(
    tool_id: str,
    provider: _OfDatabase,
    description: str,
    input_schema: dict[str, Any],
    output_schema: dict[str, Any],
    fields: ToolFields,
) -> Tool:
    if fields.get("read_only") and output_schema is CHANGES:
        raise InvalidRequest(f"{tool_id} may write; leave read_only out, which decides what is tried again and cached")
    told: dict[str, Any] = {
        "description": description,
        "read_only": output_schema is not CHANGES,
        "open_world": False,
        **fields,
    }
    return Tool(
        id=ToolId.parse(tool_id), provider=provider, input_schema=input_schema, output_schema=output_schema, **told
    )
