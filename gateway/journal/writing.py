"""What is written: one transaction for all records that wait, so that they share one sync of the disk."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import InvalidRequest, LeaseLost, NotRecorded, SandboxError
from gateway.journal.base import Lease, Link
from gateway.journal.codec import Content, content_of
from gateway.journal.ledger import Head, kept_text, linked
from gateway.journal.listing import microseconds
from gateway.journal.records import CallFinished, CallStarted, ExecutionFinished, ExecutionStarted, Record
from gateway.journal.rows import Rows, among
from gateway.journal.signing import Signer

_RECORD = """INSERT INTO journal_records
    (tenant_id, sequence, execution_id, kind, tool_id, content, content_sha256, hash)
    VALUES (:tenant_id, :sequence, :execution_id, :kind, :tool_id, :content, :content_sha256, :hash)"""
_HOST_EXECUTION = """INSERT INTO journal_executions
    (execution_id, tenant_id, owner, started_at, language, profile, backend, mode, parent, outcome)
    VALUES (:execution_id, :tenant_id, :owner, :started_at, '', '', '', 'host', '', '')
    ON CONFLICT (execution_id) DO NOTHING"""
_EXECUTION = """INSERT INTO journal_executions
    (execution_id, tenant_id, owner, started_at, language, profile, backend, mode, parent, outcome, ended_at)
    VALUES (:execution_id, :tenant_id, :owner, :started_at, :language, :profile, :backend, :mode, :parent, :outcome,
    :ended_at)
    ON CONFLICT (execution_id) DO UPDATE SET owner = excluded.owner, language = excluded.language,
    profile = excluded.profile, backend = excluded.backend, mode = excluded.mode, parent = excluded.parent,
    outcome = excluded.outcome, ended_at = excluded.ended_at"""
_ENDED = "UPDATE journal_executions SET outcome = :outcome, ended_at = :ended_at WHERE execution_id = :execution_id"
_BLOB = """INSERT INTO journal_blobs (sha256, size_bytes, data) VALUES (:sha256, :size_bytes, :data)
    ON CONFLICT DO NOTHING"""
_USE = "INSERT INTO journal_blob_uses (execution_id, sha256) VALUES (:execution_id, :sha256) ON CONFLICT DO NOTHING"
_IN_ORDER = (_RECORD, _EXECUTION, _HOST_EXECUTION, _ENDED, _BLOB, _USE)


@dataclass(slots=True)
class Write:
    """Records, or data by its digest, that wait to be kept together. `flaw` is why they were not."""

    records: Sequence[Record]
    contents: Sequence[Content]
    lease: Lease | None = None
    data: tuple[str, Mapping[str, bytes]] | None = None
    flaw: SandboxError | None = None

    @classmethod
    def of(cls, records: Sequence[Record], lease: Lease | None) -> "Write":
        """Raises InvalidRequest."""
        for record in records:
            if "\0" in record.tenant_id or "\0" in record.execution_id:
                raise InvalidRequest("a tenant's or an execution's id must not have a NUL in it")
        return cls(records, [content_of(record) for record in records], lease)

    @property
    def is_ahead(self) -> bool:
        """Whether something follows that must not happen without it. Ends of calls are not: see docs/journal.md."""
        return self.data is not None or not all(isinstance(record, CallFinished) for record in self.records)

    @property
    def size_bytes(self) -> int:
        kept = sum(len(content.data) + sum(map(len, content.blobs.values())) for content in self.contents)
        return kept + (sum(map(len, self.data[1].values())) if self.data else 0)


class _Tables:
    """Rows, gathered by the statement that writes them, so that each is run once."""

    def __init__(self) -> None:
        self._found: dict[str, list[dict[str, Any]]] = {}
        self._begun: dict[str, dict[str, Any]] = {}

    def add(self, sql: str, row: dict[str, Any]) -> None:
        self._found.setdefault(sql, []).append(row)

    def begin(self, row: dict[str, Any]) -> None:
        execution_id = row["execution_id"]
        self._begun[execution_id] = row
        self.add(_EXECUTION, row)
        if _ENDED in self._found:  # it ended before, and goes on
            self._found[_ENDED] = [one for one in self._found[_ENDED] if one["execution_id"] != execution_id]

    def end(self, execution_id: str, ended: dict[str, Any]) -> None:
        if (begun := self._begun.get(execution_id)) is not None:
            begun.update(ended)  # in one step
        else:
            self.add(_ENDED, {"execution_id": execution_id, **ended})

    def add_blobs(self, execution_id: str, blobs: Mapping[str, bytes]) -> None:
        for digest, data in blobs.items():
            self.add(_BLOB, {"sha256": digest, "size_bytes": len(data), "data": data})
            self.add(_USE, {"execution_id": execution_id, "sha256": digest})

    def write(self, rows: Rows) -> None:
        for sql in _IN_ORDER:
            if sql in self._found:
                rows.many(sql, self._found[sql])

    def knows(self, execution_id: str) -> bool:
        host = (row["execution_id"] for row in self._found.get(_HOST_EXECUTION, ()))
        return execution_id in self._begun or execution_id in host


class Recorder:
    """Puts writes into the tables, in the name of one host (`owner`)."""

    def __init__(self, owner: str, signer: Signer | None) -> None:
        self.owner = owner
        self.signer = signer

    def write(self, rows: Rows, writes: Sequence[Write]) -> None:
        """Keep them; those whose lease is lost get a flaw instead."""
        for write in writes:
            write.flaw = None  # a transaction may be tried twice
        lock_chains(rows, (record.tenant_id for write in writes for record in write.records))
        self._check_leases(rows, writes)
        heads: dict[str, Head] = {}
        tables = _Tables()
        for write in writes:
            if write.flaw is None:
                self._add(rows, tables, heads, write)
        tables.write(rows)
        if self.signer is not None:
            kept = (record.tenant_id for write in writes if write.flaw is None for record in write.records)
            self.signer.written(rows, heads, Counter(kept))

    def _add(self, rows: Rows, tables: _Tables, heads: dict[str, Head], write: Write) -> None:
        for record, content in zip(write.records, write.contents, strict=True):
            head = heads[record.tenant_id] if record.tenant_id in heads else head_of(rows, record.tenant_id)
            link = linked(head, record, content.data)
            heads[record.tenant_id] = Head(link.sequence, link.hash)
            tables.add(_RECORD, _row(link, record))
            if content.blobs:
                tables.add_blobs(record.execution_id, content.blobs)
            self._index(tables, record)
        if write.data is not None:
            execution_id, blobs = write.data
            if tables.knows(execution_id) or _is_known(rows, execution_id):
                tables.add_blobs(execution_id, blobs)
            else:
                write.flaw = NotRecorded(f"execution {execution_id}")

    def _index(self, tables: _Tables, record: Record) -> None:
        match record:
            case CallStarted():
                if record.index == 0:
                    tables.add(_HOST_EXECUTION, self._execution(record))
            case ExecutionStarted():
                mode = {"language": record.language, "profile": record.profile, "backend": record.backend}
                mode |= {"mode": str(record.mode), "parent": record.parent}
                tables.begin(self._execution(record) | mode | {"outcome": "", "ended_at": None})
            case ExecutionFinished():
                tables.end(record.execution_id, {"outcome": record.outcome, "ended_at": microseconds(record.at)})

    def _execution(self, record: Record) -> dict[str, Any]:
        return {
            "execution_id": record.execution_id,
            "tenant_id": record.tenant_id,
            "owner": self.owner,
            "started_at": microseconds(record.at),
        }

    def _check_leases(self, rows: Rows, writes: Sequence[Write]) -> None:
        """Once an execution was leased, only its holder may write of it."""
        names = sorted({record.execution_id for write in writes for record in write.records})
        binds: dict[str, Any] = {}
        leased = rows.fetch(
            f"SELECT name, token, expires_at FROM journal_leases WHERE {among('name', names, binds)}",
            binds,
        )
        if not leased:
            return
        now = rows.now()
        held = {name: token if expires_at > now else 0 for name, token, expires_at in leased}
        for write in writes:
            for record in write.records:
                token = 0 if write.lease is None else write.lease.token
                if record.execution_id in held and held[record.execution_id] != (token or -1):
                    write.flaw = LeaseLost(record.execution_id)


def _row(link: Link, record: Record) -> dict[str, Any]:
    tool_id = kept_text(record.tool_id) if isinstance(record, CallStarted) else None
    return {**link._asdict(), "tool_id": tool_id}


def _is_known(rows: Rows, execution_id: str) -> bool:
    binds = {"execution_id": execution_id}
    return bool(rows.fetch("SELECT 1 FROM journal_executions WHERE execution_id = :execution_id", binds))


def lock_chains(rows: Rows, tenants: Iterable[str]) -> None:
    """Nobody else appends to these chains until the transaction ends. SQLite has one writer at a time anyway."""
    if rows.dialect == "postgresql":
        keys = sorted({int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True) for name in tenants})
        rows.fetch("SELECT pg_advisory_xact_lock(key) FROM unnest(CAST(:keys AS bigint[])) AS key", {"keys": keys})


def head_of(rows: Rows, tenant_id: str) -> Head:
    found = rows.fetch(
        "SELECT sequence, hash FROM journal_records WHERE tenant_id = :tenant_id ORDER BY sequence DESC LIMIT 1",
        {"tenant_id": tenant_id},
    )
    return Head(*found[0]) if found else Head()


def append_own(rows: Rows, record: Record) -> Link:
    """A record of the journal itself, in the transaction under way; its chain is locked."""
    link = linked(head_of(rows, record.tenant_id), record, content_of(record).data)
    rows.many(_RECORD, [_row(link, record)])
    return link
