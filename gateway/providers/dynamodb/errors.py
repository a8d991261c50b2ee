"""What aiobotocore raises, as errors of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore import exceptions

from gateway.errors import InvalidInput, ToolFailed, ToolUnavailable

_LATER = frozenset(
    {
        "InternalServerError",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ThrottlingException",
        "TransactionInProgressException",
    }
)
"""Error codes of DynamoDB that say: the same request may work later."""

_CONFLICTS = frozenset({"ThrottlingError", "TransactionConflict", "ProvisionedThroughputExceeded"})
"""Reasons of a cancelled transaction that say the same."""

_UNREACHABLE = (
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    exceptions.EndpointConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.ReadTimeoutError,
)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Within, what the client raises becomes InvalidInput, ToolUnavailable or ToolFailed."""
    try:
        yield
    except exceptions.ClientError as exc:
        raise _error(what, exc.response) from exc
    except _UNREACHABLE as exc:
        raise ToolUnavailable(what, type(exc).__name__) from exc
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as exc:
        raise ToolFailed(f"{what} has no credentials; give access_key_id and secret_access_key") from exc
    except exceptions.BotoCoreError as exc:
        raise ToolFailed(f"{what}: {type(exc).__name__}", details={"type": type(exc).__name__}) from exc


def _error(what: str, response: Any) -> InvalidInput | ToolUnavailable | ToolFailed:
    error = response.get("Error", {})
    code, message = str(error.get("Code", "Unknown")), str(error.get("Message", ""))[:500]
    if code in _LATER:
        return ToolUnavailable(what, code)
    if code == "ValidationException":
        return InvalidInput(f"{what}: {message}", details={"type": code})
    details: dict[str, Any] = {"type": code}
    retryable = False
    if reasons := response.get("CancellationReasons"):
        details["reasons"] = [str(reason.get("Code", "None")) for reason in reasons]
        failed = {reason for reason in details["reasons"] if reason != "None"}
        retryable = bool(failed) and failed <= _CONFLICTS
    return ToolFailed(f"{what}: {code}: {message}", details=details, retryable=retryable)
