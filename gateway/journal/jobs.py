"""What waits to be written, and in which transactions."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gateway.errors import Closed, JournalUnavailable
from gateway.journal import leasing
from gateway.journal.rows import Rows
from gateway.journal.writing import Recorder, Write

Answer = TypeVar("Answer")

MAX_GROUP = 500
MAX_GROUP_BYTES = 16 << 20
"""Most that one transaction takes."""


class Store(Protocol):
    """A database that a journal is in."""

    @property
    def where(self) -> str:
        """For messages: without a password."""
        ...

    async def write(self, write: Write) -> None:
        """Keep it, in one transaction with whatever else waits. Raises its flaw, JournalUnavailable, JournalCorrupt."""
        ...

    async def step(self, step: Callable[[Rows], Answer]) -> Answer:
        """Run it in a transaction of its own that may write."""
        ...

    async def read(self, step: Callable[[Rows], Answer]) -> Answer:
        """Run it on what is there now, beside all writing."""
        ...

    async def aclose(self) -> None: ...


@dataclass(slots=True, eq=False)
class Job:
    """A write that may share its transaction, or a step that has one of its own; and who waits for it."""

    future: "asyncio.Future[Any]"
    write: Write | None = None
    step: Callable[[Rows], Any] | None = None
    answer: Any = None
    error: BaseException | None = None

    def settle(self) -> None:
        """Tell who waits, in its own loop."""
        if self.future.done():
            return  # it was cancelled, or waits no more
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.answer)


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


class WritingStore(ABC):
    """What stores have in common: who waits for the writer, and for how long."""

    def __init__(self, keeper: "Keeper", wait_seconds: float) -> None:
        self._keeper = keeper
        self._wait_seconds = wait_seconds
        self._closed = False
        self._deadlines: Deadlines | None = None

    @property
    @abstractmethod
    def where(self) -> str: ...

    @abstractmethod
    def _hand_over(self, job: Job) -> None:
        """To the writer, which is started when there is none."""

    async def write(self, write: Write) -> None:
        await self._do(write=write)
        if write.flaw is not None:
            raise write.flaw

    async def step(self, step: Callable[[Rows], Answer]) -> Answer:
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


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """In their order, those that share a transaction."""
    if len(jobs) == 1:
        return [list(jobs)]
    found: list[list[Job]] = []
    size_bytes = 0
    for job in jobs:
        joins = bool(found) and job.write is not None and found[-1][-1].write is not None
        if joins and len(found[-1]) < MAX_GROUP and size_bytes < MAX_GROUP_BYTES:
            found[-1].append(job)
        else:
            found.append([job])
            size_bytes = 0
        size_bytes += 0 if job.write is None else job.write.size_bytes
    return found


def settle_from_thread(jobs: Iterable[Job]) -> None:
    """Each in the loop it was made in, which may be gone."""
    mine: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        mine.setdefault(job.future.get_loop(), []).append(job)
    for loop, some in mine.items():
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, some)


def _settle(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.settle()


class Keeper:
    """What a transaction of the writer does: its group's work, and now and then signatures and the host's own lease.

    That lease is for `host_ttl_seconds`, and renewed three times as often.
    """

    def __init__(self, recorder: Recorder, host_ttl_seconds: float) -> None:
        self._recorder = recorder
        self._host_ttl_seconds = host_ttl_seconds
        self._next_beat = 0.0

    def pause_seconds(self) -> float:
        """How long nothing needs to be done if nothing comes."""
        signer = self._recorder.signer
        beat = max(0.01, self._next_beat - time.monotonic())
        return beat if signer is None or not signer.has_unsigned else min(beat, signer.seconds)

    def perform(self, rows: Rows, group: Sequence[Job]) -> None:
        for job in group:
            if job.step is not None:
                job.answer = job.step(rows)
        if writes := [job.write for job in group if job.write is not None]:
            self._recorder.write(rows, writes)
        if self._recorder.signer is not None:
            self._recorder.signer.sign(rows)
        if time.monotonic() >= self._next_beat:
            leasing.beat(rows, self._recorder.owner, self._host_ttl_seconds)

    def farewell(self, rows: Rows) -> None:
        """Sign what is not signed yet, and say goodbye."""
        leasing.leave(rows, self._recorder.owner)
        if self._recorder.signer is not None:
            self._recorder.signer.sign(rows, all_of_them=True)

    def begin(self) -> None:
        if self._recorder.signer is not None:
            self._recorder.signer.begin()

    def committed(self) -> None:
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + self._host_ttl_seconds / 3

    def undo(self) -> None:
        if self._recorder.signer is not None:
            self._recorder.signer.undo()
