"""Approval: a person decides before the call is made."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from gateway.errors import ApprovalRejected, InvalidRequest
from gateway.payload import Encoded
from gateway.policies.base import Call, Policy, Proceed, Services

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool

Rule: TypeAlias = Callable[[Call], "Awaitable[str | bool | None] | str | bool | None"]
"""Says why a call needs a person: a text, True for no particular reason, or nothing when it needs none. It sees the
tool, the arguments, and the caller in `call.context.caller`."""

NOBODY = "nobody can be asked about a call that is made outside of an execution"


@dataclass(frozen=True, slots=True)
class Approval:
    """Every call of the tool needs a person. `expires_seconds` is how long one may take, None for any time.

    The execution that makes the call ends with the outcome `suspended`, and is taken up again when it is decided.
    Raises InvalidRequest.
    """

    kind: ClassVar[str] = "required"

    reason: str = ""
    expires_seconds: float | None = None

    def __post_init__(self) -> None:
        _check(self.expires_seconds)

    def build(self, tool: "RegisteredTool", services: Services) -> Policy | None:
        del tool, services
        return ApprovalRule(lambda _call: self.reason or True, self.expires_seconds)


class ApprovalRule:
    """Calls for which `rule` has a reason need a person. A rule that fails, fails the call."""

    def __init__(self, rule: Rule, expires_seconds: float | None = None) -> None:
        _check(expires_seconds)
        self._rule = rule
        self._expires_seconds = expires_seconds

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        found = self._rule(call)
        why = await found if inspect.isawaitable(found) else found
        if why:
            if call.gate is None:
                raise ApprovalRejected(call.tool.id, NOBODY)
            await call.gate.admit(call, why if isinstance(why, str) else "", self._expires_seconds)
        return await proceed(call)


def _check(expires_seconds: float | None) -> None:
    if expires_seconds is not None and not expires_seconds > 0:
        raise InvalidRequest(f"expires_seconds must be above 0, or None for any time, not {expires_seconds}")
