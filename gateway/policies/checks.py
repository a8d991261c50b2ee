"""What configs of policies have in common to check, and the codes of errors that no policy reads anything into."""

import math
from collections.abc import Collection, Iterable

from gateway import errors
from gateway.errors import InvalidRequest

FINAL_CODES = frozenset(
    refusal.code
    for refusal in (
        errors.InvalidToolId,
        errors.InvalidCursor,
        errors.ToolNotFound,
        errors.ToolDenied,
        errors.Unauthorized,
        errors.PermissionMissing,
        errors.RoleDenied,
        errors.ApprovalRejected,
        errors.EgressDenied,
        errors.InvalidInput,
        errors.CircuitOpen,
        errors.CallInProgress,
        errors.IdempotencyConflict,
        errors.BudgetExceeded,
        errors.DeadlineExceeded,
    )
)
"""The call was refused: trying again changes nothing, and it says nothing of the tool's health."""


def check_count(name: str, value: object, *, most: int | None = None) -> None:
    """Raise InvalidRequest unless it is a whole number from 1, and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        bounds = "at least 1" if most is None else f"1 to {most}"
        raise InvalidRequest(f"{name} must be a whole number, {bounds}, not {value!r}")


def check_number(name: str, value: object, *, least: float = 0.0, most: float | None = None) -> None:
    """Raise InvalidRequest unless it is a finite number, at least `least` and at most `most`."""
    number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else value
    if not (math.isfinite(number) and number >= least and (most is None or number <= most)):
        bounds = f"at least {least:g}" if most is None else f"{least:g} to {most:g}"
        raise InvalidRequest(f"{name} must be a number, {bounds}, not {value!r}")


def check_seconds(name: str, value: object) -> None:
    """Raise InvalidRequest unless it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidRequest(f"{name} must be a number of seconds above 0, not {value!r}")


def checked_codes(name: str, codes: Iterable[str], never: Collection[str]) -> frozenset[str]:
    """Codes of errors as a set. Raises InvalidRequest for none, for one text, and for those that are `never` meant."""
    found = frozenset(() if isinstance(codes, str) else codes)
    if not found or not all(isinstance(code, str) for code in found):
        raise InvalidRequest(f'{name} must be several codes of errors, such as ["timeout"], not {codes!r}')
    if wrong := ", ".join(sorted(found & frozenset(never))):
        raise InvalidRequest(f"{name} may not have {wrong}: it says that a call was refused, not that the tool failed")
    return found
