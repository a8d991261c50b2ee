"""Who may call a tool: certain users, roles and holders of permissions. What a call costs or replays comes after it.

A tool's own `roles` hide it from everybody else; these rules leave it in sight, and refuse the call with a reason.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gateway.context import Caller
from gateway.errors import InvalidRequest, PermissionMissing, RoleDenied, ToolError, Unauthorized
from gateway.payload import Encoded
from gateway.policies.base import Call, Policy, Proceed, Services

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool

EVERYBODY = "*"
"""Among users or roles, what opens a tool to every caller; no other name is special."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """Who may call a tool; what is left empty asks for nothing. Users first, then permissions, then the role.

    users        ids, compared as they are; a caller without an id is none of them
    permissions  all of them are needed
    roles        one of them is enough, in any case; a caller without a role has none

    Raises InvalidRequest.
    """

    kind: ClassVar[str] = "rules"
    users: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in ("users", "permissions", "roles"):
            given = getattr(self, name)
            if isinstance(given, str):
                raise InvalidRequest(f"{name} must be several texts, not one; write [{given!r}]")
            if not all(isinstance(one, str) and one.strip() for one in given):
                raise InvalidRequest(f"{name} must be texts that are not empty; leave {name} out to ask for none")
            object.__setattr__(self, name, frozenset(given))
        if EVERYBODY in self.permissions:
            raise InvalidRequest("permissions are named one by one; leave them out to ask for none")
        object.__setattr__(self, "roles", frozenset(role.strip().lower() for role in self.roles))

    def build(self, tool: "RegisteredTool", services: Services) -> Policy | None:
        del services
        return Access(self, tool.id)

    def refusal(self, tool_id: str, caller: Caller) -> ToolError | None:
        """Why this caller may not call the tool; None for one that may."""
        if _shut(self.users) and caller.user_id not in self.users:
            return Unauthorized(tool_id)
        if missing := self.permissions - caller.permissions:
            return PermissionMissing(tool_id, tuple(sorted(missing)))
        if _shut(self.roles) and caller.role.strip().lower() not in self.roles:
            return RoleDenied(tool_id)
        return None


class Access:
    """The rules, around the calls of one tool."""

    def __init__(self, rules: AccessRules, tool_id: str) -> None:
        self._rules = rules
        self._tool_id = tool_id

    def refusal(self, caller: Caller) -> ToolError | None:
        """Why a call of this caller would be refused; None for one that would not."""
        return self._rules.refusal(self._tool_id, caller)

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        refusal = self.refusal(call.context.caller)
        if refusal is not None:
            raise refusal
        return await proceed(call)


def _shut(names: frozenset[str]) -> bool:
    return bool(names) and EVERYBODY not in names
