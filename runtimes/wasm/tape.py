"""What a guest is told of time, kept so that the same guest can be told the same again.

A tape is a list of entries in the order in which the guest asked: readings of its clock, and how its waits ended. Both
the seed and the tape of an execution make its next run the same to the last byte. An entry is one number in LEB128; its
lowest two bits are the kind.
"""

import time
from collections.abc import Iterator
from enum import IntEnum

MAX_TAPE_BYTES = 256 << 10
"""Longer ones are cut: about 250,000 readings."""

_KIND_BITS = 2


class Kind(IntEnum):
    """What an entry's number means."""

    READING = 0
    """Microseconds since the last reading."""
    WAIT = 1
    """The handle of the operation that ended a wait; 0 when its time was up."""
    PAUSE = 2
    """Microseconds for which nothing ran: the calendar goes on, and the monotonic clock does not."""
    CUT = 3
    """The guest asked for more than a tape holds."""


class Tape:
    """Plays what it is given, and records what comes after."""

    def __init__(self, given: bytes, unix_micros: int) -> None:
        """`unix_micros` is when the execution began. Raises ValueError for a tape that nobody recorded."""
        self._entries = _decoded(given)
        self._next: tuple[Kind, int] | None = None
        self._began = unix_micros
        self._elapsed = 0
        self._paused = 0
        self._recorded = bytearray()
        self._room = MAX_TAPE_BYTES - len(given)
        self._live_since: int | None = None
        self.departed = False
        self._next = next(self._entries, None)

    @property
    def playing(self) -> bool:
        """Whether the guest is still told what was recorded."""
        return self._next is not None

    def monotonic(self) -> int:
        """Microseconds since the execution began, without pauses; never less than before."""
        told = self._play(Kind.READING)
        if told is None:
            told = self._live() - self._elapsed
            self._record(Kind.READING, told)
        self._elapsed += told
        return self._elapsed

    def wall(self) -> int:
        """Microseconds since 1970."""
        return self._began + self.monotonic() + self._paused

    def wait(self) -> int | None:
        """How the next wait ended, None when it is yet to be waited for."""
        return self._play(Kind.WAIT)

    def waited(self, handle: int) -> None:
        """Record how a wait ended."""
        self._live()
        self._record(Kind.WAIT, handle)

    def depart(self) -> None:
        """The guest does something else than what was recorded: tell it the time as it is."""
        self.departed = True
        self._next = None

    def take(self) -> bytes:
        """What was recorded since the last time."""
        taken = bytes(self._recorded)
        self._recorded.clear()
        return taken

    def _play(self, kind: Kind) -> int | None:
        self._pass_pauses()
        if self._next is None:
            return None
        found, number = self._next
        if found is not kind:
            self.depart()
            return None
        self._next = next(self._entries, None)
        return number

    def _pass_pauses(self) -> None:
        """Not before something is asked for after them: the calendar of what was told before has no pause in it."""
        while self._next is not None and self._next[0] is Kind.PAUSE:
            self._paused += self._next[1]
            self._next = next(self._entries, None)
        if self._next is not None and self._next[0] is Kind.CUT:
            self._next, self._room = None, 0

    def _live(self) -> int:
        """Microseconds since the execution began, as they are."""
        now = time.perf_counter_ns() // 1000
        if self._live_since is None:
            self._live_since = now - self._elapsed
            gone = time.time_ns() // 1000 - (self._began + self._elapsed + self._paused)
            if gone > 0:
                self._record(Kind.PAUSE, gone)
                self._paused += gone
        return max(now - self._live_since, self._elapsed)

    def _record(self, kind: Kind, number: int) -> None:
        entry = _encoded(number << _KIND_BITS | kind)
        if len(entry) < self._room:
            self._room -= len(entry)
            self._recorded += entry
        elif self._room > 0:
            self._room = 0
            self._recorded += _encoded(Kind.CUT)


def _encoded(number: int) -> bytes:
    if number < 128:
        return number.to_bytes(1, "little")
    data = bytearray()
    while number >= 128:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)
    return bytes(data)


def _decoded(data: bytes) -> Iterator[tuple[Kind, int]]:
    number = shift = 0
    for byte in data:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield Kind(number & 3), number >> _KIND_BITS
            number = shift = 0
        elif shift > 63:
            raise ValueError("a tape with a number of more than 64 bits")
