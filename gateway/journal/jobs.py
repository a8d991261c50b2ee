"""What waits to be written, in which transactions, and what each of them does."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gateway.journal import leasing
from gateway.journal.rows import Rows
from gateway.journal.writing import Recorder, Write

MAX_GROUP = 500
MAX_GROUP_BYTES = 16 << 20
"""Most that one transaction takes."""


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
            self.future.set_exception(_own(self.error))
        else:
            self.future.set_result(self.answer)


def _own(error: BaseException) -> BaseException:
    """The same for one of many who wait for it: whoever raises an exception writes into it."""
    found = type(error).__new__(type(error), *error.args)
    found.__dict__.update(error.__dict__)
    found.__cause__ = error
    return found


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
