"""Calls that wait for a person: what is waited for, and what was decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol

from gateway.base import JsonValue
from gateway.errors import ApprovalRejected, InvalidRequest, ToolError
from gateway.journal.base import ApprovalDecided, ApprovalRequested, Blob, Record
from gateway.past import PastCall, past_calls
from gateway.policies.base import Call
from gateway.secrets import Secrets


class Verdict(StrEnum):
    """What a person decided."""

    APPROVED = "approved"
    REJECTED = "rejected"
    EDITED = "edited"
    """Approved with other arguments."""
    EXPIRED = "expired"
    """Nobody decided in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingApproval:
    """One call that waits. `id` names it; `arguments` are exactly those that it will be made with."""

    id: str
    execution_id: str
    index: int
    tool_id: str
    arguments: JsonValue
    arguments_sha256: str
    reason: str
    tenant_id: str
    requested_at: datetime
    expires_at: datetime | None

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


class Gate(Protocol):
    """Where a policy asks for a person's decision on a call of one execution."""

    async def admit(self, call: Call, reason: str, expires_seconds: float | None) -> None:
        """Return when a person has approved the call, with its arguments as that person wants them.

        While nobody has decided, the execution ends here: this does not return. Raises ApprovalRejected.
        """
        ...


def approval_id(execution_id: str, index: int) -> str:
    return f"{execution_id}.{index}"


def parse_approval_id(text: str) -> tuple[str, int]:
    """Raises InvalidRequest."""
    execution_id, dot, index = text.rpartition(".")
    if not (dot and execution_id and index.isascii() and index.isdigit()):
        raise InvalidRequest(f"{text[:100]!r} is no approval's id; `approvals()` lists them")
    return execution_id, int(index)


def waiting(records: Sequence[Record]) -> list[PastCall]:
    """The calls in these records that wait for a person."""
    return [call for call in past_calls(records) if call.requested and not call.decided and not call.answered]


def requested(
    call: Call, reason: str, expires_seconds: float | None, arguments_sha256: str, secrets: Secrets | None
) -> ApprovalRequested:
    """The record, without secrets, of a call that is made with these arguments and no others."""
    now = datetime.now(UTC)
    arguments = call.arguments if secrets is None else secrets.value(call.arguments)
    return ApprovalRequested(
        execution_id=call.context.execution_id,
        tenant_id=call.context.caller.tenant_id,
        at=now,
        index=call.context.call_index,
        tool_id=call.tool.id,
        arguments=Blob.of_json(arguments),
        arguments_sha256=arguments_sha256,
        reason=reason if secrets is None else secrets.text(reason),
        expires_at=None if expires_seconds is None else now + timedelta(seconds=expires_seconds),
    )


def refusal(tool_id: str, decided: ApprovalDecided) -> ToolError | None:
    """What the guest is told when the call may not be made."""
    match Verdict(decided.verdict):
        case Verdict.REJECTED:
            return ApprovalRejected(tool_id, decided.reason)
        case Verdict.EXPIRED:
            return ApprovalRejected(tool_id, "nobody decided in time")
    return None
