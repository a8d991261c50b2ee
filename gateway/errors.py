"""Every exception of the project.

SandboxError
├── InvalidRequest            an argument of yours is wrong; the message says which and what fits
├── PolicyDenied              the profile does not permit it; the message says why and how to get it
├── BackendUnavailable        no engine here can run it; the message names the fix
├── SandboxLost               the sandbox died through no fault of its guest; running it again may work
├── Busy                      no sandbox became free in time; try again later
├── Closed                    the object was closed
├── MissingExtra              a library that this needs is not installed; the message has the install line
├── ProtocolError             the other end of the wire broke the contract
├── Unauthenticated           the token is unknown, used up or expired
├── JournalUnavailable        the records cannot be kept or read now; nothing is done without them
├── JournalCorrupt            the journal holds what it did not write
├── NotRecorded               the journal does not have it, or not any more
├── LeaseHeld                 somebody else is at work on the execution
├── LeaseLost                 somebody else has taken the execution over
├── ReplayDiverged            a replay did something else than what was recorded
├── ExecutionFailed           a guest did not complete (raised only by `result.raise_for_outcome()`)
└── ToolError                 one tool call gave no result
    ├── InvalidToolId
    ├── InvalidCursor         not a cursor of this list, or its place is gone
    ├── ToolNotFound
    ├── ToolDenied            not among the tools this caller may call
    ├── Unauthorized          the tool is not for this user
    ├── PermissionMissing     the caller lacks a permission that the tool needs
    ├── RoleDenied            the tool is not for the caller's role
    ├── ApprovalRejected      a person looked at the call and said no
    ├── CallInDoubt           it was cut off by a crash of the host, and nobody knows whether it was done
    ├── CallNotRecorded       a replay has no answer for it, and nothing is called
    ├── EgressDenied          the tool would connect to where it may not
    ├── InvalidInput          the arguments do not fit the tool's input schema
    ├── InvalidOutput         the tool's result does not fit its output schema
    ├── ToolFailed            the tool raised
    ├── ToolUnavailable       what the tool needs does not answer now; later it may
    ├── CircuitOpen           the tool failed too often, and is left alone for a while
    ├── RateLimited           too many calls; later there is room
    ├── CallInProgress        the same call is under way elsewhere
    ├── IdempotencyConflict   the same key was used with other arguments
    ├── ToolTimeout           the tool took longer than it may
    ├── BudgetExceeded        no tool calls or chain steps left
    ├── DeadlineExceeded      the execution's time is up
    └── PayloadTooLarge       arguments or result over the size limit

`code` is the machine-readable name that guests, records and the wire see; `retryable` says whether the same call may
succeed later without a change.
"""

from collections.abc import Mapping
from typing import Any


class SandboxError(Exception):
    """Root of the tree. `code` names the kind, `retryable` says whether trying again can help.

    `execution_id` names the execution that ended with it, empty for none; with a journal on disk it can be resumed.
    """

    code: str = "sandbox_error"
    retryable: bool = False
    execution_id: str = ""


class InvalidRequest(SandboxError, ValueError):
    """An argument is wrong."""

    code = "invalid_request"


class PolicyDenied(SandboxError):
    """The profile does not permit the request."""

    code = "policy_denied"

    def __init__(self, reason: str, fix: str) -> None:
        self.reason = reason
        self.fix = fix
        super().__init__(f"{reason}. {fix}")


class BackendUnavailable(SandboxError):
    """A backend cannot be used on this host."""

    code = "backend_unavailable"

    def __init__(self, kind: str, reason: str, fix: str) -> None:
        self.kind = kind
        self.reason = reason
        self.fix = fix
        super().__init__(f"backend {kind!r} cannot be used here: {reason}. {fix}")


class SandboxLost(SandboxError):
    """The sandbox ended under a guest that did nothing wrong."""

    code = "sandbox_lost"
    retryable = True

    def __init__(self, reason: str) -> None:
        super().__init__(f"the sandbox was lost: {reason}; the snippet may be run again")


class Busy(SandboxError):
    """No sandbox became free in time."""

    code = "busy"
    retryable = True

    def __init__(self, kind: str, waited_seconds: float) -> None:
        super().__init__(f"no {kind} sandbox became free within {waited_seconds:g} s; try again, or raise `pool_size`")


class Closed(SandboxError):
    """The object was closed."""

    code = "closed"

    def __init__(self, what: str) -> None:
        super().__init__(f"this {what} is closed; make a new one")


class MissingExtra(SandboxError, ImportError):
    """A library that this needs is not installed."""

    code = "missing_extra"

    def __init__(self, what: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{what} need a library that is not installed; run: pip install 'toolexec[{extra}]'")


class ProtocolError(SandboxError):
    """The other end of the wire broke the contract."""

    code = "protocol_error"


class Unauthenticated(SandboxError):
    """The token is unknown, used up or expired."""

    code = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("the endpoint's token is unknown, used up or expired; each execution gets a new one")


class JournalUnavailable(SandboxError):
    """The records cannot be kept or read now; a call that cannot be recorded is not made."""

    code = "journal_unavailable"
    retryable = True

    def __init__(self, where: str, reason: str, fix: str = "try again when it answers") -> None:
        super().__init__(f"the journal {where} is not available: {reason}; {fix}")


class JournalCorrupt(SandboxError):
    """The journal holds what it did not write."""

    code = "journal_corrupt"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(
            f"the journal {where} is damaged: {reason}; `toolexec journal verify` says how far its records hold"
        )


class NotRecorded(SandboxError):
    """The journal does not have it, or not any more."""

    code = "not_recorded"

    def __init__(self, what: str) -> None:
        super().__init__(f"the journal has no {what}; it was never recorded, or was deleted by its retention")


class LeaseHeld(SandboxError):
    """Somebody else is at work on the execution."""

    code = "lease_held"
    retryable = True

    def __init__(self, execution_id: str, owner: str) -> None:
        self.owner = owner
        super().__init__(f"execution {execution_id} is held by {owner}; it is free when that ends or runs out")


class LeaseLost(SandboxError):
    """Somebody else has taken the execution over; what the former owner did since is not recorded."""

    code = "lease_lost"

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"the lease on execution {execution_id} is lost; stop working on it")


class ReplayDiverged(SandboxError):
    """A replay did something else than what was recorded; `recorded` and `actual` say what, each on a line."""

    code = "replay_diverged"

    def __init__(self, what: str, recorded: str, actual: str) -> None:
        self.recorded = recorded
        self.actual = actual
        super().__init__(f"the replay diverged: {what}\n  recorded: {recorded}\n  actual:   {actual}")


class ExecutionFailed(SandboxError):
    """A guest did not complete; `result` has everything that is known."""

    code = "execution_failed"

    def __init__(self, message: str, result: Any) -> None:
        self.result = result
        super().__init__(message)


class ToolError(SandboxError):
    """One tool call gave no result. `details` is a JSON object."""

    code = "tool_error"

    def __init__(
        self, message: str, *, details: Mapping[str, Any] | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        if retryable is not None:
            self.retryable = retryable

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "retryable": self.retryable, "details": self.details}


class InvalidToolId(ToolError):
    """The id is malformed."""

    code = "invalid_tool_id"

    def __init__(self, tool_id: str, reason: str) -> None:
        super().__init__(
            f"malformed tool id {tool_id[:200]!r}: {reason}; ids are name, namespace:name or namespace:name:version"
        )


class InvalidCursor(ToolError):
    """The cursor cannot be used here."""

    code = "invalid_cursor"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the cursor {reason}; begin again without a cursor")


class ToolNotFound(ToolError):
    """No such tool."""

    code = "tool_not_found"

    def __init__(self, tool_id: str, near: tuple[str, ...] = ()) -> None:
        hint = f"; did you mean {', '.join(near)}?" if near else "; search_tools(query) finds tools"
        super().__init__(f"no tool {tool_id[:200]!r}{hint}", details={"near": list(near)})


class ToolDenied(ToolError):
    """The execution may not call this tool."""

    code = "tool_denied"

    def __init__(self, tool_id: str) -> None:
        super().__init__(f"tool {tool_id[:200]!r} is not among the tools this execution may call")


class Unauthorized(ToolError):
    """The tool is not for this user."""

    code = "unauthorized"

    def __init__(self, tool_id: str) -> None:
        super().__init__(f"tool {tool_id!r} is not for this user; the operator can add the user to the tool")


class PermissionMissing(ToolError):
    """The caller lacks a permission that the tool needs; `details["missing"]` lists them."""

    code = "insufficient_permissions"

    def __init__(self, tool_id: str, missing: tuple[str, ...]) -> None:
        super().__init__(
            f"tool {tool_id!r} needs the permission {', '.join(missing)}; the operator can give it to the caller",
            details={"missing": list(missing)},
        )


class RoleDenied(ToolError):
    """The tool is not for the caller's role."""

    code = "unauthorized_role"

    def __init__(self, tool_id: str) -> None:
        super().__init__(f"tool {tool_id!r} is not for the caller's role; the operator can add the role to the tool")


class ApprovalRejected(ToolError):
    """A person looked at the call and said no; `details["reason"]` is what they said."""

    code = "approval_rejected"

    def __init__(self, tool_id: str, reason: str = "") -> None:
        said = f": {reason}" if reason else ""
        super().__init__(f"the call of tool {tool_id!r} was not approved{said}", details={"reason": reason})


class CallInDoubt(ToolError):
    """The host ended while the tool was at work, so nobody here knows whether it was done."""

    code = "in_doubt"

    def __init__(self, tool_id: str) -> None:
        super().__init__(
            f"the call of tool {tool_id!r} was cut off by a crash, and may have been done; it is made again only when "
            "it has an idempotency key, or its tool says read_only, or in_doubt='retry' or 'ask'"
        )


class CallNotRecorded(ToolError):
    """A replay has no answer for this call."""

    code = "call_not_recorded"

    def __init__(self, tool_id: str) -> None:
        super().__init__(f"the call of tool {tool_id[:200]!r} is not in the record that is replayed, and is not made")


class EgressDenied(ToolError):
    """The tool would connect to where it may not."""

    code = "egress_denied"

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(
            f"no connection to {target[:200]!r}: {reason}; the operator can allow it for this tool",
            details={"target": target[:200]},
        )


class InvalidInput(ToolError):
    """The arguments do not fit the input schema; `details["errors"]` lists every misfit with its path."""

    code = "invalid_input"


class InvalidOutput(ToolError):
    """The tool's result does not fit its output schema."""

    code = "invalid_output"


class ToolFailed(ToolError):
    """The tool raised; `details["type"]` is the exception's class name."""

    code = "tool_failed"


class ToolUnavailable(ToolError):
    """What the tool needs does not answer now; `details["retry_after_seconds"]` is how long to wait, if it said so.

    `details["sent"]` is False where nothing of the call was sent: then it may be made again whatever the tool does.
    """

    code = "unavailable"
    retryable = True

    def __init__(self, what: str, reason: str, *, retry_after_seconds: float | None = None) -> None:
        details = {} if retry_after_seconds is None else {"retry_after_seconds": retry_after_seconds}
        super().__init__(f"{what} is not available: {reason}; try again later", details=details)


class CircuitOpen(ToolError):
    """The tool failed too often, and is left alone; `details["retry_after_seconds"]` is how long still."""

    code = "circuit_open"
    retryable = True

    def __init__(self, tool_id: str, retry_after_seconds: float) -> None:
        super().__init__(
            f"the circuit of tool {tool_id!r} is open: it failed too often; try again in {retry_after_seconds:.3g} s",
            details={"retry_after_seconds": retry_after_seconds},
        )


class RateLimited(ToolError):
    """Too many calls; `details["retry_after_seconds"]` is when there is room again."""

    code = "rate_limited"
    retryable = True

    def __init__(self, tool_id: str, retry_after_seconds: float) -> None:
        super().__init__(
            f"too many calls of tool {tool_id!r}; try again in {retry_after_seconds:.3g} s",
            details={"retry_after_seconds": retry_after_seconds},
        )


class CallInProgress(ToolError):
    """The same call, by its idempotency key, is under way elsewhere."""

    code = "in_progress"
    retryable = True

    def __init__(self, tool_id: str) -> None:
        super().__init__(f"the same call of tool {tool_id!r} is under way; try again when it has ended")


class IdempotencyConflict(ToolError):
    """The same idempotency key was used with other arguments, or by another user whose result is not this one's."""

    code = "idempotency_conflict"

    def __init__(self, tool_id: str) -> None:
        super().__init__(
            f"a call of tool {tool_id!r} with this idempotency key was made with other arguments, or by another user; "
            "use another key"
        )


class ToolTimeout(ToolError):
    """The tool took longer than it may."""

    code = "timeout"
    retryable = True

    def __init__(self, tool_id: str, seconds: float) -> None:
        super().__init__(f"tool {tool_id!r} did not answer within {seconds:g} s", details={"timeout_seconds": seconds})


class BudgetExceeded(ToolError):
    """No tool calls or chain steps left."""

    code = "budget_exceeded"

    def __init__(self, limit: str, allowed: int, asked: int) -> None:
        super().__init__(
            f"limit {limit}={allowed} is used up: {asked} more asked for",
            details={"limit": limit, "allowed": allowed, "asked": asked},
        )


class DeadlineExceeded(ToolError):
    """The execution's time is up."""

    code = "deadline_exceeded"

    def __init__(self) -> None:
        super().__init__("the execution ended before the tool answered")


class PayloadTooLarge(ToolError):
    """Arguments or result over the size limit."""

    code = "too_large"

    def __init__(self, what: str, size_bytes: int, allowed_bytes: int) -> None:
        super().__init__(
            f"{what} of {size_bytes} bytes is over the limit of {allowed_bytes}",
            details={"size_bytes": size_bytes, "allowed_bytes": allowed_bytes},
        )
