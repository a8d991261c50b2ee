"""How often a tool may be called: a token bucket for the tool, or for each tenant or user of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

from gateway.canonical import digest
from gateway.context import Caller
from gateway.errors import InvalidRequest, RateLimited
from gateway.payload import Encoded
from gateway.policies.base import Call, Policy, Proceed, Services
from gateway.policies.store import Store, Taken

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool

Scope: TypeAlias = Literal["tool", "tenant", "user"]

_SCOPES = ("tool", "tenant", "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBucket:
    """At most `calls` in `per_seconds`, refilled evenly; `burst` (default `calls`) at once after a pause.

    | option | meaning | default |
    | --- | --- | --- |
    | `scope` | whose bucket: one for the `tool`, for each `tenant`, for each `user` of a tenant | tool |
    | `cost` | tokens that one call takes | 1 |
    | `tenants` | other rates for some tenants, by id: `{"calls": …, "per_seconds": …, "burst": …}` | none |

    A bucket begins full. Calls that are refused, or answered from a cache, take nothing. Buckets are in the Exec's
    store; one that does not answer refuses the call. Raises InvalidRequest.
    """

    kind: ClassVar[str] = "token_bucket"

    calls: float
    per_seconds: float
    burst: float | None = None
    scope: Scope = "tool"
    cost: float = 1.0
    tenants: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scope not in _SCOPES:
            raise InvalidRequest(f"unknown scope {self.scope!r}; there are {', '.join(_SCOPES)}")
        _above_zero("cost", self.cost)
        _rate(self.calls, self.per_seconds, self.burst, self.cost)
        if self.tenants and self.scope == "tool":
            raise InvalidRequest("rates of tenants need a bucket for each; add scope='tenant'")
        self.rates()

    def rates(self) -> dict[str, "Rate"]:
        """By tenant, where it is another than that of all."""
        found = {}
        for tenant, given in self.tenants.items():
            if unknown := set(given) - {"calls", "per_seconds", "burst"}:
                raise InvalidRequest(f"the rate of tenant {tenant!r} has an unknown {', '.join(sorted(unknown))}")
            calls, seconds = given.get("calls", self.calls), given.get("per_seconds", self.per_seconds)
            found[tenant] = _rate(calls, seconds, given.get("burst"), self.cost)
        return found

    def build(self, tool: "RegisteredTool", services: Services) -> "RateLimiter":
        return RateLimiter(self, tool.id, services.store)


class Rate(NamedTuple):
    capacity: float
    refill_per_second: float


@dataclass(frozen=True, slots=True)
class RateLimitStatus:
    """One bucket: what is in it, how much fits, how fast it fills, and how much of it is used, 0 to 100."""

    available: float
    capacity: float
    refill_per_second: float
    utilization_percent: float


class RateLimiter:
    """The buckets of one tool."""

    def __init__(self, config: TokenBucket, tool_id: str, store: Store) -> None:
        self._by_tenant = config.scope != "tool"
        self._by_user = config.scope == "user"
        self._prefix = f"rate/{tool_id}/"
        self._cost = config.cost
        self._rate = _rate(config.calls, config.per_seconds, config.burst, config.cost)
        self._rates = config.rates()
        self._store = store

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        taken, _ = await self._take(call.context.caller, self._cost)
        if taken.retry_after_seconds > 0:
            call.tell("rate_limited", retry_after_seconds=taken.retry_after_seconds)
            call.usage.decisions.append(f"refused by the rate limit for {taken.retry_after_seconds:.3g} s")
            raise RateLimited(call.tool.id, taken.retry_after_seconds)
        return await proceed(call)

    async def status(self, caller: Caller) -> RateLimitStatus:
        """The bucket that a call of this caller would take from."""
        taken, rate = await self._take(caller, 0)
        used = 100 * (1 - taken.available / rate.capacity)
        return RateLimitStatus(taken.available, rate.capacity, rate.refill_per_second, used)

    async def reset(self) -> None:
        """Fill every bucket of this tool."""
        await self._store.clear(self._prefix)

    async def _take(self, caller: Caller, tokens: float) -> tuple[Taken, Rate]:
        if not self._by_tenant:
            key, rate = self._prefix, self._rate
        else:
            key = self._prefix + digest(caller.tenant_id, caller.user_id if self._by_user else None)
            rate = self._rates.get(caller.tenant_id, self._rate)
        return await self._store.take(key, tokens, rate.capacity, rate.refill_per_second), rate


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
