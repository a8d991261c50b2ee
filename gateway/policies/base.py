"""Policies: what stands between a checked call and its tool, each around the next.

A policy is one file. It is chosen for a tool by `Policies`, as an object or as the config that builds one, and is
called in the order of `SLOTS`; nothing else in the gateway knows of it.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import anyio

from gateway.artifacts import Attached
from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import InvalidRequest
from gateway.payload import Encoded
from gateway.policies.store import MemoryStore, Store
from gateway.usage import CallUsage

if TYPE_CHECKING:
    from gateway.approvals import Gate
    from gateway.tools.registry import RegisteredTool  # a tool has policies

SLOTS = (
    "usage",
    "access",
    "approval",
    "egress",
    "idempotency",
    "cache",
    "rate_limit",
    "breaker",
    "retry",
    "concurrency",
)
"""The order in which a call passes its policies. The innermost is followed by one attempt: timeout and provider.

A breaker with an attribute `scope` of "attempt" stands within the retries, and hears of each attempt."""

Emit: TypeAlias = Callable[[Encoded], Awaitable[None]]
"""Takes the next chunk of a streamed call, and waits for a slow reader."""

Tell: TypeAlias = Callable[["Call", str, Mapping[str, JsonValue]], None]
"""Hears what policies do with a call: a kind such as `retrying`, and its details."""


def _nobody_listens(_call: "Call", _kind: str, _details: Mapping[str, JsonValue]) -> None: ...


@dataclass(slots=True, kw_only=True)
class Call:
    """One call on its way to its tool: permitted by the grant, recorded as started, its arguments valid.

    `arguments` have their defaults filled in and are not to be changed. `deadline` (of `time.monotonic()`, None for
    none) bounds the call with all its attempts and waits. `emit` is there when the call is streamed: the result is then
    given in chunks, and what `proceed` returns is null. `wait_seconds` bounds each wait for a chunk. `gate` leads to
    whoever approves calls; a call of the host itself has none. `attached` is what its tool made beside the result.
    """

    tool: "RegisteredTool"
    arguments: dict[str, JsonValue]
    context: ToolContext
    deadline: float | None = None
    emit: Emit | None = None
    wait_seconds: float | None = None
    usage: CallUsage = field(default_factory=CallUsage)
    tell_of: Tell = _nobody_listens
    gate: "Gate | None" = None
    attached: Attached = field(default_factory=Attached)

    @property
    def key(self) -> str:
        """The idempotency key, empty for none."""
        return self.context.idempotency_key

    def remaining_seconds(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def tell(self, kind: str, **details: JsonValue) -> None:
        """Let observers know."""
        self.tell_of(self, kind, details)


Proceed: TypeAlias = Callable[[Call], Awaitable[Encoded]]
"""Goes on with a call: the policies further in, and the tool."""


@runtime_checkable
class Policy(Protocol):
    """Stands around the calls of one tool. Any number of them may be under way, in one event loop."""

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        """Give the call's result: from `proceed`, called never, once or several times, or from elsewhere.

        Raises a ToolError to refuse the call or to let a failure out. A wait of its own must end before
        `call.remaining_seconds()` have passed; cancellation passes through and leaves nothing behind.
        """
        ...


@runtime_checkable
class Keyed(Protocol):
    """A policy for idempotency also makes the key, before the call is recorded and so before `apply`."""

    def key(self, call: Call) -> str:
        """The same for calls that are the same; empty for none. Raises InvalidInput when it cannot be made."""
        ...


CircuitState: TypeAlias = Literal["closed", "open", "half_open"]


@runtime_checkable
class HasCircuits(Protocol):
    """A breaker with circuits that can be looked at and closed by hand; one of your own may be one."""

    def state(self, tenant: str | None = None) -> CircuitState:
        """Of the circuit that this tenant's calls pass; None for the worst of all."""
        ...

    def reset(self) -> None:
        """Close every circuit and forget what was counted. Calls under way no longer count."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What an Exec lends to the policies of its tools. Replace them in tests to be master of time and chance.

    `store` is what they share with other processes, and has a clock of its own.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    random: Random = field(default_factory=SystemRandom)
    store: Store = field(default_factory=MemoryStore)


@runtime_checkable
class PolicyConfig(Protocol):
    """A policy as data: a frozen dataclass whose fields are JSON, checked when it is made (InvalidRequest).

    `kind` is its name in written tools, where it stands as `{"kind": …, its fields}`.
    """

    kind: ClassVar[str]

    def build(self, tool: "RegisteredTool", services: Services) -> Policy | None:
        """The policy for one tool; None for one that does nothing."""
        ...


Choice: TypeAlias = Policy | PolicyConfig | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The policies of one tool, or the defaults for all. None leaves the choice to the defaults, and they to nothing.

    Each is a policy of your own, or a config that builds one. Raises InvalidRequest for anything else.
    """

    usage: Choice = None
    access: Choice = None
    approval: Choice = None
    egress: Choice = None
    idempotency: Choice = None
    cache: Choice = None
    rate_limit: Choice = None
    breaker: Choice = None
    retry: Choice = None
    concurrency: Choice = None

    def __post_init__(self) -> None:
        for slot, choice in self.chosen().items():
            if isinstance(choice, type) or not isinstance(choice, Policy | PolicyConfig):
                raise InvalidRequest(f"the policy {slot} must be a policy or a config of one, not {choice!r}")

    def chosen(self) -> dict[str, Any]:
        """What is not None, by slot, in the order of `SLOTS`."""
        return {slot: choice for slot in SLOTS if (choice := getattr(self, slot)) is not None}

    def over(self, defaults: "Policies") -> "Policies":
        """These, and the defaults where there is none."""
        return Policies(**{**defaults.chosen(), **self.chosen()})


NO_POLICIES = Policies()

assert tuple(one.name for one in fields(Policies)) == SLOTS
