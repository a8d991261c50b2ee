"""What an execution has done before: its recorded calls, given out again as the same ones are asked for.

A call is the same when it is made at the same site, of the same tool, with the same arguments; one without a site when
tool and arguments are the same, in their order. Answers, and what reads of streams gave, come in their old order.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count

import anyio

from gateway.beside import beside, brief
from gateway.calls import LEFT
from gateway.errors import CallNotRecorded, ReplayDiverged
from gateway.journal.base import (
    EMPTY,
    ApprovalDecided,
    ApprovalRequested,
    Blob,
    CallFinished,
    CallStarted,
    CallStatus,
    ExecutionStarted,
    Record,
)
from gateway.reads import PastRead
from gateway.way import STREAM_CHAIN, STREAM_TOOL

SETTLE_SECONDS = 0.1

STALL_SECONDS = 10.0
"""How long an answer waits for calls that came before it then, and a new call for those that are still to be asked for
again; a guest that does the same as then needs no time to speak of."""


INNER = "call_tool"
"""How calls come that a tool makes."""


class Beyond(Enum):
    """What happens to a call that is not in the record."""

    DIVERGE = "diverge"
    """It is an error: nothing else may happen than what happened."""
    LIVE = "live"
    """It is made, as soon as all recorded ones have been asked for again."""
    MISSING = "missing"
    """It fails, and is noted."""


@dataclass(slots=True, eq=False)
class PastCall:
    """One recorded call. `place` is that of its answer among all answers and `reads`, None while there is none. `tried`
    says that the execution was taken up after a person had decided, so that the call may have been made since. It is
    `own` unless it is an earlier execution's of the same session.
    """

    started: CallStarted
    finished: CallFinished | None = None
    place: int | None = None
    requested: ApprovalRequested | None = None
    decided: ApprovalDecided | None = None
    tried: bool = False
    own: bool = True
    asked: bool = False
    reads: list[PastRead] = field(default_factory=list)
    given: anyio.Event = field(default_factory=anyio.Event)

    @property
    def index(self) -> int:
        return self.started.index

    @property
    def answered(self) -> bool:
        """Whether the guest was told how it ended."""
        return self.finished is not None and self.finished.status is not CallStatus.CANCELLED

    @property
    def left(self) -> bool:
        """Whether the guest wanted no more of a streamed call."""
        return self.finished is not None and not self.answered and self.finished.error == LEFT

    def __str__(self) -> str:
        return self.described(brief(self.started.arguments))

    def described(self, arguments: str) -> str:
        where = f" at {self.started.site}" if self.started.site else ""
        return f"call {self.index} of {self.started.tool_id} with {arguments}{where}"


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as it is asked for now. `tool_ids` are the names of its tool; `arguments` as a record would have them."""

    site: str
    tool_ids: tuple[str, ...]
    arguments_sha256: str
    arguments: Blob = EMPTY

    def is_(self, call: PastCall) -> bool:
        return call.started.tool_id in self.tool_ids and call.started.arguments_sha256 == self.arguments_sha256

    def __str__(self) -> str:
        return self.described(brief(self.arguments))

    def described(self, arguments: str) -> str:
        where = f" at {self.site}" if self.site else ""
        return f"a call of {self.tool_ids[0][:200]} with {arguments}{where}"


class Past:
    """The calls of one execution. `read` gets the data of its blobs.

    `ends` says that the snippet did not come to an end of its own: where it waits for calls that never had an answer,
    the record ends, and `on_end` is called. `exact` is set by whoever runs it again, when the guest was told the same
    of time and chance.
    """

    def __init__(
        self,
        calls: Iterable[PastCall],
        beyond: Beyond,
        read: Callable[[Blob], Awaitable[bytes]],
        *,
        ends: bool = False,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.calls = tuple(calls)
        self.beyond = beyond
        self.read = read
        self.missing: list[Asked] = []
        self.diverged: ReplayDiverged | None = None
        self.on_end: Callable[[], None] | None = None
        self.ended = False
        self.exact = False
        self._ends = ends
        self._stall_seconds = stall_seconds
        self._by_site: dict[str, deque[PastCall]] = defaultdict(deque)
        for call in self.calls:
            call.asked = call.started.via == INNER  # those are made by their tool, and not asked for
            self._by_site[call.started.site].append(call)
        self._unasked = sum(not call.asked for call in self.calls)
        self._all_asked = anyio.Event()
        turns = [told for call in self.calls for told in self._turns(call)]
        self._anew = [read for call in self.calls if self.makes_again(call) for read in call.reads]
        self._order = OrderedDict.fromkeys(sorted(turns, key=lambda told: told.place or 0))
        self._count(0)

    @property
    def has_streams(self) -> bool:
        return any(call.started.via in {STREAM_TOOL, STREAM_CHAIN} for call in self.calls)

    @property
    def unused(self) -> tuple[PastCall, ...]:
        """Recorded calls that were not asked for again."""
        return tuple(call for call in self.calls if not call.asked)

    def by_index(self, index: int) -> PastCall | None:
        return next((call for call in self.calls if call.own and call.index == index), None)

    def refuses(self, site: str, via: str) -> bool:
        """Whether the next call at this site is a whole chain or batch that was refused."""
        found = next((call for call in self._by_site.get(site, ()) if not call.asked), None)
        return found is not None and found.started.tool_id == found.started.via == via

    async def find(self, asked: Asked) -> PastCall | None:
        """The recorded call that this one is; None when it is a new one, to be made.

        Raises ReplayDiverged, CallNotRecorded.
        """
        found = self._take(asked)
        if found is not None:
            found.asked = True
            self._count(1)
            return found
        if self.beyond is Beyond.MISSING:
            self.missing.append(asked)
            raise CallNotRecorded(asked.tool_ids[0])
        if self.beyond is Beyond.DIVERGE:
            if not (self._ends and await self._comes(self._all_asked)):
                raise self._divergence("a call that is not in the record", self._at(asked.site), str(asked))
            await self.never_answered()
        await self._until_all_asked(asked)
        return None

    def makes_again(self, call: PastCall) -> bool:
        """Whether a call that has begun is made, because its guest never heard how it ended."""
        return self.beyond is Beyond.LIVE and call.own and not (call.answered or call.left)

    async def turn(self, told: PastCall | PastRead) -> None:
        """Wait until all that came before this answer or read has been given. Raises ReplayDiverged."""
        while told in self._order and (first := next(iter(self._order))) is not told:
            if not await self._comes(first.given):
                raise self._divergence("what was told earlier is not asked for", str(first), f"{told}, first")
        self.skip([told])

    def skip(self, told: Sequence[PastCall | PastRead]) -> None:
        """Let nothing wait for these any more."""
        for one in told:
            self._order.pop(one, None)
            one.given.set()

    async def never_answered(self) -> None:
        """Where a call waits that had no answer then, or was not made any more. Does not return."""
        if self._ends:
            await self._all_asked.wait()
            for told in tuple(self._order):
                await told.given.wait()
            await anyio.sleep(SETTLE_SECONDS)
            self.ended = True
            if self.on_end is not None:
                self.on_end()
        await anyio.sleep_forever()

    def check_complete(self) -> None:
        """Raises ReplayDiverged when calls are left over."""
        if left := self.unused:
            raise self._divergence(f"{len(left)} calls were not made again", str(left[0]), "the end of the snippet")

    def _take(self, asked: Asked) -> PastCall | None:
        if self.beyond is Beyond.MISSING:
            fitting = [call for call in self.calls if not call.asked and asked.is_(call)]
            return next((call for call in fitting if call.started.site == asked.site), next(iter(fitting), None))
        here = self._by_site.get(asked.site, ())
        if asked.site == "":
            return next((call for call in here if not call.asked and asked.is_(call)), None)
        found = next((call for call in here if not call.asked), None)
        if found is not None and not asked.is_(found):
            was, now = beside(found.started.arguments, asked.arguments)
            raise self._divergence("another call at the same site", found.described(was), asked.described(now))
        return found

    def _turns(self, call: PastCall) -> Sequence[PastCall | PastRead]:
        """What of a call has its turn. Other code has its own order; a call that is made again, or that has no end in
        the record, its own time."""
        if call.finished is None or call.asked or self.makes_again(call) or self.beyond is Beyond.MISSING:
            return ()
        return (*call.reads, call) if call.answered else call.reads

    def _at(self, site: str) -> str:
        left = self.unused
        there = f"{len(left)} calls are left, the first is {left[0]}" if left else "no further call"
        return f"nothing at {site}; {there}" if site and left else there

    async def _until_all_asked(self, asked: Asked) -> None:
        """So that nothing new is done before everything that was done has been found again."""
        if not await self._comes(self._all_asked):
            raise self._divergence("a new call comes before recorded ones", self._at(""), str(asked))

    async def _comes(self, event: anyio.Event) -> bool:
        """Whether it happens in time. What a stream that is made again has told before takes as long as that takes."""
        while not event.is_set():
            with anyio.move_on_after(self._stall_seconds):
                await event.wait()
            if not event.is_set() and all(read.given.is_set() for read in self._anew):
                return False
        return True

    def _count(self, asked: int) -> None:
        self._unasked -= asked
        if not self._unasked:
            self._all_asked.set()

    def _divergence(self, what: str, recorded: str, actual: str) -> ReplayDiverged:
        self.diverged = self.diverged or ReplayDiverged(what, recorded, actual)
        return self.diverged


def past_calls(records: Sequence[Record], places: Iterator[int] | None = None) -> list[PastCall]:
    """The calls in the records of one execution, with what became of them. `places` are free for answers and reads."""
    calls: dict[int, PastCall] = {}
    places = places or count()
    for record in records:
        for index, *told in getattr(record, "reads", ()):
            calls[index].reads.append(PastRead(calls[index], told, next(places)))
        match record:
            case CallStarted():
                calls[record.index] = PastCall(record)
            case CallFinished():
                call = calls[record.index]
                call.finished, call.place = record, next(places)
            case ApprovalRequested():
                call = calls[record.index]
                call.requested, call.decided, call.tried = record, None, False
            case ApprovalDecided():
                calls[record.index].decided = record
            case ExecutionStarted():
                for call in calls.values():
                    call.tried = call.decided is not None
            case _:
                pass
    return [calls[index] for index in sorted(calls)]


def joined(turns: Sequence[Sequence[Record]], own: Sequence[Record]) -> list[PastCall]:
    """The calls of a session's earlier executions, and then those of this one."""
    found: list[PastCall] = []
    places = count()
    for records in (*turns, own):
        calls = past_calls(records, places)
        for call in calls:
            call.own = records is own
        found += calls
    return found


def past_tape(records: Sequence[Record]) -> list[Blob]:
    """What the guest was told of time, in parts."""
    parts = [record.tape for record in records if hasattr(record, "tape")]
    return [part for part in parts if part.size_bytes]
