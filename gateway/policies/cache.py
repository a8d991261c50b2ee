"""Results of tools that only read, kept for a while: the same question is answered without a call."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import anyio

from gateway.base import JsonValue
from gateway.canonical import digest
from gateway.context import Caller
from gateway.errors import InvalidRequest, ToolTimeout
from gateway.payload import Encoded, copied
from gateway.policies.base import Call, Policy, Proceed, Services
from gateway.policies.cache_shelves import MAX_SIMILAR_CHARS, CachedResult, LocalShelf, Place, SharedShelf, Shelf

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool

CacheScope: TypeAlias = Literal["tenant", "user", "role", "shared"]

_SCOPES = ("tenant", "user", "role", "shared")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultCache:
    """Answers a call with the result of an earlier one that had the same arguments.

    | option | meaning | default |
    | --- | --- | --- |
    | `ttl_seconds` | how long a result is kept | 3,600 |
    | `max_entries` | results of one tool | 100 |
    | `evict` | what makes room: what was `unused` for longest, or what is the `oldest` | unused |
    | `tracking` | whether it is counted how often each result was used | yes |
    | `max_entry_bytes` | larger results are not kept | 256 KiB |
    | `scope` | who is given it: callers of one `tenant`, one `user` or `role` of it, or all: `shared` | tenant |
    | `similar` | an argument, a text, that may differ a little | none |
    | `similarity` | how much of it must agree, by difflib's ratio | 0.86 |
    | `shared` | results lie in the Exec's store, for all processes; `max_entries` is then not held | no |

    Equal calls at once are made once. Failures are not kept, streams pass by. A tool whose answer depends on who asks
    needs the scope that says so. Only for tools that are `read_only`, and have the argument `similar`: chosen for
    another it is InvalidRequest, and as the default of an Exec it leaves others alone. Raises InvalidRequest.
    """

    kind: ClassVar[str] = "lru"

    ttl_seconds: float = 3600.0
    max_entries: int = 100
    max_entry_bytes: int = 256 << 10
    scope: CacheScope = "tenant"
    similar: str = ""
    similarity: float = 0.86
    evict: Literal["unused", "oldest"] = "unused"
    tracking: bool = True
    shared: bool = False

    def __post_init__(self) -> None:
        if not (self.ttl_seconds > 0 and math.isfinite(self.ttl_seconds)):
            raise InvalidRequest(f"ttl_seconds must be above 0 and finite, not {self.ttl_seconds}")
        for name in ("max_entries", "max_entry_bytes"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.scope not in _SCOPES:
            raise InvalidRequest(f"unknown scope {self.scope!r}; there are {', '.join(_SCOPES)}")
        if self.evict not in ("unused", "oldest"):
            raise InvalidRequest(f"evict must be unused or oldest, not {self.evict!r}")
        if not 0 < self.similarity <= 1:
            raise InvalidRequest(f"similarity must be above 0 and at most 1, not {self.similarity}")
        if self.similar and self.shared:
            raise InvalidRequest("a shared cache finds only what is the same; leave out similar or shared")

    def build(self, tool: "RegisteredTool", services: Services) -> "Cache | None":
        if tool.tool.read_only is not True:
            if tool.tool.policies.cache is self:
                raise InvalidRequest(f"{tool.id} cannot have a cache: it does not say read_only=True")
            return None
        if self.similar and self.similar not in tool.tool.input_schema.get("properties", {}):
            if tool.tool.policies.cache is not self:
                return None
            raise InvalidRequest(f"{tool.id} has no argument {self.similar!r} that could be similar")
        return Cache(self, tool.id, services)


@dataclass(frozen=True, slots=True)
class ToolCacheStatistics:
    """Of one tool. `size` counts results in this process, so none of a shared cache."""

    hits: int
    misses: int
    hit_rate: float
    evictions: int
    size: int


@dataclass(frozen=True, slots=True)
class CacheStatistics(ToolCacheStatistics):
    """Of all tools, of each, and the results that were used most."""

    by_tool: Mapping[str, ToolCacheStatistics]
    top: tuple[CachedResult, ...]


class _Flight:
    """A call under way, and who waits for it."""

    __slots__ = ("data", "ended")

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.data: bytes | None = None


class Cache:
    """The cached results of one tool."""

    def __init__(self, config: ResultCache, tool_id: str, services: Services) -> None:
        self.hits = self.misses = 0
        self._config = config
        self._local: LocalShelf | None = None
        self._shelf: Shelf
        if config.shared:
            self._shelf = SharedShelf(f"cache/{tool_id}/", config.ttl_seconds, services.store)
        else:
            similarity = config.similarity if config.similar else None
            self._local = LocalShelf(
                config.max_entries,
                config.ttl_seconds,
                services.clock,
                similarity,
                by_age=config.evict == "oldest",
                tracking=config.tracking,
            )
            self._shelf = self._local
        self._flights: dict[str, _Flight] = {}
        self._clearings = 0

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        if call.emit is not None:
            return await proceed(call)
        place = self._place(call)
        while True:
            if (data := await self._shelf.get(place)) is not None:
                return self._hit(call, data)
            flight = self._flights.get(place.key)
            if flight is None:
                return await self._lead(call, proceed, place)
            await _ended(flight, call)
            if flight.data is not None:
                return self._hit(call, flight.data)

    def statistics(self) -> ToolCacheStatistics:
        local = self._local
        evictions, size = (0, 0) if local is None else (local.evictions, local.size)
        return ToolCacheStatistics(self.hits, self.misses, _rate(self.hits, self.misses), evictions, size)

    def results(self, tool_id: str) -> tuple[CachedResult, ...]:
        return () if self._local is None else tuple(self._local.results(tool_id))

    async def clear(self) -> int:
        """Drop all results, and keep none of the calls under way; how many were dropped."""
        self._clearings += 1
        return await self._shelf.clear()

    def forget(self) -> None:
        """Count from nothing."""
        self.hits = self.misses = 0

    async def _lead(self, call: Call, proceed: Proceed, place: Place) -> Encoded:
        """Make the call for everybody who asks meanwhile. If it fails or is cancelled, the next of them makes it."""
        flight = self._flights[place.key] = _Flight()
        clearings = self._clearings
        self.misses += 1
        try:
            result = await proceed(call)
            flight.data = result.data
            if len(result.data) <= self._config.max_entry_bytes and clearings == self._clearings:
                await self._shelf.put(place, result.data)
            return result
        finally:
            del self._flights[place.key]
            flight.ended.set()

    def _hit(self, call: Call, data: bytes) -> Encoded:
        self.hits += 1
        call.usage.cached_hit = True
        call.usage.decisions.append("answered from the cache")
        call.tell("cache_hit")
        return copied(data)

    def _place(self, call: Call) -> Place:
        scope = _scope(self._config.scope, call.context.caller)
        key = digest(*scope, call.arguments)
        text = call.arguments.get(self._config.similar) if self._config.similar else None
        if not isinstance(text, str) or len(text) > MAX_SIMILAR_CHARS:
            return Place(key)
        others = {name: value for name, value in call.arguments.items() if name != self._config.similar}
        return Place(key, digest(*scope, others), text)


async def _ended(flight: _Flight, call: Call) -> None:
    """Raises ToolTimeout when the one that is waited for takes longer than this call may."""
    left = call.remaining_seconds()
    seconds = call.tool.tool.timeout_seconds if left is None else left
    with anyio.move_on_after(seconds):
        await flight.ended.wait()
        return
    raise ToolTimeout(call.tool.id, seconds)


def cache_statistics(policies: Mapping[str, Policy], top: int) -> CacheStatistics:
    """Of the caches among these policies, by tool id; caches of your own are left out."""
    caches = {tool_id: policy for tool_id, policy in policies.items() if isinstance(policy, Cache)}
    by_tool = {tool_id: cache.statistics() for tool_id, cache in caches.items()}
    hits, misses, evictions, size = (
        sum(getattr(one, name) for one in by_tool.values()) for name in ("hits", "misses", "evictions", "size")
    )
    results = [result for tool_id, cache in caches.items() for result in cache.results(tool_id)]
    results.sort(key=lambda result: (-result.accesses, result.last_accessed_seconds))
    return CacheStatistics(hits, misses, _rate(hits, misses), evictions, size, by_tool, tuple(results[:top]))


async def clear_cache(policies: Mapping[str, Policy]) -> int:
    return sum([await policy.clear() for policy in policies.values() if isinstance(policy, Cache)])


def forget_cache_statistics(policies: Mapping[str, Policy]) -> None:
    for policy in policies.values():
        if isinstance(policy, Cache):
            policy.forget()


def _scope(scope: CacheScope, caller: Caller) -> tuple[JsonValue, ...]:
    match scope:
        case "shared":
            return (scope,)
        case "tenant":
            return scope, caller.tenant_id
        case "user":
            return scope, caller.tenant_id, caller.user_id
    return scope, caller.tenant_id, caller.role.lower()


def _rate(hits: int, misses: int) -> float:
    return hits / (hits + misses) if hits + misses else 0.0
