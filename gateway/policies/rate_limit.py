"""How often a tool may be called: token buckets for the tool, for each tenant, or for each user of it."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

import anyio

from gateway.canonical import digest
from gateway.context import Caller
from gateway.errors import InvalidRequest, RateLimited, ToolUnavailable
from gateway.payload import Encoded
from gateway.policies.base import Call, Policy, Proceed, Services
from gateway.policies.store import TOLERANCE, Store

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool

Scope: TypeAlias = Literal["tool", "tenant", "user"]

_SCOPES: tuple[Scope, ...] = ("tool", "tenant", "user")
_NARROWEST_FIRST = _SCOPES[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBucket:
    """At most `calls` in `per_seconds`, refilled evenly; `burst` (default `calls`) at once after a pause.

    | option | meaning | default |
    | --- | --- | --- |
    | `scope` | whose bucket: one for the `tool`, for each `tenant`, for each `user` of a tenant; or several | tool |
    | `cost` | tokens that one call takes | 1 |
    | `scopes` | other rates for some of the scopes: `{"tool": {"calls": …, "per_seconds": …, "burst": …}}` | none |
    | `tenants` | other rates for some tenants, by id, in the same way | none |

    Of several scopes each has its bucket, and a call takes from all of them or from none. A tenant's rate is that of
    the tenant's bucket, and of the buckets of its users where tenants have none.

    A bucket begins full. Calls that are refused, or answered from a cache, take nothing. Buckets are in the Exec's
    store; one that does not answer refuses the call. Raises InvalidRequest.
    """

    kind: ClassVar[str] = "token_bucket"

    calls: float
    per_seconds: float
    burst: float | None = None
    scope: Scope | tuple[Scope, ...] = "tool"
    cost: float = 1.0
    scopes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tenants: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = (self.scope,) if isinstance(self.scope, str) else self.scope
        if unknown := set(named) - set(_SCOPES):
            raise InvalidRequest(
                f"unknown scope {', '.join(sorted(map(str, unknown)))}; there are {', '.join(_SCOPES)}"
            )
        if not named:
            raise InvalidRequest(f"scope must name one or several of {', '.join(_SCOPES)}")
        _above_zero("cost", self.cost)
        _rate(self.calls, self.per_seconds, self.burst, self.cost)
        if unused := set(self.scopes) - set(named):
            raise InvalidRequest(f"a rate for {', '.join(sorted(unused))} needs a bucket for it; name it in scope")
        if self.tenants and not {"tenant", "user"} & set(named):
            raise InvalidRequest("rates of tenants need a bucket for each; add scope='tenant'")
        self.rates()
        self.rates_of_tenants()

    def rates(self) -> dict[Scope, "Rate"]:
        """By scope, the narrowest first."""
        named = (self.scope,) if isinstance(self.scope, str) else self.scope
        of_all = _rate(self.calls, self.per_seconds, self.burst, self.cost)
        others = {scope: self._other_rate(f"scope {scope}", given) for scope, given in self.scopes.items()}
        return {scope: others.get(scope, of_all) for scope in _NARROWEST_FIRST if scope in named}

    def rates_of_tenants(self) -> dict[str, "Rate"]:
        """By tenant, where it is another than that of all."""
        return {tenant: self._other_rate(f"tenant {tenant!r}", given) for tenant, given in self.tenants.items()}

    def _other_rate(self, whose: str, given: Mapping[str, float]) -> "Rate":
        if unknown := set(given) - {"calls", "per_seconds", "burst"}:
            raise InvalidRequest(f"the rate of {whose} has an unknown {', '.join(sorted(unknown))}")
        calls, seconds = given.get("calls", self.calls), given.get("per_seconds", self.per_seconds)
        return _rate(calls, seconds, given.get("burst"), self.cost)

    def build(self, tool: "RegisteredTool", services: Services) -> "RateLimiter":
        return RateLimiter(self, tool.id, services.store)


class Rate(NamedTuple):
    capacity: float
    refill_per_second: float


@dataclass(frozen=True, slots=True)
class RateLimitStatus:
    """One bucket: what is in it, how much fits, how fast it fills, and how much of it is used, 0 to 100.

    Where a limit has buckets for several scopes, this is the one with the least in it, and `buckets` are all of them.
    """

    available: float
    capacity: float
    refill_per_second: float
    utilization_percent: float
    buckets: Mapping[Scope, "RateLimitStatus"] = field(default_factory=dict)


class _Bucket(NamedTuple):
    scope: Scope
    key: str
    rate: Rate


class RateLimiter:
    """The buckets of one tool."""

    def __init__(self, config: TokenBucket, tool_id: str, store: Store) -> None:
        self._prefix = f"rate/{tool_id}/"
        self._cost = config.cost
        self._rates = config.rates()
        self._tenants = config.rates_of_tenants()
        self._scope_of_tenants: Scope = "tenant" if "tenant" in self._rates else "user"
        self._store = store

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        wait = await self._take(self._buckets(call.context.caller))
        if wait > 0:
            call.tell("rate_limited", retry_after_seconds=wait)
            call.usage.decisions.append(f"refused by the rate limit for {wait:.3g} s")
            raise RateLimited(call.tool.id, wait)
        return await proceed(call)

    async def status(self, caller: Caller) -> RateLimitStatus:
        """The bucket that a call of this caller would take from; of several the one with the least in it."""
        found = {bucket.scope: await self._status(bucket) for bucket in self._buckets(caller)}
        least = min(found.values(), key=lambda status: status.available)
        return least if len(found) == 1 else replace(least, buckets=found)

    async def reset(self) -> None:
        """Fill every bucket of this tool."""
        await self._store.clear(self._prefix)

    def _buckets(self, caller: Caller) -> list[_Bucket]:
        """The narrowest first, so that who has used up his own takes nothing from those of others, not even briefly."""
        return [_Bucket(scope, self._key(scope, caller), self._rate(scope, caller)) for scope in self._rates]

    def _key(self, scope: Scope, caller: Caller) -> str:
        if scope == "tool":
            return self._prefix
        return self._prefix + digest(caller.tenant_id, caller.user_id if scope == "user" else None)

    def _rate(self, scope: Scope, caller: Caller) -> Rate:
        rate = self._rates[scope]
        return self._tenants.get(caller.tenant_id, rate) if scope == self._scope_of_tenants else rate

    async def _take(self, buckets: Sequence[_Bucket]) -> float:
        """Take from all or from none. 0 for yes, or how many seconds it is until all of them have enough."""
        taken = 0
        try:
            for bucket in buckets:
                answer = await self._store.take(bucket.key, self._cost, *bucket.rate)
                if answer.retry_after_seconds > 0:
                    others = [await self._wait(other) for other in buckets[taken + 1 :]]
                    return max(answer.retry_after_seconds, *others, 0.0)
                taken += 1
            return 0.0
        finally:
            if taken < len(buckets):
                await self._give_back(buckets[:taken])

    async def _give_back(self, buckets: Sequence[_Bucket]) -> None:
        """Also when cancelled. What cannot be given back comes back with time."""
        for bucket in buckets:
            with anyio.CancelScope(shield=True), contextlib.suppress(ToolUnavailable):
                await self._store.take(bucket.key, -self._cost, *bucket.rate)

    async def _wait(self, bucket: _Bucket) -> float:
        missing = self._cost - await self._available(bucket)
        return missing / bucket.rate.refill_per_second if missing > TOLERANCE else 0.0

    async def _status(self, bucket: _Bucket) -> RateLimitStatus:
        available, rate = await self._available(bucket), bucket.rate
        used = 100 * (1 - available / rate.capacity)
        return RateLimitStatus(available, rate.capacity, rate.refill_per_second, used)

    async def _available(self, bucket: _Bucket) -> float:
        return (await self._store.take(bucket.key, 0, *bucket.rate)).available


async def rate_limits(policies: Mapping[str, Policy], caller: Caller) -> dict[str, RateLimitStatus]:
    """By tool id, the buckets of this caller; limits of your own are left out."""
    limiters = {tool_id: policy for tool_id, policy in policies.items() if isinstance(policy, RateLimiter)}
    return {tool_id: await limiter.status(caller) for tool_id, limiter in limiters.items()}


async def reset_rate_limits(policies: Mapping[str, Policy]) -> None:
    for policy in policies.values():
        if isinstance(policy, RateLimiter):
            await policy.reset()


def _rate(calls: float, per_seconds: float, burst: float | None, cost: float) -> Rate:
    """Raises InvalidRequest."""
    capacity = calls if burst is None else burst
    for name, value in (("calls", calls), ("per_seconds", per_seconds), ("burst", capacity)):
        _above_zero(name, value)
    if cost > capacity:
        raise InvalidRequest(
            f"a call takes {cost:g} tokens and the bucket holds {capacity:g}, so none would ever pass; raise burst"
        )
    return Rate(capacity, calls / per_seconds)


def _above_zero(name: str, value: float) -> None:
    if isinstance(value, bool) or not (value > 0 and math.isfinite(value)):
        raise InvalidRequest(f"{name} must be above 0 and finite, not {value!r}")
