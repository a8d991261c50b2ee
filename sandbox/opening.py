"""The start of an execution is kept together with the first record that follows it: one transaction in place of two.

That is one sync of a disk less, and a third of what a short execution costs. Nothing that an execution does can be seen
outside its sandbox before its first call, and that call is made once its own record is kept, and with it the start.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio

from gateway.calls import Keeper
from gateway.errors import LeaseLost
from gateway.journal.base import Blob, ExecutionFinished, ExecutionStarted, Record

OPEN_SECONDS = 0.05
"""How long a start waits for a record to go with; an execution that runs on is then known to be under way."""

MAX_UNENDED = 10_000


class Opening:
    """A keeper for one execution: whatever is appended takes its start along, until that is kept."""

    def __init__(self, keeper: Keeper, started: ExecutionStarted) -> None:
        self._keeper = keeper
        self._started = started
        self._lock = anyio.Lock()
        self.is_settled = False
        """Whether the start is kept, or nobody wants it any more."""
        self.is_ended = False
        """Whether the end is kept."""

    async def append(self, *records: Record) -> None:
        if not await self._open(*records):
            await self._keeper.append(*records)
        self.is_ended = isinstance(records[-1], ExecutionFinished)

    async def put(self, execution_id: str, data: bytes) -> Blob:
        await self._open()
        return await self._keeper.put(execution_id, data)

    async def open(self) -> None:
        """Keep the start by itself."""
        with suppress(Exception):  # whatever a journal raises is raised again for whoever appends next
            await self._open()

    async def _open(self, *records: Record) -> bool:
        """Whether it was still to be kept, and is now, with these."""
        if self.is_settled:
            return False
        async with self._lock:
            if self.is_settled:
                return False
            try:
                await self._keeper.append(self._started, *records)
            except anyio.get_cancelled_exc_class():
                self.is_settled = True  # nobody waits for it, and yet it is written
                raise
            self.is_settled = True
        return True


class Openings:
    """The executions of one host that have begun. `unended` are the newest of those that are over and whose end the
    journal could not keep: for others they are at work still, as their host lives."""

    def __init__(self) -> None:
        self.unended: dict[str, None] = {}
        self._waiting: deque[tuple[float, Opening]] = deque()
        self._some = anyio.Event()

    @asynccontextmanager
    async def begun(self, keeper: Keeper, started: ExecutionStarted) -> AsyncIterator[Keeper]:
        """Where the records of an execution go that starts now. Where keeping one costs nothing, it is kept at once."""
        if getattr(keeper.append, "at_once", False):
            await keeper.append(started)
            yield keeper
            return
        opening = Opening(keeper, started)
        self._waiting.append((anyio.current_time() + OPEN_SECONDS, opening))
        self._some.set()
        self.unended.pop(started.execution_id, None)
        is_lost = False
        try:
            yield opening
        except LeaseLost:
            is_lost = True  # another host goes on with it
            raise
        finally:
            opening.is_settled = True
            if not (opening.is_ended or is_lost):
                self.unended[started.execution_id] = None
                if len(self.unended) > MAX_UNENDED:
                    del self.unended[next(iter(self.unended))]

    async def serve(self) -> None:
        """Keep starts whose time has come, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                while self._waiting and self._waiting[0][1].is_settled:
                    self._waiting.popleft()
                if not self._waiting:
                    self._some = anyio.Event()
                    await self._some.wait()
                elif self._waiting[0][0] > anyio.current_time():
                    await anyio.sleep_until(self._waiting[0][0])
                else:
                    tasks.start_soon(self._waiting.popleft()[1].open)
