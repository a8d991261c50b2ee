"""Where the call of a tool would go, as its provider says before it goes there."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from gateway.base import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One place that a call would use.

    `scheme` is that of a URL, such as https, postgresql or sqlite. `host` is empty for a file of this machine, and
    `localhost` for a socket of it. `operations` are what would be done there: HTTP methods, verbs of SQL, operations of
    DynamoDB, methods of MCP, all in lower case. `tables` are as written, with their schema where they have one. None
    is not known.
    """

    scheme: str
    host: str
    port: int
    database: str = ""
    tables: frozenset[str] | None = frozenset()
    operations: frozenset[str] | None

    def __str__(self) -> str:
        """As errors show it, which guests read: without the folders of this machine."""
        return f"{self.scheme}://{self.host}:{self.port}" if self.host else f"{self.scheme} {self.database}".strip()


Check: TypeAlias = Callable[[Destination], None]
"""Raises EgressDenied for a place where a call must not go."""

_CHECKS: ContextVar[tuple[tuple[str, Check], ...]] = ContextVar("toolexec_hops", default=())
"""With the tools that they are for: a call made within another's, of another tool, has rules of its own."""


@contextmanager
def hops_checked(tool_id: str, check: Check) -> Iterator[None]:
    """Within, calls of this tool go on to no other place than `check` permits."""
    token = _CHECKS.set((*_CHECKS.get(), (tool_id, check)))
    try:
        yield
    finally:
        _CHECKS.reset(token)


def check_hop(tool_id: str, destination: Destination) -> None:
    """For a provider, before a call of this tool goes where only an answer said, as a redirect. Raises EgressDenied."""
    for held, check in _CHECKS.get():
        if held == tool_id:
            check(destination)


@runtime_checkable
class Connects(Protocol):
    """A provider that can say where a call would go.

    Every connection of the call is among what it says, or is asked for by `check_hop` before it is made.
    """

    async def destinations(self, arguments: Mapping[str, JsonValue]) -> tuple[Destination, ...]:
        """For arguments that fit the tool's input schema; nothing is connected to. Raises ToolError."""
        ...
