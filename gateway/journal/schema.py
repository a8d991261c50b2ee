"""Tables of a journal in SQL, for SQLite and PostgreSQL alike.

`journal_records` are the ledger. `verify` compares with it what can be made from it: each call's `tool_id`, all of
`journal_executions` but `owner`, which no record says, the data that records refer to in `journal_blobs`, and that it
is noted in `journal_blob_uses`. Leases and signatures are in no record. Times are microseconds since 1970. Digests and
hashes are hex. `content` is NULL once it was deleted by policy, and so is `tool_id`, which starts of calls have.
"""

VERSION = 2
"""Of the tables. A journal of another version is refused."""

APPLICATION_ID = 0x746F6F6C
"""What marks an SQLite file as ours."""

_BYTES = {"sqlite": "BLOB", "postgresql": "BYTEA"}
_CLUSTERED = {"sqlite": " WITHOUT ROWID", "postgresql": ""}
"""One tree instead of two for a table of short rows: fewer pages to write. Records themselves are long, and would be in
the upper pages of such a tree too, six to a page."""


def statements(dialect: str) -> list[str]:
    """What makes the tables where they are missing, first that of the version."""
    data, clustered = _BYTES[dialect], _CLUSTERED[dialect]
    return [
        "CREATE TABLE IF NOT EXISTS journal_schema (version BIGINT NOT NULL)",
        f"""CREATE TABLE IF NOT EXISTS journal_records (
            tenant_id TEXT NOT NULL, sequence BIGINT NOT NULL, execution_id TEXT NOT NULL, kind TEXT NOT NULL,
            tool_id TEXT, content {data}, content_sha256 TEXT NOT NULL, hash TEXT NOT NULL,
            PRIMARY KEY (tenant_id, sequence))""",
        """CREATE INDEX IF NOT EXISTS journal_records_by_execution
            ON journal_records (execution_id, kind, tool_id, sequence)""",
        f"""CREATE TABLE IF NOT EXISTS journal_executions (
            execution_id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT NOT NULL, owner TEXT NOT NULL,
            started_at BIGINT NOT NULL, language TEXT NOT NULL, profile TEXT NOT NULL, backend TEXT NOT NULL,
            mode TEXT NOT NULL, parent TEXT NOT NULL, outcome TEXT NOT NULL, ended_at BIGINT){clustered}""",
        "CREATE INDEX IF NOT EXISTS journal_executions_by_time ON journal_executions (started_at, execution_id)",
        """CREATE INDEX IF NOT EXISTS journal_executions_by_outcome
            ON journal_executions (outcome, started_at, execution_id) WHERE mode <> 'host'""",
        f"""CREATE TABLE IF NOT EXISTS journal_blobs (
            sha256 TEXT NOT NULL PRIMARY KEY, size_bytes BIGINT NOT NULL, data {data} NOT NULL)""",
        f"""CREATE TABLE IF NOT EXISTS journal_blob_uses (
            execution_id TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (execution_id, sha256)){clustered}""",
        "CREATE INDEX IF NOT EXISTS journal_blob_uses_by_blob ON journal_blob_uses (sha256)",
        """CREATE TABLE IF NOT EXISTS journal_leases (
            name TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, token BIGINT NOT NULL, expires_at BIGINT NOT NULL)""",
        """CREATE TABLE IF NOT EXISTS journal_signatures (
            tenant_id TEXT NOT NULL, sequence BIGINT NOT NULL, hash TEXT NOT NULL, signed_at TEXT NOT NULL,
            key_id TEXT NOT NULL, signature TEXT NOT NULL, PRIMARY KEY (tenant_id, sequence, key_id))""",
    ]
