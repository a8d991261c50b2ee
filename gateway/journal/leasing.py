"""Leases: who may go on with an execution, and which hosts are there. Each function works within one transaction."""

from gateway.errors import LeaseHeld, LeaseLost
from gateway.journal.base import Lease
from gateway.journal.listing import at_microseconds
from gateway.journal.owner import is_gone, spoken
from gateway.journal.rows import Rows
from gateway.journal.writing import lock_chains

_HOST = "host:"
_FORGOTTEN = 86_400_000_000
"""Microseconds after which a host that never said goodbye is removed."""


def lease(rows: Rows, execution_id: str, owner: str, ttl_seconds: float, host: str) -> Lease:
    """For `owner`, on the host of this name."""
    # Appends lock the chain too, so none is under way whose writer has not seen this lease.
    known = rows.fetch(
        "SELECT tenant_id FROM journal_executions WHERE execution_id = :execution_id", {"execution_id": execution_id}
    )
    lock_chains(rows, [row[0] for row in known])
    now = rows.now()
    _check_left(rows, execution_id, host, now)
    expires_at = now + round(ttl_seconds * 1e6)
    rows.run(
        "INSERT INTO journal_leases (name, owner, token, expires_at) VALUES (:name, '', 0, 0) ON CONFLICT DO NOTHING",
        {"name": execution_id},
    )
    holder = rows.fetch("SELECT owner FROM journal_leases WHERE name = :name", {"name": execution_id})[0][0]
    gone = holder if is_gone(holder) else owner
    binds = {"name": execution_id, "owner": owner, "gone": gone, "now": now, "expires_at": expires_at}
    found = rows.fetch(
        "UPDATE journal_leases SET owner = :owner, expires_at = :expires_at, "
        "token = CASE WHEN owner = :owner AND expires_at > :now THEN token ELSE token + 1 END "
        "WHERE name = :name AND (owner = :owner OR owner = :gone OR expires_at <= :now) RETURNING token",
        binds,
    )
    if not found:
        raise LeaseHeld(execution_id, spoken(holder))
    return Lease(execution_id, owner, found[0][0], at_microseconds(expires_at))


def _check_left(rows: Rows, execution_id: str, host: str, now: int) -> None:
    """Raises LeaseHeld while another host, which lives, has begun the execution and not ended it."""
    binds = {"execution_id": execution_id, "host": host, "now": now}
    at_work = rows.fetch(
        "SELECT e.owner FROM journal_executions e JOIN journal_leases h ON h.name = 'host:' || e.owner "
        "WHERE e.execution_id = :execution_id AND e.outcome = '' AND e.mode <> 'host' AND e.owner <> :host "
        "AND h.expires_at > :now",
        binds,
    )
    if at_work and not is_gone(at_work[0][0]):
        raise LeaseHeld(execution_id, spoken(at_work[0][0]))


def renew(rows: Rows, held: Lease, ttl_seconds: float) -> Lease:
    now = rows.now()
    expires_at = now + round(ttl_seconds * 1e6)
    binds = {"name": held.execution_id, "token": held.token, "now": now, "expires_at": expires_at}
    renewed = rows.run(
        "UPDATE journal_leases SET expires_at = :expires_at WHERE name = :name AND token = :token "
        "AND expires_at > :now",
        binds,
    )
    if not renewed:
        raise LeaseLost(held.execution_id)
    return Lease(held.execution_id, held.owner, held.token, at_microseconds(expires_at))


def release(rows: Rows, held: Lease) -> None:
    """The row stays: it says that whoever had the execution before the lease has it no more."""
    rows.run(
        "UPDATE journal_leases SET expires_at = 0 WHERE name = :name AND token = :token",
        {"name": held.execution_id, "token": held.token},
    )


def beat(rows: Rows, owner: str, ttl_seconds: float) -> None:
    """This host is there."""
    now = rows.now()
    rows.run(
        "INSERT INTO journal_leases (name, owner, token, expires_at) VALUES (:name, :owner, 1, :expires_at) "
        "ON CONFLICT (name) DO UPDATE SET expires_at = excluded.expires_at",
        {"name": _HOST + owner, "owner": owner, "expires_at": now + round(ttl_seconds * 1e6)},
    )
    rows.run(
        "DELETE FROM journal_leases WHERE name LIKE 'host:%' AND expires_at < :long_ago",
        {"long_ago": now - _FORGOTTEN},
    )


def leave(rows: Rows, owner: str) -> None:
    """This host is gone."""
    rows.run("DELETE FROM journal_leases WHERE name = :name", {"name": _HOST + owner})
