"""Where in its snippet a guest says that it makes a call, and what it was told before: kept to replay it by.

Site and tape are a guest's own words, and bounded. They find its own execution's records again, and nothing else.
"""

import re
from contextvars import ContextVar

from gateway.base import JsonValue
from gateway.errors import ProtocolError
from gateway.payload import NotJsonError, encode

MAX_SITE = 160
"""Characters of a site."""

MAX_TAPE_BYTES = 512 << 10
"""Of one execution. Our own guests stop at half of that."""

MAX_READS_BYTES = 1 << 20
"""What is kept of the reads of one execution, as JSON: about 150,000 of them, more than a tape has room for."""

_SITE = re.compile(r"[a-z0-9.#~/]*")

current: ContextVar[str] = ContextVar("site", default="")
"""Of the operation that is being performed."""

frame: ContextVar[int] = ContextVar("frame", default=0)
"""The id of the frame that asked for it; 0 where none did."""


def checked_site(text: str) -> str:
    """Raises ProtocolError for what no guest of ours says."""
    if len(text) > MAX_SITE or not _SITE.fullmatch(text):
        raise ProtocolError("a tool call whose site is too long or no site")
    return text


class TapeLog:
    """What the guest of one execution was told: of time, as it says itself, and by its reads of streams. On its way
    into records, up to the first read that cannot be kept: a tape that went further would wait for that one's answer.
    """

    def __init__(self) -> None:
        self._new = bytearray()
        self._size = 0
        self._reads: list[JsonValue] = []
        self._reads_size = 0

    def add(self, data: bytes) -> None:
        """Raises ProtocolError when it is too long."""
        self._size += len(data)
        if self._size > MAX_TAPE_BYTES:
            raise ProtocolError(f"a tape of more than {MAX_TAPE_BYTES} bytes")
        if self._reads_size <= MAX_READS_BYTES:
            self._new += data

    def add_read(self, index: int, told: list[JsonValue]) -> None:
        """A read of the call with this index, as `reads.told_by` has it."""
        try:
            self._reads_size += len(encode(told)) + len(f"[{index},]")
        except NotJsonError:
            self._reads_size = MAX_READS_BYTES + 1
        if self._reads_size <= MAX_READS_BYTES:
            self._reads.append([index, *told])

    @property
    def goes_on(self) -> bool:
        """Whether there is something of time that was not taken."""
        return bool(self._new)

    def take(self) -> bytes:
        """What came since the last time."""
        taken = bytes(self._new)
        self._new.clear()
        return taken

    def take_reads(self) -> tuple[JsonValue, ...]:
        """The same of reads."""
        if not self._reads:
            return ()
        taken = tuple(self._reads)
        self._reads.clear()
        return taken
