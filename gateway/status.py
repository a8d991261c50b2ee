"""gRPC status ↔ exception: one table, read both ways.

| exception | status |
| --- | --- |
| Unauthenticated | UNAUTHENTICATED |
| InvalidRequest, InvalidToolId, InvalidCursor, InvalidInput, ProtocolError | INVALID_ARGUMENT |
| ToolNotFound | NOT_FOUND |
| ToolDenied, EgressDenied, Unauthorized, PermissionMissing, RoleDenied, ApprovalRejected | PERMISSION_DENIED |
| BudgetExceeded, PayloadTooLarge, RateLimited | RESOURCE_EXHAUSTED |
| DeadlineExceeded | DEADLINE_EXCEEDED |
| ToolTimeout, ToolUnavailable, CircuitOpen, CallInProgress, Busy, SandboxLost | UNAVAILABLE |
| IdempotencyConflict | ALREADY_EXISTS |
| ToolFailed, InvalidOutput | ABORTED |
| other SandboxError | FAILED_PRECONDITION |

The exact code, message and details travel in the trailing metadata key `toolexec-error-bin`, so that a client raises
what a caller in the same process would see. A status without it comes from gRPC itself.
"""

from typing import Any

from gateway import errors
from gateway._grpc import grpc
from gateway.operations import decode_error, encode_error

TOKEN_KEY = "toolexec-token"  # noqa: S105 - the name of a metadata key
ERROR_KEY = "toolexec-error-bin"

STATUS: dict[type[errors.SandboxError], grpc.StatusCode] = {
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidToolId: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidCursor: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ProtocolError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ToolNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ToolDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.EgressDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthorized: grpc.StatusCode.PERMISSION_DENIED,
    errors.PermissionMissing: grpc.StatusCode.PERMISSION_DENIED,
    errors.RoleDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.ApprovalRejected: grpc.StatusCode.PERMISSION_DENIED,
    errors.BudgetExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.PayloadTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.IdempotencyConflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.ToolTimeout: grpc.StatusCode.UNAVAILABLE,
    errors.ToolUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.CircuitOpen: grpc.StatusCode.UNAVAILABLE,
    errors.CallInProgress: grpc.StatusCode.UNAVAILABLE,
    errors.Busy: grpc.StatusCode.UNAVAILABLE,
    errors.SandboxLost: grpc.StatusCode.UNAVAILABLE,
    errors.ToolFailed: grpc.StatusCode.ABORTED,
    errors.InvalidOutput: grpc.StatusCode.ABORTED,
}


def status_of(error: errors.SandboxError) -> grpc.StatusCode:
    return STATUS.get(type(error), grpc.StatusCode.FAILED_PRECONDITION)


def metadata_of(error: errors.SandboxError) -> tuple[tuple[str, bytes], ...]:
    return ((ERROR_KEY, encode_error(error)),) if isinstance(error, errors.ToolError) else ()


def exception_of(error: grpc.aio.AioRpcError) -> errors.SandboxError:
    """The exception a caller in the same process would have seen."""
    trailing: Any = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == ERROR_KEY:
            return decode_error(value if isinstance(value, bytes) else value.encode())
    match error.code():
        case grpc.StatusCode.UNAUTHENTICATED:
            return errors.Unauthenticated()
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return errors.ToolError(f"the message is over the gateway's size limit: {error.details()}")
        case grpc.StatusCode.UNAVAILABLE:
            return errors.SandboxLost(f"the gateway does not answer: {error.details()}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceeded()
        case _:
            return errors.ProtocolError(f"the gateway answered {error.code().name}: {error.details()}")
