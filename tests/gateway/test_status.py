"""The table of statuses, read both ways."""

import json
from typing import Any

import grpc
import pytest

from gateway import errors, status
from gateway.errors import SandboxError, ToolError
from gateway.status import ERROR_KEY, STATUS, exception_of, metadata_of, status_of

TOOL_ERRORS: list[ToolError] = [
    errors.InvalidToolId("x y", "it has a space"),
    errors.InvalidCursor("was not made here"),
    errors.ToolNotFound("math:ad", ("math:add",)),
    errors.ToolDenied("math:add"),
    errors.EgressDenied("http://10.0.0.1/", "it is a private address"),
    errors.InvalidInput("no", details={"errors": [{"path": "/ü"}]}),
    errors.InvalidOutput("no"),
    errors.ToolFailed("ValueError: ü", details={"type": "ValueError"}, retryable=True),
    errors.ToolUnavailable("the database", "it refuses connections", retry_after_seconds=1.5),
    errors.ToolTimeout("math:add", 1.5),
    errors.CircuitOpen("math:add", 2.5),
    errors.RateLimited("math:add", 0.25),
    errors.CallInProgress("math:add"),
    errors.IdempotencyConflict("math:add"),
    errors.Unauthorized("math:add"),
    errors.PermissionMissing("math:add", ("write",)),
    errors.RoleDenied("math:add"),
    errors.ApprovalRejected("math:add", "too much"),
    errors.CallInDoubt("math:add"),
    errors.CallNotRecorded("math:add"),
    errors.BudgetExceeded("tool_calls", 1, 2),
    errors.DeadlineExceeded(),
    errors.PayloadTooLarge("it", 2, 1),
    errors.ToolError("some other"),
]
HOST_ERRORS: list[SandboxError] = [
    errors.InvalidRequest("no"),
    errors.PolicyDenied("no", "Fix it"),
    errors.BackendUnavailable("wasm", "no", "Fix it"),
    errors.SandboxLost("no"),
    errors.Busy("wasm", 1),
    errors.Closed("it"),
    errors.MissingExtra("SQL tools", "sql"),
    errors.ProtocolError("no"),
    errors.Unauthenticated(),
    errors.JournalUnavailable("it", "its disk is full"),
    errors.JournalCorrupt("it", "a record was changed"),
    errors.NotRecorded("execution e"),
    errors.LeaseHeld("e", "another host"),
    errors.LeaseLost("e"),
    errors.ReplayDiverged("another call", "this", "that"),
    errors.ExecutionFailed("no", None),
]


def every_class() -> set[type[SandboxError]]:
    found: set[type[SandboxError]] = set()
    todo: list[type[SandboxError]] = [SandboxError]
    while todo:
        kind = todo.pop()
        found.add(kind)
        todo += [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return found


def rpc_error(code: grpc.StatusCode, metadata: tuple[tuple[str, Any], ...] = ()) -> grpc.aio.AioRpcError:
    none = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, none, grpc.aio.Metadata(*metadata), details="said", debug_error_string=None)


def test_every_class_of_ours_is_tried_here() -> None:
    assert {type(error) for error in [*TOOL_ERRORS, *HOST_ERRORS]} == every_class() - {SandboxError}


@pytest.mark.parametrize("error", TOOL_ERRORS, ids=lambda error: type(error).__name__)
def test_a_tool_error_arrives_as_it_left(error: ToolError) -> None:
    arrived = exception_of(rpc_error(status_of(error), metadata_of(error)))
    assert isinstance(arrived, ToolError)
    assert type(arrived) is type(error)
    assert arrived.to_json() == error.to_json()
    assert arrived.retryable is error.retryable


@pytest.mark.parametrize("error", HOST_ERRORS, ids=lambda error: type(error).__name__)
def test_a_host_error_gives_nothing_away_but_its_status(error: SandboxError) -> None:
    assert metadata_of(error) == ()
    assert status_of(error) is STATUS.get(type(error), grpc.StatusCode.FAILED_PRECONDITION)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_of_grpcs_own_is_an_exception_of_ours(code: grpc.StatusCode) -> None:
    expected = {
        grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
        grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ToolError,
        grpc.StatusCode.UNAVAILABLE: errors.SandboxLost,
        grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    }
    assert type(exception_of(rpc_error(code))) is expected.get(code, errors.ProtocolError)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"code": 1}', b'{"code": "x", "message": "y"}'])
def test_a_malformed_error_is_a_broken_protocol(data: bytes) -> None:
    with pytest.raises(errors.ProtocolError):
        exception_of(rpc_error(grpc.StatusCode.ABORTED, ((ERROR_KEY, data),)))


def test_an_unknown_code_is_still_a_tool_error() -> None:
    data = json.dumps({"code": "of_the_future", "message": "m", "retryable": True, "details": {"a": 1}}).encode()
    arrived = exception_of(rpc_error(grpc.StatusCode.ABORTED, ((ERROR_KEY, data),)))
    assert isinstance(arrived, ToolError)
    assert (str(arrived), arrived.retryable, arrived.details) == ("m", True, {"a": 1})


def test_the_documented_table_is_the_table() -> None:
    documented: dict[str, str] = {}
    for line in (status.__doc__ or "").splitlines():
        if line.startswith("| ") and "---" not in line:
            names, code = (cell.strip() for cell in line.strip("|").split("|"))
            documented.update(dict.fromkeys((name.strip() for name in names.split(",")), code))
    assert documented.pop("exception") == "status"
    assert documented.pop("other SandboxError") == "FAILED_PRECONDITION"
    assert documented == {kind.__name__: code.name for kind, code in STATUS.items()}
