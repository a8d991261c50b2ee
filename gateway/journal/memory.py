"""Records in memory: the newest executions, gone with the process."""

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from operator import itemgetter

from gateway.errors import InvalidRequest, LeaseHeld, LeaseLost, NotRecorded
from gateway.journal.base import (
    EVERYTHING,
    Checkpoint,
    ExecutionFilter,
    ExecutionPage,
    ExecutionSummary,
    Lease,
    Link,
    Pruned,
    Retention,
    Verification,
    at_once,
)
from gateway.journal.codec import content_of
from gateway.journal.ledger import GENESIS, Head, Verifier, linked
from gateway.journal.listing import (
    SUSPENDED,
    begun,
    check_limit,
    check_ttl,
    cursor_after,
    fits,
    gone_on,
    microseconds,
    read_cursor,
)
from gateway.journal.owner import is_gone, spoken
from gateway.journal.records import (
    INLINE_BYTES,
    Blob,
    CallFinished,
    CallStarted,
    Record,
    RecordsPruned,
    blobs_of,
)

MAX_BYTES = 256 << 20


RECORD_BYTES = 500
"""What a record is taken to have beside its blobs."""


@dataclass(slots=True)
class _Execution:
    """`records` come with their numbers among all records; `blobs` are those over `INLINE_BYTES`, by digest."""

    first: Record
    records: list[tuple[int, Record]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    size_bytes: int = 0

    @property
    def summary(self) -> ExecutionSummary:
        found = begun(self.first)
        for _, record in self.records:
            found = gone_on(found, record)
        return found

    @property
    def tools(self) -> set[str]:
        return {record.tool_id for _, record in self.records if isinstance(record, CallStarted)}

    @property
    def open_calls(self) -> int:
        return sum(isinstance(one, CallStarted) - isinstance(one, CallFinished) for _, one in self.records)

    @property
    def ended(self) -> bool:
        found = self.summary
        return bool(found.outcome) or (found.mode == "host" and not self.open_calls)


class MemoryJournal:
    """Keeps the records of the newest `max_executions` executions (default 1,000), of at most `max_bytes` together
    (default 256 MiB; one execution may have more). `clock` gives seconds since 1970, for leases.

    Its chains are made when somebody asks for them, of what it still holds: once it has forgotten executions to make
    room they begin anew, so checkpoints are for journals on disk.
    """

    def __init__(
        self, max_executions: int = 1000, max_bytes: int = MAX_BYTES, *, clock: Callable[[], float] = time.time
    ) -> None:
        for name, bound in (("max_executions", max_executions), ("max_bytes", max_bytes)):
            if bound < 1:
                raise InvalidRequest(f"{name} must be at least 1, not {bound}")
        self._max_executions = max_executions
        self._max_bytes = max_bytes
        self._clock = clock
        self._executions: OrderedDict[str, _Execution] = OrderedDict()
        self._size_bytes = 0
        self._numbers = itertools.count()
        self._leases: dict[str, Lease] = {}
        self._retentions: list[tuple[int, Record]] = []
        # From before something was deleted: the links of what is left, by number, and where the chains had come to.
        self._kept_links: dict[int, Link] = {}
        self._bases: dict[str, Head] = {}

    @at_once
    async def append(self, *records: Record, lease: Lease | None = None) -> None:
        if self._leases:
            for record in records:
                self._check_lease(record.execution_id, lease)
        for record in records:
            self._keep(record)
        while len(self._executions) > 1 and (
            len(self._executions) > self._max_executions or self._size_bytes > self._max_bytes
        ):
            self._drop(next(iter(self._executions)))

    async def records(self, execution_id: str) -> Sequence[Record]:
        found = self._executions.get(execution_id)
        records = found.records if found is not None else self._retentions if not execution_id else ()
        return tuple(record for _, record in records)

    async def read(self, blob: Blob) -> bytes:
        if blob.data is not None:
            return blob.data
        for execution in reversed(self._executions.values()):
            if blob.sha256 in execution.blobs:
                return execution.blobs[blob.sha256]
        raise NotRecorded(f"data with the digest {blob.sha256}")

    async def put(self, execution_id: str, data: bytes) -> Blob:
        blob = Blob.of(data)
        execution = self._executions.get(execution_id)
        if execution is None:
            raise NotRecorded(f"execution {execution_id}")
        self._keep_blob(execution, blob)
        return blob.without_data()

    async def execution(self, execution_id: str) -> ExecutionSummary | None:
        found = self._executions.get(execution_id)
        return None if found is None else found.summary

    async def executions(
        self, which: ExecutionFilter = EVERYTHING, *, limit: int = 100, cursor: str | None = None
    ) -> ExecutionPage:
        check_limit(limit)
        before = None if cursor is None else read_cursor(cursor)
        all_of_them = [(one.summary, one.tools) for one in self._executions.values()]
        found = [summary for summary, tools in all_of_them if fits(summary, tools, which)]
        found.sort(key=_place, reverse=True)
        rest = found if before is None else [one for one in found if _place(one) < before]
        page = tuple(rest[:limit])
        return ExecutionPage(page, cursor_after(page[-1]) if len(rest) > limit else None)

    async def unfinished(self) -> Sequence[ExecutionSummary]:
        """None, ever: whoever started an execution in this process is at work on it still."""
        return ()

    async def lease(self, execution_id: str, owner: str, ttl_seconds: float) -> Lease:
        check_ttl(ttl_seconds)
        held = self._leases.get(execution_id)
        if held is not None and held.owner != owner and self._is_live(held) and not is_gone(held.owner):
            raise LeaseHeld(execution_id, spoken(held.owner))
        token = 1 if held is None else held.token + (held.owner != owner or not self._is_live(held))
        return self._hold(Lease(execution_id, owner, token, self._in(ttl_seconds)))

    async def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        check_ttl(ttl_seconds)
        self._check_lease(lease.execution_id, lease)
        return self._hold(replace(lease, expires_at=self._in(ttl_seconds)))

    async def release(self, lease: Lease) -> None:
        held = self._leases.get(lease.execution_id)
        if held is not None and held.token == lease.token:
            self._hold(replace(held, expires_at=self._in(0)))

    async def links(self, after: tuple[str, int] = ("", 0), limit: int = 1000) -> Sequence[Link]:
        return tuple(link for link in self._links() if link[:2] > after)[:limit]

    async def verify(self, checkpoints: Sequence[Checkpoint] = ()) -> Verification:
        verifier = Verifier(checkpoints, forgets=True)
        for (execution_id, digest), link in verifier.feed(self._links()).blobs.items():
            if digest not in self._executions[execution_id].blobs:
                verifier.find(link.tenant_id, link.sequence, f"the data {digest} that it refers to is missing")
        return verifier.end()

    async def prune(self, retention: Retention) -> Pruned:
        before = self._now() - retention.older_than
        gone = [one for one in self._executions.values() if _may_go(one, retention, before)]
        if gone:
            self._keep_links()
        for one in gone:
            self._drop(one.first.execution_id)
        for tenant_id in sorted({one.first.tenant_id for one in gone}):
            self._note(tenant_id, retention.reason, sum(one.first.tenant_id == tenant_id for one in gone))
        blobs = [data for one in gone for data in one.blobs.values()]
        return Pruned(len(gone), sum(len(one.records) for one in gone), len(blobs), sum(map(len, blobs)))

    async def aclose(self) -> None:
        self._executions.clear()
        self._size_bytes = 0

    def _links(self) -> list[Link]:
        return sorted(self._numbered_links().values())

    def _numbered_links(self) -> dict[int, Link]:
        """Made of the records, from the bases on."""
        found: dict[int, Link] = {}
        heads = dict(self._bases)
        numbered = [one for execution in self._executions.values() for one in execution.records]
        for number, record in sorted(numbered + self._retentions, key=itemgetter(0)):
            if (link := self._kept_links.get(number)) is None:
                link = linked(heads.get(record.tenant_id, Head()), record, content_of(record).data)
                heads[record.tenant_id] = Head(link.sequence, link.hash)
            found[number] = link
        return found

    def _keep_links(self) -> None:
        """Before something is deleted on purpose: what comes next follows from what was there."""
        self._kept_links = self._numbered_links()
        for link in sorted(self._kept_links.values()):
            self._bases[link.tenant_id] = Head(link.sequence, link.hash)

    def _keep(self, record: Record) -> None:
        found = self._executions.get(record.execution_id)
        if found is None:
            found = self._executions[record.execution_id] = _Execution(record)
        found.records.append((next(self._numbers), record))
        size_bytes = RECORD_BYTES
        for blob in blobs_of(record):
            if blob.size_bytes > INLINE_BYTES:
                self._keep_blob(found, blob)
            else:
                size_bytes += blob.size_bytes
        self._count(found, size_bytes)

    def _keep_blob(self, execution: _Execution, blob: Blob) -> None:
        if blob.data is not None and blob.sha256 not in execution.blobs:
            execution.blobs[blob.sha256] = blob.data
            self._count(execution, blob.size_bytes)

    def _count(self, execution: _Execution, size_bytes: int) -> None:
        execution.size_bytes += size_bytes
        self._size_bytes += size_bytes

    def _drop(self, execution_id: str) -> None:
        gone = self._executions.pop(execution_id)
        self._size_bytes -= gone.size_bytes
        for number, _ in gone.records if self._kept_links else ():
            self._kept_links.pop(number, None)
        self._leases.pop(execution_id, None)

    def _note(self, tenant_id: str, reason: str, executions: int) -> None:
        record = RecordsPruned(
            execution_id="",
            tenant_id=tenant_id,
            at=self._now(),
            reason=reason,
            executions=executions,
            ranges=[],
            base_sequence=0,
            base_hash=GENESIS,
        )
        self._retentions.append((next(self._numbers), record))

    def _check_lease(self, execution_id: str, lease: Lease | None) -> None:
        """Once an execution was leased, only its holder may write of it."""
        held = self._leases.get(execution_id)
        if held is not None and (lease is None or lease.token != held.token or not self._is_live(held)):
            raise LeaseLost(execution_id)

    def _is_live(self, lease: Lease) -> bool:
        return lease.expires_at > self._now()

    def _hold(self, lease: Lease) -> Lease:
        self._leases[lease.execution_id] = lease
        return lease

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _in(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(self._clock() + seconds, UTC)


def _place(found: ExecutionSummary) -> tuple[int, str]:
    return microseconds(found.started_at), found.execution_id


def _may_go(one: _Execution, retention: Retention, before: datetime) -> bool:
    if not one.ended or retention.tenant_id not in (None, one.first.tenant_id):
        return False
    if one.summary.outcome == SUSPENDED and not retention.suspended:
        return False
    return (one.summary.ended_at or one.first.at) < before
