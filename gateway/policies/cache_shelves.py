"""Where cached results lie: in this process, the least used ones dropped, or in the store that processes share."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import NamedTuple, Protocol

from cachetools import Cache, TTLCache

from gateway.errors import ToolUnavailable
from gateway.payload import NotJsonError, decode
from gateway.policies.store import Store

MAX_SIMILAR_CHARS = 200
"""Longer texts are only found as they are: comparing takes the square of their length."""

MAX_CANDIDATES = 100
"""Most texts that one is compared with, newest first."""

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a call's result belongs. `group` is the same for arguments that differ in the similar field alone."""

    key: str
    group: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class CachedResult:
    """A result in the cache. `key` is a digest of scope and arguments."""

    tool_id: str
    key: str
    accesses: int
    last_accessed_seconds: float
    """How long ago it was used; it was stored `age_seconds` ago."""
    age_seconds: float


class Shelf(Protocol):
    async def get(self, place: Place) -> bytes | None: ...

    async def put(self, place: Place, data: bytes) -> None: ...

    async def clear(self) -> int: ...


class _Entry:
    __slots__ = ("accesses", "data", "last_accessed", "stored")

    def __init__(self, data: bytes, now: float) -> None:
        self.data = data
        self.accesses = 0
        self.last_accessed = self.stored = now


class _Entries(TTLCache[str, _Entry]):
    """Counts what had to make room, and can be looked at without a use."""

    evictions = 0

    def look(self) -> list[tuple[str, _Entry]]:
        return [(key, Cache.__getitem__(self, key)) for key in self]

    def popitem(self) -> tuple[str, _Entry]:
        self.evictions += 1
        return super().popitem()


class LocalShelf:
    """Results of one tool in this process; with `similarity`, also found by a text that is nearly the same."""

    def __init__(
        self,
        max_entries: int,
        ttl_seconds: float,
        clock: Callable[[], float],
        similarity: float | None,
        *,
        by_age: bool = False,
        tracking: bool = True,
    ) -> None:
        self._max_entries = max_entries
        self._clock = clock
        self._similarity = similarity
        self._by_age = by_age
        self._tracking = tracking
        self._entries = _Entries(max_entries, ttl_seconds, timer=clock)
        self._groups: dict[str, dict[str, str]] = {}

    @property
    def evictions(self) -> int:
        return self._entries.evictions

    @property
    def size(self) -> int:
        self._entries.expire()
        return len(self._entries)

    async def get(self, place: Place) -> bytes | None:
        entry = self._found(place.key)
        if entry is None and place.group and (nearest := self._nearest(place)) is not None:
            entry = self._found(nearest)
        if entry is None:
            return None
        if self._tracking:
            entry.accesses += 1
            entry.last_accessed = self._clock()
        return entry.data

    async def put(self, place: Place, data: bytes) -> None:
        self._entries[place.key] = _Entry(data, self._clock())
        if place.group:
            self._groups.setdefault(place.group, {})[place.text] = place.key
            if sum(map(len, self._groups.values())) > 2 * self._max_entries:
                self._groups = {group: kept for group in self._groups if (kept := self._kept(group))}

    async def clear(self) -> int:
        count = self.size
        self._entries.clear()
        self._entries.evictions = 0
        self._groups.clear()
        return count

    def results(self, tool_id: str) -> Iterator[CachedResult]:
        """What is there and how often it was used; nothing where that is not counted."""
        now = self._clock()
        if not self._tracking:
            return
        for key, entry in self._entries.look():
            yield CachedResult(tool_id, key, entry.accesses, now - entry.last_accessed, now - entry.stored)

    def _found(self, key: str) -> _Entry | None:
        """A use keeps a result from making room, unless its age decides."""
        if not self._by_age:
            return self._entries.get(key)
        return Cache.__getitem__(self._entries, key) if key in self._entries else None

    def _nearest(self, place: Place) -> str | None:
        """The key of the most similar text of the group, if it is similar enough."""
        matcher: SequenceMatcher[str] = SequenceMatcher()
        matcher.set_seq2(place.text)
        best, found = self._similarity or math.inf, None
        for text, key in islice(reversed(self._groups.get(place.group, {}).items()), MAX_CANDIDATES):
            if key not in self._entries:
                continue
            matcher.set_seq1(text)
            if matcher.real_quick_ratio() >= best and matcher.quick_ratio() >= best and matcher.ratio() >= best:
                best, found = matcher.ratio(), key
        return found

    def _kept(self, group: str) -> dict[str, str]:
        return {text: key for text, key in self._groups[group].items() if key in self._entries}


class SharedShelf:
    """Results of one tool in a store. One that does not answer has nothing: the tool is called, which only reads."""

    def __init__(self, prefix: str, ttl_seconds: float, store: Store) -> None:
        self._prefix = prefix
        self._ttl_seconds = ttl_seconds
        self._store = store

    async def get(self, place: Place) -> bytes | None:
        try:
            found = await self._store.get(self._prefix + place.key)
            if found is not None:
                decode(found)
        except (ToolUnavailable, NotJsonError) as error:
            _log.warning("a cached result could not be read: %s", error)
            return None
        return found

    async def put(self, place: Place, data: bytes) -> None:
        try:
            await self._store.set(self._prefix + place.key, data, self._ttl_seconds)
        except ToolUnavailable as error:
            _log.warning("a result could not be cached: %s", error)

    async def clear(self) -> int:
        return await self._store.clear(self._prefix)
