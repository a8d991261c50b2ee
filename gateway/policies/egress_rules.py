"""An allow-list in front of one tool: which hosts, databases and tables a call may use, and what it may do there.

The provider's own egress stays in force behind it: what a host's name leads to is checked when it is dialled.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from gateway.errors import EgressDenied, InvalidRequest
from gateway.payload import Encoded
from gateway.policies.base import Call, Policy, Proceed, Services
from gateway.policies.destinations import Connects, Destination, hops_checked
from gateway.policies.egress import Egress

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool

Undeclared = Literal["refuse", "allow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRules:
    """Where calls of a tool may go. What is not listed is refused.

    allow       hosts, as `[scheme://]host[:port]`: see `Egress` for names, wildcards, addresses and networks
    databases   names of databases, empty for every one; of a SQLite database the name of its file
    tables      names of tables, as statements write them, empty for every one; `*` stands for any characters but a
                dot, so `shop.*` are the tables of that schema
    operations  what may be done: `get`, `select`, `update`, `get_item`, `tools/call`; empty for everything
    undeclared  tools whose provider does not say where it goes, such as functions and programs: `refuse` (default)
                or `allow` their calls

    What a provider cannot tell, such as the tables of a statement of the operator's that could not be read, is not
    among what is listed. A file of this machine needs no entry in `allow`. Each hop of a redirect is held to the rules
    as the first request is. Raises InvalidRequest.
    """

    kind: ClassVar[str] = "rules"
    allow: tuple[str, ...] = ()
    databases: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()
    operations: frozenset[str] = frozenset()
    undeclared: Undeclared = "refuse"

    def __post_init__(self) -> None:
        object.__setattr__(self, "allow", Egress(self.allow).allow)
        for name in ("databases", "tables", "operations"):
            given = getattr(self, name)
            if isinstance(given, str) or not all(isinstance(one, str) and one for one in given):
                raise InvalidRequest(f"{name} must be several texts that are not empty; leave it out for every one")
            object.__setattr__(self, name, frozenset(given))
        object.__setattr__(self, "operations", frozenset(operation.lower() for operation in self.operations))
        if self.undeclared not in get_args(Undeclared):
            raise InvalidRequest(f"undeclared must be {' or '.join(get_args(Undeclared))}, not {self.undeclared!r}")

    def build(self, tool: "RegisteredTool", services: Services) -> Policy | None:
        del tool, services
        return RuledEgress(self)


class RuledEgress:
    """The rules, around the calls of one tool."""

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules
        self._egress = Egress(rules.allow)
        self._tables = _patterns(rules.tables)
        self._operations = _patterns(rules.operations)

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        provider = call.tool.tool.provider
        if isinstance(provider, Connects):
            for destination in await provider.destinations(call.arguments):
                self.check(destination)
        elif self._rules.undeclared == "refuse":
            raise EgressDenied("an unknown place", "the tool's provider does not say where it goes")
        with hops_checked(call.context.tool_id, self.check):
            return await proceed(call)

    def check(self, destination: Destination) -> None:
        """Raise EgressDenied unless everything about it is listed."""
        if destination.host:
            self._egress.check(destination.scheme, destination.host, destination.port)
        if self._rules.databases and destination.database not in self._rules.databases:
            raise EgressDenied(str(destination), f"its database {destination.database!r} is not among those allowed")
        _check(destination, "table", destination.tables, self._tables)
        _check(destination, "operation", destination.operations, self._operations)


def _check(
    destination: Destination, what: str, used: frozenset[str] | None, listed: tuple[re.Pattern[str], ...]
) -> None:
    if not listed:
        return
    if used is None:
        raise EgressDenied(str(destination), f"which {what}s it would use is not known, and only some are allowed")
    for name in sorted(used):
        if not any(pattern.fullmatch(name) for pattern in listed):
            raise EgressDenied(str(destination), f"the {what} {name[:100]!r} is not among those allowed")


def _patterns(names: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile("[^.]*".join(map(re.escape, name.split("*")))) for name in names)
