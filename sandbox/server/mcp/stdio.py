"""Standard input and output as a client's two pipes: bounded, and given up when we are told to stop.

The SDK's own files are read in threads, which nothing can end while a client says nothing.
"""

import fcntl
import logging
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio

from gateway.operations import MAX_OPERATION_BYTES

MAX_LINE_BYTES = MAX_OPERATION_BYTES + (64 << 10)
"""Longest message; a longer one ends the connection."""

_log = logging.getLogger(__name__)

_READ_BYTES = 64 << 10
_WRITE_BYTES = 4096  # PIPE_BUF: so much can be written to a pipe that is ready, without waiting


class Lines:
    """What the SDK's `stdio_server` needs of a file: lines of UTF-8 to read, and text to write."""

    def __init__(self, number: int) -> None:
        self._number = number
        # Files are always ready, and epoll does not take them.
        self._waits = not stat.S_ISREG(os.fstat(number).st_mode)

    async def __aiter__(self) -> AsyncIterator[str]:
        rest = b""
        while len(rest) <= MAX_LINE_BYTES and (read := await self._read()):
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
        if len(rest) > MAX_LINE_BYTES:
            _log.error("a message of over %d bytes: the connection ends", MAX_LINE_BYTES)

    async def write(self, text: str) -> None:
        """Raises ClosedResourceError when nobody reads any more."""
        left = memoryview(text.encode())
        while left:
            if self._waits:
                await anyio.wait_writable(self._number)
            try:
                left = left[os.write(self._number, left[:_WRITE_BYTES]) :]
            except BrokenPipeError as exc:
                raise anyio.ClosedResourceError from exc

    async def flush(self) -> None:
        """Everything is written when `write` returns."""

    async def _read(self) -> bytes:
        if self._waits:
            await anyio.wait_readable(self._number)
        return os.read(self._number, _READ_BYTES)


@contextmanager
def wires() -> Iterator[tuple[Lines, Lines]]:
    """Standard input and output for the client alone: what tools and children read is empty, what they print goes to
    standard error."""
    sys.stdout.flush()
    incoming, outgoing = _moved(0), _moved(1)
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        yield Lines(incoming), Lines(outgoing)
    finally:
        for number, moved in enumerate((incoming, outgoing)):
            os.dup2(moved, number)
            os.close(moved)


def _moved(number: int) -> int:
    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
