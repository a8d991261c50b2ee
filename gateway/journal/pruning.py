"""Deletion by policy: contents go, and the chain says which. Every function here works within one transaction."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.journal.base import Pruned, Retention
from gateway.journal.ledger import GENESIS
from gateway.journal.listing import SUSPENDED, microseconds
from gateway.journal.records import RecordsPruned
from gateway.journal.rows import Rows, among
from gateway.journal.writing import append_own, lock_chains

BATCH = 200
"""Executions that one transaction deletes: others write in between."""

NOTHING = Pruned(0, 0, 0, 0)


def prune(rows: Rows, retention: Retention) -> Pruned:
    """Delete some executions; none are left when the answer says so. Signatures of what is gone go too."""
    gone = _executions(rows, retention)
    tenants = sorted({tenant_id for _, tenant_id in gone})
    lock_chains(rows, tenants)
    total = NOTHING
    for tenant_id in tenants:
        mine = [execution_id for execution_id, owner in gone if owner == tenant_id]
        total = total_of(total, _prune_tenant(rows, tenant_id, mine, retention.reason))
    return total


def total_of(one: Pruned, other: Pruned) -> Pruned:
    return Pruned(
        one.executions + other.executions,
        one.records + other.records,
        one.blobs + other.blobs,
        one.blob_bytes + other.blob_bytes,
    )


def _executions(rows: Rows, retention: Retention) -> list[tuple[str, str]]:
    """Ended ones that are old enough. A call of the host itself has ended when all its calls have."""
    before = microseconds(datetime.now(UTC) - retention.older_than)
    binds: dict[str, Any] = {"before": before, "limit": BATCH, "stays": "" if retention.suspended else SUSPENDED}
    mine = ""
    if retention.tenant_id is not None:
        binds["tenant_id"], mine = retention.tenant_id, "AND tenant_id = :tenant_id"
    count = "(SELECT count(*) FROM journal_records r WHERE r.execution_id = e.execution_id AND r.kind = '{}')"
    found = rows.fetch(
        "SELECT execution_id, tenant_id FROM journal_executions e WHERE ((outcome <> '' AND outcome <> :stays "
        "AND ended_at < :before) "
        f"OR (mode = 'host' AND started_at < :before AND {count.format('call_started')} = "
        f"{count.format('call_finished')})) {mine} ORDER BY started_at LIMIT :limit",
        binds,
    )
    return [(row[0], row[1]) for row in found]


def _prune_tenant(rows: Rows, tenant_id: str, execution_ids: Sequence[str], reason: str) -> Pruned:
    binds: dict[str, Any] = {}
    those = among("execution_id", execution_ids, binds)
    sequences = [row[0] for row in rows.fetch(f"SELECT sequence FROM journal_records WHERE {those}", binds)]
    rows.run(f"UPDATE journal_records SET content = NULL, tool_id = NULL WHERE {those}", binds)
    for table in ("journal_executions", "journal_blob_uses"):
        rows.run(f"DELETE FROM {table} WHERE {those}", binds)
    rows.run(f"DELETE FROM journal_leases WHERE {those.replace('execution_id', 'name', 1)}", binds)
    blobs, blob_bytes = _drop_unused_blobs(rows)
    _note(rows, tenant_id, sequences, len(execution_ids), reason)
    return Pruned(len(execution_ids), len(sequences), blobs, blob_bytes)


def _drop_unused_blobs(rows: Rows) -> tuple[int, int]:
    unused = "NOT EXISTS (SELECT 1 FROM journal_blob_uses u WHERE u.sha256 = journal_blobs.sha256)"
    count, size = rows.fetch(f"SELECT count(*), coalesce(sum(size_bytes), 0) FROM journal_blobs WHERE {unused}")[0]
    if count:
        rows.run(f"DELETE FROM journal_blobs WHERE {unused}")
    return int(count), int(size)


def _note(rows: Rows, tenant_id: str, sequences: Iterable[int], executions: int, reason: str) -> None:
    """Say so in the chain. The last such record says all that was deleted and is not forgotten altogether."""
    own = rows.fetch(
        "SELECT sequence, content FROM journal_records WHERE tenant_id = :tenant_id AND execution_id = '' "
        "AND kind = 'records_pruned' ORDER BY sequence",
        {"tenant_id": tenant_id},
    )
    last: dict[str, Any] = json.loads(own[-1][1]) if own else {"base_sequence": 0, "base_hash": GENESIS, "ranges": "[]"}
    superseded = [row[0] for row in own]
    ranges = merged([*json.loads(last.get("ranges", "[]")), *([one, one] for one in (*sequences, *superseded))])
    base_sequence, base_hash = last["base_sequence"], last["base_hash"]
    rows.run(
        "UPDATE journal_records SET content = NULL WHERE tenant_id = :tenant_id AND execution_id = '' "
        "AND kind = 'records_pruned'",
        {"tenant_id": tenant_id},
    )
    if ranges[0][0] <= base_sequence + 1:
        base_sequence = ranges.pop(0)[1]
        base_hash = _hash_of(rows, tenant_id, base_sequence)
    append_own(
        rows,
        RecordsPruned(
            execution_id="",
            tenant_id=tenant_id,
            at=datetime.now(UTC),
            reason=reason,
            executions=executions,
            ranges=ranges,
            base_sequence=base_sequence,
            base_hash=base_hash,
        ),
    )
    _forget(rows, tenant_id, base_sequence)  # after the record above, which follows from the last of them


def merged(ranges: Iterable[list[int]]) -> list[list[int]]:
    """The same sequences in as few ranges as can be, in order."""
    found: list[list[int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1][1] = max(found[-1][1], last)
        else:
            found.append([first, last])
    return found


def _hash_of(rows: Rows, tenant_id: str, sequence: int) -> str:
    binds = {"tenant_id": tenant_id, "sequence": sequence}
    sql = "SELECT hash FROM journal_records WHERE tenant_id = :tenant_id AND sequence = :sequence"
    found: str = rows.fetch(sql, binds)[0][0]
    return found


def _forget(rows: Rows, tenant_id: str, through: int) -> None:
    """Remove the beginning of a chain, of which no content is left."""
    binds = {"tenant_id": tenant_id, "through": through}
    for table in ("journal_records", "journal_signatures"):
        rows.run(f"DELETE FROM {table} WHERE tenant_id = :tenant_id AND sequence <= :through", binds)
