"""Tables of a journal in SQL, for SQLite and PostgreSQL alike.

`journal_records` are the ledger; the other tables can be made from it, and `verify` compares them with it. Times are
microseconds since 1970. Digests and hashes are hex. `content` is NULL once it was deleted by policy.
"""

VERSION = 1
"""Of the tables. A journal with a higher one is refused: who wrote it knew more than we do."""

APPLICATION_ID = 0x746F6F6C
"""What marks an SQLite file as ours."""

_BYTES = {"sqlite": "BLOB", "postgresql": "BYTEA"}
_CLUSTERED = {"sqlite": " WITHOUT ROWID", "postgresql": ""}
"""One tree instead of two for each table: a third fewer pages to write for a record."""


def statements(dialect: str) -> list[str]:
    """What makes the tables where they are missing."""
    data, clustered = _BYTES[dialect], _CLUSTERED[dialect]
    return [
        f"""CREATE TABLE IF NOT EXISTS journal_records (
            tenant_id TEXT NOT NULL, sequence BIGINT NOT NULL, execution_id TEXT NOT NULL, kind TEXT NOT NULL,
            content {data}, content_sha256 TEXT NOT NULL, hash TEXT NOT NULL,
            PRIMARY KEY (tenant_id, sequence)){clustered}""",
        "CREATE INDEX IF NOT EXISTS journal_records_by_execution ON journal_records (execution_id, kind, sequence)",
        """CREATE TABLE IF NOT EXISTS journal_executions (
            execution_id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT NOT NULL, owner TEXT NOT NULL,
            started_at BIGINT NOT NULL, language TEXT NOT NULL, profile TEXT NOT NULL, backend TEXT NOT NULL,
            mode TEXT NOT NULL, parent TEXT NOT NULL, outcome TEXT NOT NULL, ended_at BIGINT)""",
        "CREATE INDEX IF NOT EXISTS journal_executions_by_time ON journal_executions (started_at, execution_id)",
        "CREATE INDEX IF NOT EXISTS journal_executions_by_outcome ON journal_executions (outcome, started_at)",
        f"""CREATE TABLE IF NOT EXISTS journal_tools (
            execution_id TEXT NOT NULL, tool_id TEXT NOT NULL, PRIMARY KEY (execution_id, tool_id)){clustered}""",
        f"""CREATE TABLE IF NOT EXISTS journal_blobs (
            sha256 TEXT NOT NULL PRIMARY KEY, size_bytes BIGINT NOT NULL, data {data} NOT NULL)""",
        """CREATE TABLE IF NOT EXISTS journal_blob_uses (
            execution_id TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (execution_id, sha256))""",
        "CREATE INDEX IF NOT EXISTS journal_blob_uses_by_blob ON journal_blob_uses (sha256)",
        """CREATE TABLE IF NOT EXISTS journal_leases (
            name TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, token BIGINT NOT NULL, expires_at BIGINT NOT NULL)""",
        """CREATE TABLE IF NOT EXISTS journal_signatures (
            tenant_id TEXT NOT NULL, sequence BIGINT NOT NULL, hash TEXT NOT NULL, signed_at TEXT NOT NULL,
            key_id TEXT NOT NULL, signature TEXT NOT NULL, PRIMARY KEY (tenant_id, sequence, key_id))""",
        "CREATE TABLE IF NOT EXISTS journal_schema (version BIGINT NOT NULL)",
    ]
