"""An execution run again from its records: as a replay, or to go on where it stopped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.calls import Keeper
from gateway.context import Caller
from gateway.errors import InvalidRequest, NotRecorded
from gateway.journal.base import (
    Blob,
    ExecutionFinished,
    ExecutionStarted,
    Journal,
    Lease,
    Mode,
    Record,
)
from gateway.journal.listing import microseconds
from gateway.past import Past, past_tape
from runtimes.base import Outcome
from runtimes.limits import Limits
from sandbox.assemble import NOT_RUN
from sandbox.profile import profile_named
from sandbox.request import Request

GUEST_OUTCOMES = frozenset(Outcome) - {Outcome.SUSPENDED}
"""An execution that ended so has ended for good; whatever else it ended with, it may be taken up again."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the journal has of one execution. `first` is where it began; `last` how it ended, None when it did not."""

    records: Sequence[Record]
    first: ExecutionStarted
    last: ExecutionFinished | None

    @classmethod
    def of(cls, execution_id: str, records: Sequence[Record]) -> "Recorded":
        """Raises NotRecorded."""
        starts = [record for record in records if isinstance(record, ExecutionStarted)]
        if not starts:
            raise NotRecorded(f"execution {execution_id}")
        last = records[-1]
        return cls(records, starts[0], last if isinstance(last, ExecutionFinished) else None)

    @property
    def unix_micros(self) -> int:
        return microseconds(self.first.at)

    @property
    def turned_down(self) -> bool:
        """Whether its snippet was checked and not run."""
        return self.last is not None and self.last.evidence == NOT_RUN


@dataclass(frozen=True, slots=True)
class Run:
    """How one run of an execution begins, and where its records go. `past` is None for a first run; `resumes` says that
    `started` is the first run's, and this one goes on from there."""

    execution_id: str
    started: ExecutionStarted
    keeper: Keeper
    past: Past | None = None
    tape: bytes = b""
    unix_micros: int = 0
    earlier: tuple[str, ...] = ()
    suspends: bool = True
    resumes: bool = False

    @classmethod
    def first(cls, started: ExecutionStarted, journal: Keeper) -> "Run":
        return cls(started.execution_id, started, journal, unix_micros=microseconds(started.at))


class Nowhere:
    """Keeps nothing: a replay leaves no records."""

    async def append(self, *records: Record) -> None:
        del records

    async def put(self, execution_id: str, data: bytes) -> Blob:
        del execution_id
        return Blob.of(data)


class Leased:
    """A journal for whoever holds the lease on one execution."""

    def __init__(self, journal: Journal, lease: Lease) -> None:
        self._journal = journal
        self.lease = lease

    async def append(self, *records: Record) -> None:
        """Raises LeaseLost."""
        await self._journal.append(*records, lease=self.lease)

    async def put(self, execution_id: str, data: bytes) -> Blob:
        return await self._journal.put(execution_id, data)

    async def renew(self, ttl_seconds: float) -> None:
        """Raises LeaseLost."""
        self.lease = await self._journal.renew(self.lease, ttl_seconds)


async def turns_of(journal: Journal, found: Recorded) -> list[Recorded]:
    """The executions of its session before this one, the first one first."""
    turns: list[Recorded] = []
    parent = found.first.parent if found.first.mode is Mode.SESSION else ""
    while parent:
        turn = Recorded.of(parent, await journal.records(parent))
        turns.append(turn)
        parent = turn.first.parent
    return turns[::-1]


async def tape_of(journal: Journal, records: Sequence[Record]) -> bytes:
    """All that the guest was told of time."""
    return b"".join([await journal.read(part) for part in past_tape(records)])


async def request_of(
    journal: Journal,
    found: ExecutionStarted,
    *,
    code: str | None = None,
    backend: str | None = None,
    check: bool = False,
) -> Request:
    """The request that an execution began with. A snippet that was checked, and then run, need not be checked again."""
    files = {path: await journal.read(blob) for path, blob in found.files.items()}
    env = found.env.with_data(await journal.read(found.env)).as_json()
    return Request(
        code=(await journal.read(found.code)).decode() if code is None else code,
        language=found.language,
        profile=profile_named(found.profile),
        backend=found.backend if backend is None else backend,
        limits=Limits.of(dict(found.limits)),
        allowed_tools=None if found.allowed_tools is None else frozenset(found.allowed_tools),
        caller=caller_of(found.caller),
        check=check,
        env=env,
        files=files,
    )


def caller_of(told: Mapping[str, Any]) -> Caller:
    fields = dict(told)
    if "permissions" in fields:
        fields["permissions"] = frozenset(fields["permissions"])
    return Caller(**fields)


def check_resumable(execution_id: str, found: Recorded) -> None:
    """Raises InvalidRequest for one that has ended for good."""
    if found.last is not None and found.last.outcome in GUEST_OUTCOMES:
        raise InvalidRequest(f"execution {execution_id} has ended ({found.last.outcome}); `replay` runs it again")
