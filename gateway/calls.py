"""The calls of one execution, from asked for to ended: in memory, in the journal, and told to whoever listens."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
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
from gateway.payload import Encoded, RecordedList, recorded
from gateway.policies.base import Call
from gateway.site import TapeLog, frame
from gateway.usage import CallUsage

RECORD_SECONDS = 5.0
"""How long the end of a call may take to be recorded, even while the execution is being cancelled."""

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
        before: Sequence[ToolCall] = (),
    ) -> None:
        self.execution_id = execution_id
        self.tenant_id = caller.tenant_id
        self.journal = journal
        self.calls = list(before)
        self.tape = TapeLog()
        self._on_call = on_call
        self._caller = caller
        self._feed = feed or CallFeed()

    def open(
        self,
        tool_id: str,
        arguments: Encoded,
        via: str,
        warnings: tuple[str, ...] = (),
        *,
        site: str = "",
        whole: bool = True,
    ) -> "OpenCall":
        """Give the call its index. Unless `whole`, the journal too gets no more than the head of large arguments."""
        call = ToolCall(
            index=len(self.calls),
            tool_id=tool_id,
            arguments=recorded(arguments.data),
            status=None,
            result=None,
            error=None,
            started_at=datetime.now(UTC),
            duration_seconds=0.0,
            attempts=0,
            via=via,
            site=site,
            warnings=warnings,
        )
        self.calls.append(call)
        return OpenCall(self, call, arguments, whole=whole)

    def reopen(self, index: int, arguments: Encoded) -> "OpenCall":
        """A call of the earlier run that is recorded as started already."""
        return OpenCall(self, self.calls[index], arguments)

    def tell(self, call: ToolCall) -> None:
        if self._on_call is not None:
            self._on_call(call)

    def happened(self, call: Call, kind: str, details: Mapping[str, JsonValue]) -> None:
        """A policy did something with a call that is under way."""
        self.notice(kind, self.calls[call.context.call_index], call.usage.attempts, details=details)

    def notice(
        self,
        kind: str,
        call: ToolCall,
        attempts: int,
        *,
        began: bool = True,
        details: Mapping[str, JsonValue] = NOTHING,
    ) -> None:
        if self._feed.wants(kind):
            self._feed.tell(Notice(kind, call, self.execution_id, self._caller, attempts, began, details))


class OpenCall:
    """A call with an index and no end yet: `start`, and unless that raises, one of `finish` and `abandon`."""

    __slots__ = ("_arguments", "_began", "_call", "_clock", "_log", "_whole")

    def __init__(self, log: CallLog, call: ToolCall, arguments: Encoded, *, whole: bool = True) -> None:
        self._log = log
        self._began = False
        self._clock = time.perf_counter()
        self._arguments: Encoded | None = arguments
        self._whole = whole
        self._call = call

    @property
    def index(self) -> int:
        return self._call.index

    @property
    def duration_seconds(self) -> float:
        """Once it has ended."""
        return self._log.calls[self._call.index].duration_seconds

    async def start(self, key: str = "", *, refused: bool = False) -> None:
        """Record the start. What the journal raises comes out: such a call must not be made.

        Of a call that is `refused` the feed hears only that.
        """
        if key:
            self._call = self._log.calls[self._call.index] = replace(self._call, key=key)
        call = self._call
        arguments, self._arguments = self._arguments, None  # they may be large, and the call long
        assert arguments is not None, "a call starts once"
        record = CallStarted(
            execution_id=self._log.execution_id,
            tenant_id=self._log.tenant_id,
            index=call.index,
            at=call.started_at,
            tool_id=call.tool_id,
            arguments=Blob.of(arguments.data) if self._whole else Blob.of_json(call.arguments),
            arguments_sha256=arguments_sha256(arguments.value),
            via=call.via,
            site=call.site,
            key=call.key,
            warnings=call.warnings,
            tape=Blob.of(tape) if (tape := self._log.tape.take()) else EMPTY,
            reads=self._log.tape.take_reads(),
            frame=frame.get(),
        )
        try:
            await self._log.journal.append(record)
            self._log.tell(call)
            if not refused:
                self._began = True
                self._log.notice("started", call, 0)
        except BaseException as exc:
            await self.abandon(exc)
            raise

    async def finish(
        self,
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
        whole = result if isinstance(result, bytes) else None
        call = self._ended(status, _view(result) if status is CallStatus.COMPLETED else None, error, usage)
        call = replace(call, artifacts=artifacts) if artifacts else call
        self._log.calls[call.index] = call
        record = CallFinished(
            execution_id=self._log.execution_id,
            tenant_id=self._log.tenant_id,
            index=call.index,
            at=datetime.now(UTC),
            status=status,
            result=None if whole is None else Blob.of(whole),
            chunks=None if chunks is None else chunks.parts(),
            error=error,
            attempts=call.attempts,
            duration_seconds=call.duration_seconds,
            usage=call.usage,
            artifacts={artifact.path: Blob.of(artifact.data) for artifact in artifacts},
            reads=self._log.tape.take_reads(),
        )
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + RECORD_SECONDS) as scope:
            await self._log.journal.append(record)
        if scope.cancelled_caught:
            raise JournalUnavailable(
                "of this Exec", f"the end of call {call.index} was not kept in {RECORD_SECONDS:g} s"
            )
        self._log.tell(call)
        self._log.notice(status, call, call.attempts, began=self._began)

    async def abandon(
        self,
        reason: BaseException,
        usage: CallUsage | None = None,
        given: "Chunks | None" = None,
        *,
        left: bool = False,
    ) -> None:
        """Record that the execution ended first, or that the snippet has `left` the call, and the chunks that it was
        given. Never raises: `reason` goes on, with a note if this failed."""
        try:
            await self.finish(CallStatus.CANCELLED, result=given, error=LEFT if left else CANCELLED, usage=usage)
        except Exception as exc:  # noqa: BLE001 - the cancellation must not turn into another error
            reason.add_note(f"the end of call {self._call.index} was not recorded: {exc}")

    def _ended(
        self, status: CallStatus, result: JsonValue, error: Mapping[str, JsonValue] | None, usage: CallUsage | None
    ) -> ToolCall:
        usage = usage or CallUsage()
        return replace(
            self._call,
            status=status,
            result=result,
            error=error,
            duration_seconds=time.perf_counter() - self._clock,
            attempts=usage.attempts,
            usage=usage.to_json(),
        )


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


def _view(result: bytes | Chunks | None) -> JsonValue:
    return result.view.recorded() if isinstance(result, Chunks) else None if result is None else recorded(result)
