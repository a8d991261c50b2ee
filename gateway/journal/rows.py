"""The little of SQL that a journal needs of a database: statements with named binds, inside a transaction."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gateway.errors import InvalidRequest
from gateway.journal import schema

NO_BINDS: Mapping[str, Any] = {}


class Rows(Protocol):
    """A transaction. What the database raises comes out as it is; whoever opened the transaction translates it."""

    @property
    def dialect(self) -> str:
        """sqlite or postgresql."""
        ...

    def fetch(self, sql: str, binds: Mapping[str, Any] = NO_BINDS) -> list[Any]:
        """All rows."""
        ...

    def run(self, sql: str, binds: Mapping[str, Any] = NO_BINDS) -> int:
        """The number of rows it changed."""
        ...

    def many(self, sql: str, binds: Sequence[Mapping[str, Any]]) -> None:
        """The statement once for each; nothing for none."""
        ...

    def now(self) -> int:
        """The database's clock, in microseconds since 1970: the same for all hosts that share it."""
        ...


def among(column: str, values: Sequence[str], binds: dict[str, Any]) -> str:
    """`column IN (…)`, with the values added to the binds."""
    start = len(binds)
    names = [f"v{start + number}" for number in range(len(values))]
    binds |= zip(names, values, strict=True)
    return f"{column} IN ({', '.join(':' + name for name in names)})" if names else "1 = 0"


def rows_of(values: Sequence[Sequence[str | int]], binds: dict[str, Any]) -> str:
    """`VALUES (…), (…)`, with the values added to the binds. PostgreSQL takes each for a text if nothing says else."""
    found = []
    for row in values:
        names = [f"v{len(binds) + number}" for number in range(len(row))]
        binds |= zip(names, row, strict=True)
        parts = [f"CAST(:{name} AS BIGINT)" if isinstance(binds[name], int) else f":{name}" for name in names]
        found.append(f"({', '.join(parts)})")
    return f"VALUES {', '.join(found)}"


def at_one_moment(rows: Rows) -> None:
    """All that this transaction reads is of one moment; said before it reads. In SQLite it is so anyway."""
    if rows.dialect == "postgresql":
        rows.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def make_tables(rows: Rows, where: str) -> None:
    """Where they are missing. Raises InvalidRequest for tables of another version."""
    versions, *others = schema.statements(rows.dialect)
    rows.run(versions)
    if rows.fetch("SELECT 1 FROM journal_schema"):
        check_version(rows, where)
    else:
        for statement in others:
            rows.run(statement)
        rows.run("INSERT INTO journal_schema (version) VALUES (:version)", {"version": schema.VERSION})


def check_version(rows: Rows, where: str) -> None:
    """Raises InvalidRequest for tables of another version."""
    found = rows.fetch("SELECT max(version) FROM journal_schema")[0][0]
    if found != schema.VERSION:
        fix = "upgrade" if found > schema.VERSION else "keep it for the toolexec that wrote it, and name a new one"
        raise InvalidRequest(
            f"the journal {where} has version {found} of the tables, and this toolexec knows {schema.VERSION}; {fix}"
        )
