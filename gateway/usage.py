"""What one call cost, counted while it is made."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from operator import attrgetter
from typing import Any

from gateway.base import JsonValue


@dataclass(slots=True)
class CallUsage:
    """Counted by the policies that a call passes.

    `attempts` are those that reached the tool; `retries` the ones after the first. `cached_hit` and
    `idempotency_reused` say that the result is an earlier call's, `circuit_opened` that this call opened its tool's
    circuit. Tokens and `cost_usd` are None where nobody counts them. `decisions` is what policies decided, in words and
    in order, such as `retried after 0.2 s: unavailable`. `tool_seconds` is the time that attempts took together; it is
    for prices, and not among what is recorded.
    """

    input_bytes: int = 0
    output_bytes: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: Decimal | None = None
    attempts: int = 0
    retries: int = 0
    cached_hit: bool = False
    idempotency_reused: bool = False
    circuit_opened: bool = False
    decisions: list[str] = field(default_factory=list)
    tool_seconds: float = 0.0

    def to_json(self) -> dict[str, JsonValue]:
        """What is not at its default; money as text."""
        counted = zip(_NAMES, _values(self), _DEFAULTS, strict=True)
        found = {name: value for name, value, default in counted if value != default}
        if self.cost_usd is not None:
            found["cost_usd"] = str(self.cost_usd)
        if self.decisions:
            found["decisions"] = list(self.decisions)
        return found


_NAMES = tuple(one.name for one in fields(CallUsage) if one.name != "tool_seconds")
_values = attrgetter(*_NAMES)
_DEFAULTS = _values(CallUsage())


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """What several calls cost together. Tokens and `cost_usd` are None where they were counted for none of them."""

    calls: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: Decimal | None = None
    attempts: int = 0
    retries: int = 0
    cached_hits: int = 0
    idempotency_reused: int = 0

    @classmethod
    def of(cls, usages: Iterable[Mapping[str, JsonValue]]) -> "UsageTotals":
        """The totals of what `CallUsage.to_json` said of each call."""
        listed = list(usages)

        def counted(name: str) -> list[Any]:
            return [usage[name] for usage in listed if name in usage]

        costs = [Decimal(cost) for cost in counted("cost_usd")]
        return cls(
            calls=len(listed),
            input_bytes=sum(counted("input_bytes")),
            output_bytes=sum(counted("output_bytes")),
            tokens_in=sum(counted("tokens_in")) if counted("tokens_in") else None,
            tokens_out=sum(counted("tokens_out")) if counted("tokens_out") else None,
            cost_usd=sum(costs, Decimal(0)) if costs else None,
            attempts=sum(counted("attempts")),
            retries=sum(counted("retries")),
            cached_hits=len(counted("cached_hit")),
            idempotency_reused=len(counted("idempotency_reused")),
        )
