"""What is read. Every function here works within one transaction."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gateway.errors import NotRecorded
from gateway.journal.base import ExecutionFilter, ExecutionPage, ExecutionSummary, Link
from gateway.journal.listing import UNFINISHED, at_microseconds, cursor_after, microseconds, read_cursor
from gateway.journal.rows import Rows
from gateway.journal.signing import Signature

VERIFY_ROWS = 1000

_SUMMARY = """SELECT e.execution_id, e.tenant_id, e.started_at, e.language, e.profile, e.backend, e.mode, e.parent,
    (SELECT count(*) FROM journal_records r WHERE r.execution_id = e.execution_id AND r.kind = 'call_started'),
    e.outcome, e.ended_at FROM journal_executions e"""


def contents(rows: Rows, execution_id: str) -> list[bytes]:
    """Of all records of one execution, in their order."""
    found = rows.fetch(
        "SELECT content FROM journal_records WHERE execution_id = :execution_id AND content IS NOT NULL "
        "ORDER BY sequence",
        {"execution_id": execution_id},
    )
    return [row[0] for row in found]


def blob(rows: Rows, digest: str) -> bytes:
    found = rows.fetch("SELECT data FROM journal_blobs WHERE sha256 = :digest", {"digest": digest})
    if not found:
        raise NotRecorded(f"data with the digest {digest}")
    data: bytes = found[0][0]
    return data


def execution(rows: Rows, execution_id: str) -> ExecutionSummary | None:
    found = rows.fetch(f"{_SUMMARY} WHERE e.execution_id = :execution_id", {"execution_id": execution_id})
    return _summary(found[0]) if found else None


def executions(rows: Rows, which: ExecutionFilter, limit: int, cursor: str | None) -> ExecutionPage:
    binds: dict[str, Any] = {"limit": limit + 1}
    conditions = [*_conditions(which, binds)]
    if cursor is not None:
        binds["time"], binds["after"] = read_cursor(cursor)
        conditions.append("(e.started_at, e.execution_id) < (:time, :after)")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    order = "ORDER BY e.started_at DESC, e.execution_id DESC LIMIT :limit"
    found = [_summary(row) for row in rows.fetch(f"{_SUMMARY} {where} {order}", binds)]
    page = tuple(found[:limit])
    return ExecutionPage(page, cursor_after(page[-1]) if len(found) > limit else None)


def unfinished(rows: Rows, is_gone: Callable[[str], bool]) -> list[ExecutionSummary]:
    """Those without an end, whose host is gone, and whoever had a lease on them too: its time ran out, or `is_gone`
    says so."""
    found = rows.fetch(
        f"{_SUMMARY.replace(' FROM journal_executions e', ', h.owner, l.owner FROM journal_executions e')} "
        "LEFT JOIN journal_leases h ON h.name = 'host:' || e.owner AND h.expires_at > :now "
        "LEFT JOIN journal_leases l ON l.name = e.execution_id AND l.expires_at > :now "
        "WHERE e.outcome = '' AND e.mode <> 'host' ORDER BY e.started_at, e.execution_id",
        {"now": rows.now()},
    )
    return [_summary(row[:-2]) for row in found if all(owner is None or is_gone(owner) for owner in row[-2:])]


def signatures(rows: Rows) -> list[Signature]:
    found = rows.fetch(
        "SELECT tenant_id, sequence, hash, signed_at, key_id, signature FROM journal_signatures "
        "ORDER BY tenant_id, sequence"
    )
    return [Signature(*row) for row in found]


def links(rows: Rows, after: tuple[str, int], limit: int = VERIFY_ROWS) -> list[Link]:
    """The next ones in order of tenant and sequence."""
    return [link for link, _ in filed(rows, after, limit)]


def filed(rows: Rows, after: tuple[str, int], limit: int = VERIFY_ROWS) -> list[tuple[Link, str | None]]:
    """The same, each with the tool that it is filed under."""
    found = rows.fetch(
        "SELECT tenant_id, sequence, execution_id, kind, content, content_sha256, hash, tool_id FROM journal_records "
        "WHERE (tenant_id, sequence) > (:tenant_id, :sequence) ORDER BY tenant_id, sequence LIMIT :limit",
        {"tenant_id": after[0], "sequence": after[1], "limit": limit},
    )
    return [(Link(row[0], row[1], row[2], row[3], _bytes(row[4]), row[5], row[6]), row[7]) for row in found]


def _bytes(content: bytes | str | None) -> bytes | None:
    """SQLite keeps values of any type in any column."""
    return content.encode() if isinstance(content, str) else content


def _conditions(which: ExecutionFilter, binds: dict[str, Any]) -> Iterable[str]:
    if which.tenant_id is not None:
        binds["tenant_id"] = which.tenant_id
        yield "e.tenant_id = :tenant_id"
    if which.since is not None:
        binds["since"] = microseconds(which.since)
        yield "e.started_at >= :since"
    if which.until is not None:
        binds["until"] = microseconds(which.until)
        yield "e.started_at < :until"
    if which.outcome is not None:
        binds["outcome"] = "" if which.outcome == UNFINISHED else which.outcome
        yield "e.outcome = :outcome" + (" AND e.mode <> 'host'" if which.outcome else "")
    if which.tool_id is not None:
        pattern = which.tool_id.endswith(":*")
        binds["tool_id"] = which.tool_id[:-1] if pattern else which.tool_id
        condition = "substr(r.tool_id, 1, length(:tool_id)) = :tool_id" if pattern else "r.tool_id = :tool_id"
        yield (
            "EXISTS (SELECT 1 FROM journal_records r WHERE r.execution_id = e.execution_id "
            f"AND r.kind = 'call_started' AND {condition})"
        )


def _summary(row: Sequence[Any]) -> ExecutionSummary:
    ended_at = None if row[10] is None else at_microseconds(row[10])
    return ExecutionSummary(
        execution_id=row[0],
        tenant_id=row[1],
        started_at=at_microseconds(row[2]),
        language=row[3],
        profile=row[4],
        backend=row[5],
        mode=row[6],
        parent=row[7],
        calls=row[8],
        outcome=row[9],
        ended_at=ended_at,
    )
