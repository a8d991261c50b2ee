"""The calls of one execution, from asked for to ended: in memory, in the journal, and told to whoever listens."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Protocol

import anyio

from gateway.artifacts import Artifact
from gateway.base import JsonValue
from gateway.context import ANYBODY, Caller
from gateway.errors import JournalUnavailable
from gateway.journal.base import (
    EMPTY,
    Blob,
    CallFinished,
    CallStarted,
    CallStatus,
    Record,
    ToolCall,
    arguments_sha256,
)
from gateway.notices import NOTHING, CallFeed, Notice
from gateway.payload import MAX_RECORDED_BYTES, Encoded, RecordedList, shortened
from gateway.policies.base import Call
from gateway.site import TapeLog, frame
from gateway.usage import CallUsage

RECORD_SECONDS = 5.0
"""How long the end of a call may take to be recorded, even while the execution is being cancelled."""

NO_ARTIFACTS: Mapping[str, Blob] = MappingProxyType({})

PART_BYTES = 1 << 20
"""A streamed result goes to the journal in parts of about this size, so no more of it is held."""

CANCELLED: Mapping[str, JsonValue] = {
    "code": "cancelled",
    "message": "the execution ended while the tool was at work",
    "retryable": False,
    "details": {},
}


LEFT: Mapping[str, JsonValue] = {**CANCELLED, "message": "the snippet read no further", "details": {"left": True}}
"""Of a streamed call that its snippet left before its end."""


class Keeper(Protocol):
    """Of a journal, what the calls of one execution need."""

    async def append(self, *records: Record) -> None: ...

    async def put(self, execution_id: str, data: bytes) -> Blob: ...


class CallLog:
    """`before` are calls of an earlier run, which keep their indexes. `on_call` is told of every call when it starts
    (status None) and when it ends; `feed` of that and of more.

    The journal gets values whole; what is kept here, and told, is bounded.
    """

    def __init__(
        self,
        execution_id: str,
        journal: Keeper,
        on_call: Callable[[ToolCall], None] | None = None,
        caller: Caller = ANYBODY,
        feed: CallFeed | None = None,
        *,
        before: Iterable[tuple[CallStarted, CallFinished | None]] = (),
    ) -> None:
        self.execution_id = execution_id
        self.tenant_id = caller.tenant_id
        self.journal = journal
        self.tape = TapeLog()
        self._at_once = getattr(journal.append, "at_once", False)
        self._calls = [OpenCall(started, finished) for started, finished in before]
        self._on_call = on_call
        self._caller = caller
        self._feed = feed or CallFeed()

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return tuple(call.seen for call in self._calls)

    @property
    def next_index(self) -> int:
        """Of the call that starts next."""
        return len(self._calls)

    async def start(
        self,
        tool_id: str,
        arguments: Encoded,
        via: str,
        *,
        site: str = "",
        key: str = "",
        warnings: tuple[str, ...] = (),
        whole: bool = True,
        refused: bool = False,
    ) -> "OpenCall":
        """Give the call its index, and record its start. Unless `whole`, the journal too gets no more than the head of
        large arguments. Of a call that is `refused` the feed hears only that.

        What the journal raises comes out: such a call must not be made.
        """
        record = CallStarted(
            execution_id=self.execution_id,
            tenant_id=self.tenant_id,
            index=len(self._calls),
            at=datetime.now(UTC),
            tool_id=tool_id,
            arguments=Blob.of(arguments.data if whole else shortened(arguments.data)),
            arguments_sha256=arguments_sha256(arguments.value),
            via=via,
            site=site,
            key=key,
            warnings=warnings,
            tape=Blob.of(tape) if (tape := self.tape.take()) else EMPTY,
            reads=self.tape.take_reads(),
            frame=frame.get(),
        )
        call = OpenCall(record)
        self._calls.append(call)
        try:
            await self._keep_start(call, record)
            self._tell(call)
            if not refused:
                call.began = True
                self._notice("started", call, 0)
        except BaseException as exc:
            await self.abandon(call, exc)
            raise
        return call

    def reopen(self, index: int) -> "OpenCall":
        """A call of the earlier run that is recorded as started already."""
        call = self._calls[index] = self._calls[index].again()
        return call

    async def finish(
        self,
        call: "OpenCall",
        status: CallStatus,
        *,
        result: "bytes | Chunks | None" = None,
        error: Mapping[str, JsonValue] | None = None,
        usage: CallUsage | None = None,
        artifacts: tuple[Artifact, ...] = (),
    ) -> None:
        """Record the end; cancellation waits for it, at most 5 s. Raises JournalUnavailable when that was not enough.

        `result` is the encoding of the result, or the chunks that were given, also before it failed.
        """
        chunks = result if isinstance(result, Chunks) else None
        usage = usage or CallUsage()
        record = CallFinished(
            execution_id=self.execution_id,
            tenant_id=self.tenant_id,
            index=call.index,
            at=datetime.now(UTC),
            status=status,
            result=Blob.of(result) if isinstance(result, bytes) else None,
            chunks=None if chunks is None else chunks.parts(),
            error=error,
            attempts=usage.attempts,
            duration_seconds=time.perf_counter() - call.clock,
            usage=usage.to_json(),
            artifacts={artifact.path: Blob.of(artifact.data) for artifact in artifacts} if artifacts else NO_ARTIFACTS,
            reads=self.tape.take_reads(),
        )
        call.ended(record, chunks)
        if call.is_kept:
            await self._keep_end(record)
        self._tell(call)
        self._notice(status, call, usage.attempts, began=call.began)

    async def abandon(
        self,
        call: "OpenCall",
        reason: BaseException,
        usage: CallUsage | None = None,
        given: "Chunks | None" = None,
        *,
        left: bool = False,
    ) -> None:
        """Record that the execution ended first, or that the snippet has `left` the call, and the chunks that it was
        given. Never raises: `reason` goes on, with a note if this failed."""
        try:
            await self.finish(call, CallStatus.CANCELLED, result=given, error=LEFT if left else CANCELLED, usage=usage)
        except Exception as exc:  # noqa: BLE001 - the cancellation must not turn into another error
            reason.add_note(f"the end of call {call.index} was not recorded: {exc}")

    def happened(self, call: Call, kind: str, details: Mapping[str, JsonValue]) -> None:
        """A policy did something with a call that is under way."""
        self._notice(kind, self._calls[call.context.call_index], call.usage.attempts, details=details)

    async def _keep_start(self, call: "OpenCall", record: CallStarted) -> None:
        try:
            await self.journal.append(record)
        except Exception:
            call.is_kept = False
            raise

    async def _keep_end(self, record: CallFinished) -> None:
        if self._at_once:
            await self.journal.append(record)
            return
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + RECORD_SECONDS) as scope:
            await self.journal.append(record)
        if scope.cancelled_caught:
            raise JournalUnavailable(
                "of this Exec", f"the end of call {record.index} was not kept in {RECORD_SECONDS:g} s"
            )

    def _tell(self, call: "OpenCall") -> None:
        if self._on_call is not None:
            self._on_call(call.seen)

    def _notice(
        self,
        kind: str,
        call: "OpenCall",
        attempts: int,
        *,
        began: bool = True,
        details: Mapping[str, JsonValue] = NOTHING,
    ) -> None:
        if self._feed.wants(kind):
            self._feed.tell(Notice(kind, call.seen, self.execution_id, self._caller, attempts, began, details))


class OpenCall:
    """A call that has started; unless that raised, one of `finish` and `abandon` comes.

    It holds no more of its records than a record may show, and makes a `ToolCall` of them when somebody looks.
    """

    __slots__ = ("_finished", "_seen", "_started", "began", "clock", "is_kept")

    def __init__(self, started: CallStarted, finished: CallFinished | None = None) -> None:
        self.clock = time.perf_counter()
        self.began = False
        self.is_kept = True
        """Whether its start is in the journal, or may be: an end without a start is not recorded."""
        large = _is_large(started.arguments)
        self._started = replace(started, arguments=_small(started.arguments)) if large else started
        self._finished = finished
        self._seen: ToolCall | None = None

    def again(self) -> "OpenCall":
        """The same call, begun anew."""
        return OpenCall(self._started)

    @property
    def index(self) -> int:
        return self._started.index

    @property
    def seen(self) -> ToolCall:
        """The call as it is now."""
        if self._seen is None:
            self._seen = ToolCall.of(self._started, self._finished)
        return self._seen

    @property
    def duration_seconds(self) -> float:
        """Once it has ended."""
        return 0.0 if self._finished is None else self._finished.duration_seconds

    def ended(self, record: CallFinished, chunks: "Chunks | None") -> None:
        """Take what the record may show."""
        if chunks is not None:
            whole = record.status is CallStatus.COMPLETED
            record = replace(record, result=Blob.of(chunks.view.shortened()) if whole else None, chunks=None)
        elif record.result is not None and _is_large(record.result):
            record = replace(record, result=_small(record.result))
        self._finished, self._seen = record, None


class Chunks:
    """A result that comes in chunks: all of it for the journal, where its parts go as they fill, and a bounded view."""

    def __init__(self, log: CallLog) -> None:
        self.view = RecordedList()
        self._log = log
        self._parts: list[Blob] = []
        self._open: list[bytes] = []
        self._open_bytes = 0

    async def add(self, chunk: bytes) -> None:
        """Take the encoding of the next chunk."""
        self.view.add(chunk)
        self._open.append(chunk)
        self._open_bytes += len(chunk)
        if self._open_bytes >= PART_BYTES:
            part = self._part()
            self._open, self._open_bytes = [], 0
            self._parts.append(await self._log.journal.put(self._log.execution_id, part))

    def parts(self) -> tuple[Blob, ...]:
        """JSON lists of chunks."""
        last = (Blob.of(self._part()),) if self._open or not self._parts else ()
        return (*self._parts, *last)

    def _part(self) -> bytes:
        return b"[" + b",".join(self._open) + b"]"


def _is_large(blob: Blob) -> bool:
    return blob.data is not None and blob.size_bytes > MAX_RECORDED_BYTES


def _small(blob: Blob) -> Blob:
    return blob.with_data(shortened(blob.as_bytes()))
