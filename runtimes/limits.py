"""Upper bounds on one execution. `None` means "not asked"; zero and negative bounds are errors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeAlias, get_args

from gateway.errors import InvalidRequest

LimitName: TypeAlias = Literal[
    "wall_seconds",
    "cpu_seconds",
    "memory_bytes",
    "disk_bytes",
    "pids",
    "output_bytes",
    "tool_calls",
    "chain_steps",
]

LIMIT_NAMES: tuple[LimitName, ...] = get_args(LimitName)

SECONDS = ("wall_seconds", "cpu_seconds")

SHARED: frozenset[LimitName] = frozenset({"wall_seconds", "output_bytes", "tool_calls", "chain_steps"})
"""Held by the supervisor and the gateway on every backend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What to hold one execution to.

    wall_seconds   time from handing over the snippet to its end
    cpu_seconds    processor time of the guest
    memory_bytes   memory of the guest, the interpreter included
    disk_bytes     files in the guest's private folders
    pids           processes and threads of the guest
    output_bytes   kept of each of stdout and stderr; the rest is dropped and said so
    tool_calls     calls that reach a tool
    chain_steps    steps of one chain
    """

    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    pids: int | None = None
    output_bytes: int | None = None
    tool_calls: int | None = None
    chain_steps: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.asked().items():
            _check(name, value)

    @classmethod
    def of(cls, limits: "Limits | Mapping[str, Any] | None") -> Self:
        """Take a `Limits`, a mapping of its fields, or None for none asked. Raise InvalidRequest."""
        if limits is None:
            return cls()
        if isinstance(limits, cls):
            return limits
        if not isinstance(limits, Mapping):
            raise InvalidRequest(f"limits must be a Limits or a mapping, not {type(limits).__name__}")
        unknown = sorted(map(str, set(limits) - set(LIMIT_NAMES)))
        if unknown:
            raise InvalidRequest(f"unknown limit {', '.join(unknown)}; there are {', '.join(LIMIT_NAMES)}")
        return cls(**limits)

    def over(self, defaults: "Limits") -> "Limits":
        """These limits, with `defaults` where none was asked."""
        asked = self.asked()
        return replace(defaults, **asked) if asked else defaults

    def asked(self) -> dict[LimitName, Any]:
        """The bounds that are set."""
        values = ((name, getattr(self, name)) for name in LIMIT_NAMES)
        return {name: value for name, value in values if value is not None}


def _check(name: str, value: object) -> None:
    kind = (int, float) if name in SECONDS else int
    if isinstance(value, bool) or not isinstance(value, kind):
        raise InvalidRequest(
            f"limit {name} must be {'a number' if name in SECONDS else 'a whole number'}, not {value!r}"
        )
    if not math.isfinite(value) or value <= 0:
        raise InvalidRequest(f"limit {name} must be above zero, not {value!r}; leave it out for no bound")


DEFAULT_LIMITS = Limits(
    wall_seconds=30.0, memory_bytes=256 << 20, disk_bytes=64 << 20, output_bytes=1 << 20, tool_calls=100
)
"""Applied where the caller asks for nothing else."""
