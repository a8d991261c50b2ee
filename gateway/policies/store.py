"""What policies remember, and may share with other processes: records with an end, and token buckets.

Every step is atomic, and bounded in time. A store that cannot do one raises ToolUnavailable; policies then refuse the
call rather than make it unprotected.
"""

import heapq
import math
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from gateway.errors import InvalidRequest, ToolUnavailable

OPERATION_SECONDS = 5.0
"""How long a store may take for one step, with connecting."""

WHAT = "the shared store"
"""What errors call it: guests read them, and have no business with its address."""

TOLERANCE = 1e-9
"""Of a token. Whoever waits as long as it was told is not refused for the sake of a rounding."""


class Taken(NamedTuple):
    """What a bucket gave: 0 seconds to wait for yes, and how much is in it now."""

    retry_after_seconds: float
    available: float


@runtime_checkable
class Store(Protocol):
    """Keys are text; values are bytes that end by themselves after `ttl_seconds` (above 0, None for never)."""

    async def get(self, key: str) -> bytes | None:
        """The value, None for none."""
        ...

    async def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        """Put the value there, whatever was there before."""
        ...

    async def set_if_absent(self, key: str, value: bytes, ttl_seconds: float | None) -> bytes | None:
        """Put the value there and give None, unless there is one already: then give that one, and change nothing."""
        ...

    async def replace(self, key: str, expected: bytes, value: bytes, ttl_seconds: float | None) -> bool:
        """Put `value` there, with a new end, if `expected` still is; whether it was done."""
        ...

    async def delete(self, key: str, expected: bytes | None = None) -> bool:
        """Remove what is there, or only `expected`; whether something was removed."""
        ...

    async def clear(self, prefix: str) -> int:
        """Remove every value and bucket whose key begins so; how many. Not atomic, and slow where there are many."""
        ...

    async def take(self, key: str, tokens: float, capacity: float, refill_per_second: float) -> Taken:
        """Take `tokens` from the bucket of this key, all or none; a new bucket is full.

        0 is to look, and less to give back, of which no more is kept than fits.
        """
        ...

    async def aclose(self) -> None:
        """Release what is held. Idempotent; a later step connects again."""
        ...


def open_store(url: str) -> Store:
    """The store at `redis://…`, `rediss://…`, `postgresql://…` or `sqlite:///file`; `memory` is this process alone.

    Nothing is connected yet. Raises InvalidRequest, without showing the URL, and MissingExtra.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    if url == "memory":
        return MemoryStore()
    if scheme in ("redis", "rediss", "unix"):
        from gateway.policies.redis_store import RedisStore  # noqa: PLC0415 - an extra's

        return RedisStore(url)
    if scheme in ("postgresql", "postgres", "sqlite"):
        from gateway.policies.sql_store import SqlStore  # noqa: PLC0415 - an extra's

        return SqlStore(url)
    raise InvalidRequest("a store is `memory`, or at redis://, rediss://, unix://, postgresql:// or sqlite:///file")


class _Entry:
    __slots__ = ("at", "expires", "queued", "tokens", "value")

    def __init__(self, value: bytes | None, tokens: float, now: float) -> None:
        self.value = value
        self.tokens = tokens
        self.at = now
        self.expires = math.inf
        self.queued = math.inf
        """When the queue looks at it next: at its end, or earlier."""


class MemoryStore:
    """A store of this process alone. What is over its bounds is refused and nothing is dropped to make room: a record
    that is gone would let a call be made twice.
    """

    def __init__(
        self,
        *,
        max_entries: int = 100_000,
        max_bytes: int = 256 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, bound in (("max_entries", max_entries), ("max_bytes", max_bytes)):
            if bound < 1:
                raise InvalidRequest(f"{name} must be at least 1, not {bound}")
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._queue: list[tuple[float, str]] = []
        self._bytes = 0

    @property
    def size(self) -> int:
        """How many values and buckets there are."""
        self._drop_ended(self._clock())
        return len(self._entries)

    async def get(self, key: str) -> bytes | None:
        return self._value(key, self._clock())

    async def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        self._put(key, value, ttl_seconds, self._clock())

    async def set_if_absent(self, key: str, value: bytes, ttl_seconds: float | None) -> bytes | None:
        now = self._clock()
        found = self._value(key, now)
        if found is None:
            self._put(key, value, ttl_seconds, now)
        return found

    async def replace(self, key: str, expected: bytes, value: bytes, ttl_seconds: float | None) -> bool:
        now = self._clock()
        if self._value(key, now) != expected:
            return False
        self._put(key, value, ttl_seconds, now)
        return True

    async def delete(self, key: str, expected: bytes | None = None) -> bool:
        found = self._value(key, self._clock())
        if found is None or expected not in (None, found):
            return False
        self._remove(key)
        return True

    async def clear(self, prefix: str) -> int:
        self._drop_ended(self._clock())
        gone = [key for key in self._entries if key.startswith(prefix)]
        for key in gone:
            self._remove(key)
        return len(gone)

    async def take(self, key: str, tokens: float, capacity: float, refill_per_second: float) -> Taken:
        now = self._clock()
        entry = self._entries.get(key)
        if entry is None:
            if tokens <= 0:
                return Taken(0.0, capacity)
            self._drop_ended(now)
            self._check_room(entries=1)
            entry = self._entries[key] = _Entry(None, capacity, now)
        available = min(capacity, entry.tokens + max(0.0, now - entry.at) * refill_per_second)
        missing = tokens - available
        if missing > TOLERANCE:
            return Taken(missing / refill_per_second, available)
        left = min(capacity, max(0.0, -missing))
        if tokens:
            entry.tokens, entry.at = left, now
            # A bucket that is full again is as good as a new one.
            self._end_at(key, entry, now + (capacity - entry.tokens) / refill_per_second)
        return Taken(0.0, left)

    async def aclose(self) -> None:
        self._entries.clear()
        self._queue.clear()
        self._bytes = 0

    def _value(self, key: str, now: float) -> bytes | None:
        entry = self._entries.get(key)
        return None if entry is None or entry.expires <= now else entry.value

    def _put(self, key: str, value: bytes, ttl_seconds: float | None, now: float) -> None:
        self._drop_ended(now)
        entry = self._entries.get(key)
        size = len(value) - (0 if entry is None or entry.value is None else len(entry.value))
        self._check_room(entries=int(entry is None), size_bytes=size)
        if entry is None:
            entry = self._entries[key] = _Entry(value, 0.0, now)
        entry.value = value
        self._bytes += size
        self._end_at(key, entry, math.inf if ttl_seconds is None else now + ttl_seconds)

    def _check_room(self, *, entries: int, size_bytes: int = 0) -> None:
        if len(self._entries) + entries > self._max_entries:
            raise ToolUnavailable(WHAT, f"it is full, with max_entries={self._max_entries}")
        if size_bytes > 0 and self._bytes + size_bytes > self._max_bytes:
            raise ToolUnavailable(WHAT, f"it is full, with max_bytes={self._max_bytes}")

    def _end_at(self, key: str, entry: _Entry, expires: float) -> None:
        entry.expires = expires
        if expires < entry.queued:
            entry.queued = expires
            heapq.heappush(self._queue, (expires, key))
            if len(self._queue) > 2 * len(self._entries) + 100:  # what is left of entries that were removed early
                self._queue = [(entry.queued, key) for key, entry in self._entries.items() if entry.queued < math.inf]
                heapq.heapify(self._queue)

    def _drop_ended(self, now: float) -> None:
        while self._queue and self._queue[0][0] <= now:
            at, key = heapq.heappop(self._queue)
            entry = self._entries.get(key)
            if entry is None or entry.queued != at:
                continue
            entry.queued = math.inf
            if entry.expires <= now:
                self._remove(key)
            else:
                self._end_at(key, entry, entry.expires)

    def _remove(self, key: str) -> None:
        value = self._entries.pop(key).value
        self._bytes -= 0 if value is None else len(value)
