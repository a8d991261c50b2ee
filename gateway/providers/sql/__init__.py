"""SQL databases as tools. Needs the extra `sql`, `postgres` or `mysql`."""

from gateway.providers.sql.database import MAX_STATEMENT_CHARS, SqlDatabase

__all__ = ["MAX_STATEMENT_CHARS", "SqlDatabase"]
