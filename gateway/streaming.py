"""Streamed calls: each in a task of its own, its events read as they come."""

import asyncio
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Self, TypeAlias

import anyio

from gateway.base import JsonValue, ToolEvent, ToolEvents
from gateway.context import Progress
from gateway.errors import InvalidInput, ToolError
from gateway.payload import Encoded, error_json
from gateway.reads import PastRead, Step

MAX_AHEAD = 16
"""Events that a call may be ahead of its reader; past that the tool waits, and progress is not told."""

MAX_STREAMS = 32
"""Streams that one guest may have open."""

MAX_BATCH_BYTES = 1 << 20
"""One read gives no further chunk once it has that much."""


class _Item(NamedTuple):
    """`step` is None for what no recorded read gave."""

    event: ToolEvent
    size_bytes: int
    step: Step | None


class Feed:
    """Where a call puts what happens: `chunk` waits for a slow reader, `progress` does not. It is `left` once its
    reader wants no more of it. `on_read` hears what each read gave that is not a recorded one, `on_drop` that there
    will be no more.
    """

    def __init__(self) -> None:
        self.left = False
        self.on_read: Callable[[Sequence[ToolEvent]], None] = lambda _events: None
        self.on_drop: Callable[[], None] = lambda: None
        self.turn: Callable[[PastRead], Awaitable[None]]
        self._steps: deque[Step] = deque()
        self._send, self.items = anyio.create_memory_object_stream[_Item](MAX_AHEAD)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    async def follow(self, reads: Sequence[PastRead], turn: Callable[[PastRead], Awaitable[None]]) -> None:
        """Have the first reads give as much as these did, each in its `turn`, and tell the progress that they told."""
        self.turn = turn
        self._steps.extend(step for read in reads for step in read.steps())
        await self._tell_progress()

    async def chunk(self, data: Encoded) -> None:
        await self._put(ToolEvent("chunk", data.value), len(data.data))

    def progress(self, progress: Progress) -> None:
        """From any thread; in the loop's own it keeps its place among the chunks. Where reads are followed theirs is
        told."""
        if threading.get_ident() == self._thread:
            self._offer(progress)
        else:
            self._loop.call_soon_threadsafe(self._offer, progress)

    async def end(self, event: ToolEvent) -> None:
        await self._put(event, 0)

    def close(self) -> None:
        self._send.close()

    def drop(self) -> None:
        """Nobody reads any more."""
        self.items.close()
        self.on_drop()

    async def _put(self, event: ToolEvent, size_bytes: int) -> None:
        step = self._steps.popleft() if self._steps else None
        await self._send.send(_Item(event, size_bytes, step))
        await self._tell_progress()

    async def _tell_progress(self) -> None:
        while self._steps and (told := self._steps[0].progress) is not None:
            await self._send.send(_Item(ToolEvent("progress", told), 0, self._steps.popleft()))

    def _offer(self, progress: Progress) -> None:
        if self._steps:
            return
        data = {"message": progress.message, "progress": progress.progress, "total": progress.total}
        # The reader may be slow or gone, or the call at its end.
        with contextlib.suppress(anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._send.send_nowait(_Item(ToolEvent("progress", data), 0, None))


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
            return await self._recorded(item.event, item.step)
        events = [item.event]
        size_bytes = 0
        while size_bytes < MAX_BATCH_BYTES:
            try:
                item = self._feed.items.receive_nowait()
            except (anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
                break
            events.append(item.event)
            size_bytes += item.size_bytes
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
            return await self._feed.items.receive()
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


async def _run(call: Streamed, feed: Feed) -> None:
    try:
        try:
            last = ToolEvent("done", await call(feed))
        except ToolError as error:
            last = ToolEvent("error", error=error_json(error))
        await feed.end(last)
    finally:
        feed.close()
