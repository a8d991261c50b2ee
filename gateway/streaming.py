"""Streamed calls: each in a task of its own, its events read as they come."""

import asyncio
import contextlib
import itertools
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Self, TypeAlias, TypeVarTuple

import anyio

from gateway.base import CallOutcome, JsonValue, ToolEvent, ToolEvents
from gateway.chain import step_json
from gateway.context import Progress
from gateway.errors import InvalidInput, ToolError
from gateway.payload import MAX_NESTING, Encoded, encode, error_json
from gateway.reads import PastRead, Step

MAX_AHEAD = 16
"""Events that a call may be ahead of its reader; past that the tool waits, and progress is not told."""

MAX_STREAMS = 32
"""Streams that one guest may have open."""

MAX_BATCH_BYTES = 1 << 20
"""One read gives no further chunk once it has that much."""

Told = TypeVarTuple("Told")


class _Item(NamedTuple):
    """`step` is None for what no recorded read gave."""

    event: ToolEvent
    size_bytes: int
    step: Step | None


class Feed:
    """Where a call, or a chain of them, puts what happens: `chunk` waits for a slow reader, `progress` does not. It is
    `left` once its reader wants no more of it. `on_read` hears what each read gave that is not a recorded one, and
    `on_drop` that there will be no more.
    """

    def __init__(self) -> None:
        self.left = False
        self.on_read: Callable[[Sequence[ToolEvent]], None] | None = None
        self.on_drop: list[Callable[[], None]] = []
        self.turn: Callable[[PastRead], Awaitable[None]]
        self._steps: deque[Step] = deque()
        self._send, self.items = anyio.create_memory_object_stream[_Item](MAX_AHEAD)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._asking = asyncio.Event()
        self._chunks = self._taken = self._asked_after = 0

    async def wanted(self) -> None:
        """Wait until the reader has taken every chunk, and asks for more."""
        while self._asked_after < self._chunks:
            self._asking.clear()
            await self._asking.wait()

    def ask(self) -> None:
        """The reader has what there is, and asks for more."""
        self._asked_after = self._taken
        self._asking.set()

    async def follow(self, reads: Sequence[PastRead], turn: Callable[[PastRead], Awaitable[None]]) -> None:
        """Have the first reads give as much as these did, each in its `turn`, and tell the progress that they told."""
        self.turn = turn
        self._steps.extend(step for read in reads for step in read.steps())
        await self._tell_progress()

    async def chunk(self, data: Encoded) -> None:
        self._chunks += 1
        await self._put(ToolEvent("chunk", data.value), len(data.data))

    def progress(self, progress: Progress) -> None:
        """From any thread; in the loop's own it keeps its place among the chunks. Where reads are followed theirs is
        told."""
        self.soon(self.offer, progress)

    def soon(self, call: Callable[[*Told], object], *given: *Told) -> None:
        """Call it in the loop: at once, if this is its thread."""
        if threading.get_ident() == self._thread:
            call(*given)
        else:
            self._loop.call_soon_threadsafe(call, *given)

    async def end(self, event: ToolEvent) -> None:
        await self._put(event, 0)

    def close(self) -> None:
        self._send.close()

    def drop(self) -> None:
        """Nobody reads any more."""
        self.items.close()
        for told in self.on_drop:
            told()

    async def next(self) -> _Item:
        """Raises anyio.EndOfStream after the last one, anyio.ClosedResourceError when it is dropped."""
        try:
            return self.next_nowait()
        except anyio.WouldBlock:
            self.ask()
        return self._took(await self.items.receive())

    def next_nowait(self) -> _Item:
        """Raises anyio.WouldBlock too."""
        return self._took(self.items.receive_nowait())

    def _took(self, item: _Item) -> _Item:
        self._taken += item.event.kind == "chunk"
        return item

    async def _put(self, event: ToolEvent, size_bytes: int) -> None:
        step = self._steps.popleft() if self._steps else None
        await self._send.send(_Item(event, size_bytes, step))
        await self._tell_progress()

    async def _tell_progress(self) -> None:
        while self._steps and (told := self._steps[0].progress) is not None:
            await self._send.send(_Item(ToolEvent("progress", told), 0, self._steps.popleft()))

    def offer(self, progress: Progress) -> None:
        """As `progress`, in the loop."""
        if self._steps:
            return
        data = {
            "message": progress.message,
            "progress": _finite(progress.progress),
            "total": _finite(progress.total),
        }
        # The reader may be slow or gone, or the call at its end.
        with contextlib.suppress(anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._send.send_nowait(_Item(ToolEvent("progress", data), 0, None))


class ChainFeed:
    """What a streamed chain of so many `steps` tells: each one that has ended, and how far it is with all of them. With
    `shown` a tool's id is as records have it. A `Watcher`.
    """

    def __init__(self, feed: Feed, steps: int, shown: Callable[[str], str] = str) -> None:
        self.feed = feed
        self._steps = steps
        self._shown = shown
        self._ended = 0

    async def wanted(self) -> None:
        """Wait until the next step may begin: when the reader has heard of those before it, and asks for more.

        So a reader that leaves knows what was done, and so does a replay of it.
        """
        await self.feed.wanted()

    async def ended(self, outcome: CallOutcome) -> None:
        self._ended += 1
        state = "completed" if outcome.ok else "skipped" if outcome.skipped else "failed"
        self.feed.offer(Progress(f"{self._shown(outcome.tool_id)} {state}", self._ended, self._steps))
        step = step_json(outcome)
        await self.feed.chunk(Encoded(step, encode(step, MAX_NESTING + 1)))  # a value within a step

    def report(self, progress: Progress) -> None:
        """What the tool of the present step tells. From any thread."""
        self.feed.soon(self._report, self._ended, progress)

    def _report(self, step: int, progress: Progress) -> None:
        if step == self._ended:  # what comes later would be told after the step, and not be known in a replay
            done, total = _finite(progress.progress) or 0.0, _finite(progress.total)
            part = min(max(done / total, 0.0), 1.0) if total else 0.0
            self.feed.offer(Progress(progress.message, step + part, self._steps))


Streamed: TypeAlias = Callable[[Feed], Awaitable[JsonValue]]
"""Makes the call, feeds what happens, returns the result."""


class ToolStream:
    """A call under way: iterate over its events, of which the last is `done` or `error`, and close it in any case."""

    def __init__(self, call: Streamed) -> None:
        self._feed = Feed()
        self._task = asyncio.create_task(_run(call, self._feed))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ToolEvent:
        """Raises what failed on the host's side, such as a journal; a ToolError is an event."""
        if (item := await self._next()) is None:
            raise StopAsyncIteration
        return item.event

    async def batch(self) -> list[ToolEvent]:
        """The next events, as many as are there, or as a recorded read gave; none after the last."""
        if (item := await self._next()) is None:
            return []
        if item.step is not None:
            if item.event.kind == "progress":  # it was told ahead, and hides that all chunks before it are taken
                self._feed.ask()
            return await self._recorded(item.event, item.step)
        events = [item.event]
        size_bytes = 0
        while size_bytes < MAX_BATCH_BYTES:
            try:
                item = self._feed.next_nowait()
            except (anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
                break
            events.append(item.event)
            size_bytes += item.size_bytes
        if self._feed.on_read is not None:
            self._feed.on_read(events)
        return events

    async def _recorded(self, event: ToolEvent, step: Step) -> list[ToolEvent]:
        """The read that begins with this; less of it when the call ends sooner than it did."""
        events, read = [event], step.read
        while not step.last and (item := await self._next()) is not None and item.step is not None:
            events.append(item.event)
            step = item.step
        await self._feed.turn(read)
        return events

    async def _next(self) -> _Item | None:
        try:
            return await self._feed.next()
        except anyio.EndOfStream:
            if not self._task.cancelled():
                await self._task
            return None
        except anyio.ClosedResourceError:  # its reader closed it meanwhile
            return None

    async def aclose(self, *, cut_off: bool = False) -> None:
        """End the call, and wait until that is recorded. Idempotent. `cut_off` says that its reader is gone, and did
        not leave it of its own."""
        self._feed.left = not cut_off
        self._task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # nobody reads on, so nobody is told
        self._feed.drop()


class Streams:
    """The streamed calls of one guest, which asks for events when it wants them."""

    def __init__(self) -> None:
        self._open: dict[int, ToolEvents] = {}
        self._numbers = itertools.count(1)

    def open(self, begin: Callable[[], ToolEvents]) -> int:
        """Begin a call; its number. Raises InvalidInput when too many are open."""
        if len(self._open) >= MAX_STREAMS:
            raise InvalidInput(f"{MAX_STREAMS} streams are open; read one to its end, or close it")
        number = next(self._numbers)
        self._open[number] = begin()
        return number

    async def read(self, number: int) -> list[ToolEvent]:
        """At least one event; the last one closes the stream. Raises InvalidInput."""
        stream = self._open.get(number)
        if stream is None:
            raise InvalidInput(f"no stream {number} is open")
        events = await stream.batch()
        if not events or events[-1].kind in {"done", "error"}:
            await self.close(number)
        return events

    async def close(self, number: int) -> None:
        """End a call and forget it; nothing happens when it is not open."""
        stream = self._open.pop(number, None)
        if stream is not None:
            await stream.aclose()

    async def aclose(self) -> None:
        """The guest is gone. All are told before one is waited for: gRPC may cancel whoever waits."""
        closing = [asyncio.create_task(stream.aclose(cut_off=True)) for stream in self._open.values()]
        self._open.clear()
        if closing:
            await asyncio.wait(closing)


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


async def _run(call: Streamed, feed: Feed) -> None:
    try:
        try:
            last = ToolEvent("done", await call(feed))
        except ToolError as error:
            last = ToolEvent("error", error=error_json(error))
        await feed.end(last)
    finally:
        feed.close()
