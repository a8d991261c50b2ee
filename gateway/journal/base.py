"""The protocol of what keeps records, and what it is asked and answers. The records themselves are in `records.py`."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol, TypeVar

from gateway.errors import InvalidRequest
from gateway.journal.records import (
    EMPTY,
    INLINE_BYTES,
    RECORDS,
    ApprovalDecided,
    ApprovalRequested,
    Blob,
    CallFinished,
    CallStarted,
    CallStatus,
    ExecutionFinished,
    ExecutionStarted,
    Mode,
    Record,
    RecordsPruned,
    ToolCall,
    arguments_sha256,
)

__all__ = [
    "EMPTY",
    "EVERYTHING",
    "INLINE_BYTES",
    "RECORDS",
    "ApprovalDecided",
    "ApprovalRequested",
    "Blob",
    "CallFinished",
    "CallStarted",
    "CallStatus",
    "Checkpoint",
    "ExecutionFilter",
    "ExecutionFinished",
    "ExecutionPage",
    "ExecutionStarted",
    "ExecutionSummary",
    "Finding",
    "Journal",
    "Lease",
    "Link",
    "Mode",
    "Pruned",
    "Record",
    "RecordsPruned",
    "Retention",
    "ToolCall",
    "Verification",
    "arguments_sha256",
    "at_once",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFilter:
    """Which executions; a field that is None asks for nothing.

    `tool_id` is that of a call that they made, `namespace:*` for any tool of a namespace. `outcome` is how they ended,
    or `unfinished`. `since` (inclusive) and `until` (exclusive) are about their start.
    """

    tenant_id: str | None = None
    tool_id: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            time: datetime | None = getattr(self, name)
            if time is not None and time.tzinfo is None:
                raise InvalidRequest(f"{name} must say its time zone")


EVERYTHING = ExecutionFilter()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSummary:
    """One execution in a list. `outcome` is empty until it has ended.

    A call of the host itself counts as an execution of mode `host`, which has calls only.
    """

    execution_id: str
    tenant_id: str
    started_at: datetime
    language: str = ""
    profile: str = ""
    backend: str = ""
    mode: str = "host"
    parent: str = ""
    calls: int = 0
    outcome: str = ""
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ExecutionPage:
    """Some executions, the newest first. `cursor` leads to older ones, None when there are no more."""

    executions: tuple[ExecutionSummary, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to go on with an execution until `expires_at`, unless renewed. `token` grows with every new holder."""

    execution_id: str
    owner: str
    token: int
    expires_at: datetime


class Link(NamedTuple):
    """One record in its chain, as it is kept. `content` is None when it was deleted by policy."""

    tenant_id: str
    sequence: int
    execution_id: str
    kind: str
    content: bytes | None
    content_sha256: str
    hash: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a tenant's chain had come: the hash of its record `sequence`, counted from 1."""

    tenant_id: str
    sequence: int
    hash: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong in a tenant's chain: at which record, and what."""

    tenant_id: str
    sequence: int
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found. `heads` is where each chain ends: kept elsewhere, it can be held against a later state.

    `unsigned` is how many records each tenant's chain has after its last signature that holds; None without keys.
    """

    records: int
    pruned: int
    signatures: int
    heads: tuple[Checkpoint, ...]
    findings: tuple[Finding, ...]
    unsigned: Mapping[str, int] | None = None

    @property
    def ok(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which executions to delete: ended, and older than `older_than`; of one tenant, None for all.

    Unfinished executions stay, and so do those that wait for a person unless `suspended` is on. `reason` goes into the
    ledger.
    """

    older_than: timedelta
    tenant_id: str | None = None
    reason: str = "retention"
    suspended: bool = False

    def __post_init__(self) -> None:
        if self.older_than < timedelta(0):
            raise InvalidRequest(f"older_than must not be negative, not {self.older_than}")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune` deleted."""

    executions: int
    records: int
    blobs: int
    blob_bytes: int


Append = TypeVar("Append", bound=Callable[..., Awaitable[None]])


def at_once(append: Append) -> Append:
    """Marks an `append` that never waits for anything, so that cancellation cannot interrupt it. One that overrides it
    is not marked."""
    append.at_once = True  # type: ignore[attr-defined] # functions take any
    return append


class Journal(Protocol):
    """Keeps records in the order they were appended. Safe for any number of concurrent executions.

    Everything raises JournalUnavailable when the storage does not answer, and JournalCorrupt when it holds what this
    journal did not write.
    """

    async def append(self, *records: Record, lease: Lease | None = None) -> None:
        """Keep `records`, all or none, one after another in their tenants' chains.

        When this returns they are as durable as the journal makes them: a call whose start could not be recorded is
        not made, so let errors out. Who waits may be cancelled; the records are kept all the same, before what is
        appended later. With a `lease` they are kept only while it is held; raises LeaseLost.
        """
        ...

    async def records(self, execution_id: str) -> Sequence[Record]:
        """All records of one execution in order; empty when it is not known."""
        ...

    async def read(self, blob: Blob) -> bytes:
        """The data of a blob in a record that was read. Raises NotRecorded when it is gone."""
        ...

    async def put(self, execution_id: str, data: bytes) -> Blob:
        """Keep data that a later record of this execution will hold as a blob; gives the blob without its data."""
        ...

    async def execution(self, execution_id: str) -> ExecutionSummary | None:
        """One execution, None when it is not known."""
        ...

    async def executions(
        self, which: ExecutionFilter = EVERYTHING, *, limit: int = 100, cursor: str | None = None
    ) -> ExecutionPage:
        """Executions, the newest first, `limit` (1 to 1,000) at a time. Raises InvalidRequest."""
        ...

    async def unfinished(self) -> Sequence[ExecutionSummary]:
        """Executions that started and did not end, and that nobody is at work on: their host is gone, and no lease on
        them is held. The oldest first."""
        ...

    async def lease(self, execution_id: str, owner: str, ttl_seconds: float) -> Lease:
        """Take an execution for `owner` alone. Raises LeaseHeld while another owner has it, unless its name begins with
        a process (`gateway.journal.owner`) that is known to have ended; and while another host, which lives, has begun
        the execution and not ended it."""
        ...

    async def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        """Hold it for `ttl_seconds` from now. Raises LeaseLost when it ran out and somebody else took it."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give it back. Nothing happens when it is lost already."""
        ...

    async def links(self, after: tuple[str, int] = ("", 0), limit: int = 1000) -> Sequence[Link]:
        """The ledger as it is kept, in order of tenant and sequence: the next ones after that place."""
        ...

    async def verify(self, checkpoints: Sequence[Checkpoint] = ()) -> Verification:
        """Check every chain: no record changed, removed, added or moved, and each of `checkpoints` still true."""
        ...

    async def prune(self, retention: Retention) -> Pruned:
        """Delete executions; the chains stay verifiable, and say what was deleted."""
        ...

    async def aclose(self) -> None:
        """Release what the journal holds. Idempotent."""
        ...
