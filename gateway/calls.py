"""The calls of one execution, from asked for to ended: in memory, in the journal, and told to whoever listens."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import anyio

from gateway.base import JsonValue
from gateway.context import ANYBODY, Caller
from gateway.errors import SandboxError
from gateway.journal.base import CallFinished, CallStarted, CallStatus, Journal, ToolCall
from gateway.notices import NOTHING, CallFeed, Notice
from gateway.policies.base import Call
from gateway.usage import CallUsage

RECORD_SECONDS = 5.0
"""How long the end of a call may take to be recorded, even while the execution is being cancelled."""

CANCELLED: Mapping[str, JsonValue] = {
    "code": "cancelled",
    "message": "the execution ended while the tool was at work",
    "retryable": False,
    "details": {},
}


class CallLog:
    """`on_call` is told of every call when it starts (status None) and when it ends; `feed` of that and of more."""

    def __init__(
        self,
        execution_id: str,
        journal: Journal,
        on_call: Callable[[ToolCall], None] | None,
        caller: Caller = ANYBODY,
        feed: CallFeed | None = None,
    ) -> None:
        self.execution_id = execution_id
        self.journal = journal
        self.calls: list[ToolCall] = []
        self._on_call = on_call
        self._caller = caller
        self._feed = feed or CallFeed()

    def open(self, tool_id: str, arguments: JsonValue, via: str, warnings: tuple[str, ...] = ()) -> "OpenCall":
        """Give the call its index. `arguments` belong to the record from here on."""
        return OpenCall(self, tool_id, arguments, via, warnings)

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

    __slots__ = ("_began", "_call", "_clock", "_log")

    def __init__(self, log: CallLog, tool_id: str, arguments: JsonValue, via: str, warnings: tuple[str, ...]) -> None:
        self._log = log
        self._began = False
        self._clock = time.perf_counter()
        self._call = ToolCall(
            index=len(log.calls),
            tool_id=tool_id,
            arguments=arguments,
            status=None,
            result=None,
            error=None,
            started_at=datetime.now(UTC),
            duration_seconds=0.0,
            attempts=0,
            via=via,
            warnings=warnings,
        )
        log.calls.append(self._call)

    @property
    def index(self) -> int:
        return self._call.index

    async def start(self, key: str = "", *, refused: bool = False) -> None:
        """Record the start. What the journal raises comes out: such a call must not be made.

        Of a call that is `refused` the feed hears only that.
        """
        if key:
            self._call = self._log.calls[self._call.index] = replace(self._call, key=key)
        call = self._call
        record = CallStarted(
            execution_id=self._log.execution_id,
            index=call.index,
            at=call.started_at,
            tool_id=call.tool_id,
            arguments=call.arguments,
            via=call.via,
            key=call.key,
            warnings=call.warnings,
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
        result: JsonValue = None,
        error: Mapping[str, JsonValue] | None = None,
        usage: CallUsage | None = None,
    ) -> None:
        """Record the end; cancellation waits for it, at most 5 s. Raises SandboxError when that was not enough."""
        call = self._ended(status, result, error, usage or CallUsage())
        self._log.calls[call.index] = call
        record = CallFinished(
            execution_id=self._log.execution_id,
            index=call.index,
            at=datetime.now(UTC),
            status=status,
            result=result,
            error=error,
            attempts=call.attempts,
            duration_seconds=call.duration_seconds,
            usage=call.usage,
        )
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + RECORD_SECONDS) as scope:
            await self._log.journal.append(record)
        if scope.cancelled_caught:
            raise SandboxError(
                f"the journal did not keep the end of call {call.index} within {RECORD_SECONDS:g} s; "
                "see whether its storage is reachable"
            )
        self._log.tell(call)
        self._log.notice(status, call, call.attempts, began=self._began)

    async def abandon(self, reason: BaseException, usage: CallUsage | None = None) -> None:
        """Record that the execution ended first. Never raises: `reason` goes on, with a note if this failed."""
        try:
            await self.finish(CallStatus.CANCELLED, error=CANCELLED, usage=usage)
        except Exception as exc:  # noqa: BLE001 - the cancellation must not turn into another error
            reason.add_note(f"the end of call {self._call.index} was not recorded: {exc}")

    def _ended(
        self, status: CallStatus, result: JsonValue, error: Mapping[str, JsonValue] | None, usage: CallUsage
    ) -> ToolCall:
        return replace(
            self._call,
            status=status,
            result=result,
            error=error,
            duration_seconds=time.perf_counter() - self._clock,
            attempts=usage.attempts,
            usage=usage.to_json(),
        )
