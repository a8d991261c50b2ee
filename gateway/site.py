"""Where in its snippet a guest says that it makes a call, and what its clock was told before: kept to replay it by.

Both are a guest's own words, and bounded. They find its own execution's records again, and nothing else.
"""

import re
from contextvars import ContextVar

from gateway.errors import ProtocolError

MAX_SITE = 160
"""Characters of a site."""

MAX_TAPE_BYTES = 512 << 10
"""Of one execution. Our own guests stop at half of that."""

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
    """The tape of one execution, on its way from the guest into records."""

    def __init__(self) -> None:
        self._new = bytearray()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Raises ProtocolError when it is too long."""
        self._size += len(data)
        if self._size > MAX_TAPE_BYTES:
            raise ProtocolError(f"a tape of more than {MAX_TAPE_BYTES} bytes")
        self._new += data

    def take(self) -> bytes:
        """What came since the last time."""
        taken = bytes(self._new)
        self._new.clear()
        return taken
