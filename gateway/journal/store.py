"""What both databases have in common: who waits for the writer, and for how long."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from gateway.errors import Closed, JournalUnavailable
from gateway.journal.jobs import Job, Keeper
from gateway.journal.rows import Rows
from gateway.journal.writing import Write

Answer = TypeVar("Answer")


class Deadlines:
    """Ends each wait in one loop after so many seconds, with one timer for all: one for each would be made and thrown
    away with every record, at the price of a change of threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self.loop = loop
        self._seconds = seconds
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, future: "asyncio.Future[Any]") -> None:
        """It is over, or gets a TimeoutError."""
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        waiting.append((self.loop.time() + self._seconds, future))
        if self._timer is None:
            self._timer = self.loop.call_later(self._seconds, self._check)

    def _check(self) -> None:
        now = self.loop.time()
        while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][1].done()):
            future = self._waiting.popleft()[1]
            if not future.done():
                future.set_exception(TimeoutError())
        self._timer = self.loop.call_at(self._waiting[0][0], self._check) if self._waiting else None


class Store(ABC):
    """A database that a journal is in, with one writer, for which nobody waits longer than `wait_seconds`."""

    def __init__(self, keeper: Keeper, wait_seconds: float) -> None:
        self._keeper = keeper
        self._wait_seconds = wait_seconds
        self._closed = False
        self._deadlines: Deadlines | None = None

    @property
    @abstractmethod
    def where(self) -> str:
        """For messages: without a password."""

    @abstractmethod
    async def read(self, step: Callable[[Rows], Answer]) -> Answer:
        """Run it on what is there now, beside all writing."""

    @abstractmethod
    async def aclose(self) -> None: ...

    @abstractmethod
    def _hand_over(self, job: Job) -> None:
        """To the writer, which is started when there is none."""

    async def write(self, write: Write) -> None:
        """Keep it, in one transaction with whatever else waits. Raises its flaw, JournalUnavailable, JournalCorrupt."""
        await self._do(write=write)
        if write.flaw is not None:
            raise write.flaw

    async def step(self, step: Callable[[Rows], Answer]) -> Answer:
        """Run it in a transaction of its own that may write."""
        answer: Answer = await self._do(step=step)
        return answer

    async def _do(self, *, write: Write | None = None, step: Callable[[Rows], Any] | None = None) -> Any:
        if self._closed:
            raise Closed("journal")
        loop = asyncio.get_running_loop()
        deadlines = self._deadlines
        if deadlines is None or deadlines.loop is not loop:
            deadlines = self._deadlines = Deadlines(loop, self._wait_seconds)
        future: asyncio.Future[Any] = loop.create_future()
        deadlines.watch(future)
        self._hand_over(Job(future, write, step))
        try:
            return await future
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> JournalUnavailable:
        return JournalUnavailable(self.where, f"it did not answer within {self._wait_seconds:g} s")
