"""Events of tool calls for observers of the host's: each has a queue of its own, and none can hold up a call."""

import asyncio
import inspect
import itertools
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import anyio
import anyio.to_thread

from gateway.base import JsonValue
from gateway.errors import Closed, InvalidRequest
from gateway.notices import ENDS, CallFeed, Notice, code_of
from gateway.preview import preview

MAX_BEHIND = 1000
"""Events that an observer may be behind; past that the oldest ones are dropped."""

LISTENER_SECONDS = 5.0
"""How long an async listener may take for one event; then it is cancelled, and gets the next one."""

CLOSE_SECONDS = 1.0
"""How long listeners may still take for what they have not heard when the Exec closes."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent:
    """Something that happened to a tool call.

    `kind` is started, then what policies did (retrying, rate_limited, circuit_open, circuit_opened, circuit_closed,
    cache_hit, replayed, or what a policy of your own tells), then one of completed, failed, refused and cancelled. A
    call that was refused before it was one has only that. `sequence` counts all events of an Exec from 1: a gap is what
    was dropped. `latency_seconds` and `code` (of the error, empty for none) are known at the end, `attempts` always.
    `preview` is at most 100 characters of the result or of the error's message, and `…` when there is more; `masked`
    says that something in it is hidden. `details` is what the policy said.
    """

    sequence: int
    kind: str
    tool_id: str
    execution_id: str
    call_index: int
    tenant_id: str
    caller_role: str
    at: datetime
    attempts: int
    latency_seconds: float | None = None
    code: str = ""
    preview: str = ""
    masked: bool = False
    details: Mapping[str, JsonValue] = field(default_factory=dict, hash=False)


Listener: TypeAlias = Callable[[CallEvent], Awaitable[object] | object]
"""Hears of events one after another. One that is not async is called in a thread."""


class CallEvents:
    """Observers of one feed. Nothing is made of a notice while there are none."""

    def __init__(self, feed: CallFeed) -> None:
        self._feed = feed
        self._numbers = itertools.count(1)
        self._queues: dict[_Queue, None] = {}
        self._unwatch: Callable[[], None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def observe(self, listener: Listener, *, max_behind: int = MAX_BEHIND) -> "Subscription":
        """Call `listener` with every event from now on. Call what this returns to end it. Raises InvalidRequest."""
        if not callable(listener):
            raise InvalidRequest(f"a listener must be a function of one event, not {listener!r}")
        observation = Subscription(self, listener, max_behind)
        self._join(observation.queue)
        return observation

    def stream(self, *, max_behind: int = MAX_BEHIND) -> "EventStream":
        """The events from now on, to be looped over. Raises InvalidRequest."""
        stream = EventStream(self, max_behind)
        self._join(stream.queue)
        return stream

    async def aclose(self) -> None:
        """Let listeners hear what is left, for a second, and end them. Idempotent."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
        for queue in tuple(self._queues):
            self.leave(queue)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)

    def leave(self, queue: "_Queue") -> None:
        queue.close()
        self._queues.pop(queue, None)
        if not self._queues and self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def run(self, work: Callable[[], Any]) -> None:
        """In a task of its own, which knows nothing of the call that it comes from."""
        task = asyncio.get_running_loop().create_task(work(), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _join(self, queue: "_Queue") -> None:
        if self._closed:
            raise Closed("Exec")
        self._queues[queue] = None
        if self._unwatch is None:
            self._unwatch = self._feed.add(self._watch)

    def _watch(self, notice: Notice) -> None:
        event = _event(next(self._numbers), notice)
        for queue in tuple(self._queues):
            queue.put(event)


class _Queue:
    """Events that somebody has not heard yet, the oldest dropped where there are too many."""

    def __init__(self, max_behind: int, on_event: Callable[[], None]) -> None:
        if max_behind < 1:
            raise InvalidRequest(f"max_behind must be at least 1, not {max_behind}")
        self._events: deque[CallEvent] = deque(maxlen=max_behind)
        self._on_event = on_event
        self.dropped = 0
        self.closed = False

    def put(self, event: CallEvent) -> None:
        if len(self._events) == self._events.maxlen:
            if not self.dropped:
                _log.warning("an observer of tool calls is too slow; its oldest events are dropped from now on")
            self.dropped += 1
        self._events.append(event)
        self._on_event()

    def get(self) -> CallEvent | None:
        try:
            return self._events.popleft()
        except IndexError:  # not looked up before: another thread may have closed it
            return None

    def close(self) -> None:
        self.closed = True
        self._events.clear()
        self._on_event()


class Subscription:
    """A listener that is told of events. Call it to end that; idempotent."""

    def __init__(self, events: CallEvents, listener: Listener, max_behind: int) -> None:
        self._of = events
        self._listener = listener
        self._is_async = inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(type(listener).__call__)
        self._telling = False
        self._thread: anyio.CapacityLimiter | None = None
        self.queue = _Queue(max_behind, self._wake)

    def __call__(self) -> None:
        self._of.leave(self.queue)

    @property
    def dropped(self) -> int:
        """Events that it was too slow for."""
        return self.queue.dropped

    def _wake(self) -> None:
        if not self._telling and not self.queue.closed:
            self._telling = True
            self._of.run(self._tell)

    async def _tell(self) -> None:
        """A task for as long as there is something to tell: an observer costs nothing while nothing happens."""
        try:
            while (event := self.queue.get()) is not None:
                await self._tell_one(event)
        finally:
            self._telling = False

    async def _tell_one(self, event: CallEvent) -> None:
        try:
            answer = self._listener(event) if self._is_async else await self._in_thread(event)
            if isinstance(answer, Awaitable):
                with anyio.move_on_after(LISTENER_SECONDS) as scope:
                    await answer
                if scope.cancelled_caught:
                    _log.warning("a listener did not end within %g s on %s", LISTENER_SECONDS, event.kind)
        except Exception:  # noqa: BLE001 - a listener's failure is its own
            _log.exception("a listener failed on %s of tool %s", event.kind, event.tool_id)

    async def _in_thread(self, event: CallEvent) -> object:
        """One thread for each listener, which cannot be made to end: one that hangs loses its events, and no more."""
        if self._thread is None:
            self._thread = anyio.CapacityLimiter(1)
        return await anyio.to_thread.run_sync(self._listener, event, abandon_on_cancel=True, limiter=self._thread)


class EventStream(AsyncGenerator[CallEvent, None]):
    """Events as they come, until it or the Exec is closed. `dropped` counts those that the reader was too slow for."""

    def __init__(self, events: CallEvents, max_behind: int) -> None:
        self._of = events
        self._woken = anyio.Event()
        self.queue = _Queue(max_behind, self._wake)

    @property
    def dropped(self) -> int:
        return self.queue.dropped

    def _wake(self) -> None:
        self._woken.set()

    async def asend(self, value: None) -> CallEvent:
        del value
        while (event := self.queue.get()) is None:
            if self.queue.closed:
                raise StopAsyncIteration
            self._woken = anyio.Event()
            await self._woken.wait()
        return event

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None) -> CallEvent:
        """What is thrown into it ends it, as `aclose` does."""
        self._of.leave(self.queue)
        return await super().athrow(typ, val, tb)


def _event(sequence: int, notice: Notice) -> CallEvent:
    call, ended = notice.call, notice.kind in ENDS
    shown, masked = ("", False)
    if ended:
        shown, masked = preview(call.result if call.error is None else call.error.get("message"))
    return CallEvent(
        sequence=sequence,
        kind=str(notice.kind),
        tool_id=call.tool_id,
        execution_id=notice.execution_id,
        call_index=call.index,
        tenant_id=notice.caller.tenant_id,
        caller_role=notice.caller.role,
        at=datetime.now(UTC),
        attempts=notice.attempts,
        latency_seconds=call.duration_seconds if ended else None,
        code=code_of(call) if ended else "",
        preview=shown,
        masked=masked,
        details=notice.details,
    )
