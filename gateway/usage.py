"""What one call cost, counted while it is made."""

from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from gateway.base import JsonValue


@dataclass(slots=True)
class CallUsage:
    """Counted by the policies that a call passes.

    `attempts` are those that reached the tool; `retries` the ones after the first. `cached_hit` and
    `idempotency_reused` say that the result is an earlier call's, `circuit_opened` that this call opened its tool's
    circuit. Tokens and `cost_usd` are None where nobody counts them. `decisions` is what policies decided, in words and
    in order, such as `retried after 0.2 s: unavailable`.
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

    def to_json(self) -> dict[str, JsonValue]:
        """What is not at its default; money as text."""
        return {name: _json(value) for name in _NAMES if (value := getattr(self, name)) != getattr(_UNUSED, name)}


_NAMES = tuple(one.name for one in fields(CallUsage))
_UNUSED = CallUsage()


def _json(value: Any) -> JsonValue:
    return str(value) if isinstance(value, Decimal) else list(value) if isinstance(value, list) else value
