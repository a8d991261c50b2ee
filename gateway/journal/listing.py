"""Lists of executions: what their records make of them, and pages."""

import math
from dataclasses import replace
from datetime import UTC, datetime

from gateway.errors import InvalidRequest
from gateway.journal.base import ExecutionFilter, ExecutionSummary
from gateway.journal.records import CallStarted, ExecutionFinished, ExecutionStarted, Record

MAX_PAGE = 1000
UNFINISHED = "unfinished"
"""Stands for an outcome in a filter."""

SUSPENDED = "suspended"
"""The outcome of an execution that waits for a person."""


def begun(record: Record) -> ExecutionSummary:
    """An execution of which this is the first record; without a start it is a call of the host itself."""
    found = ExecutionSummary(execution_id=record.execution_id, tenant_id=record.tenant_id, started_at=record.at)
    if not isinstance(record, ExecutionStarted):
        return found
    return replace(
        found,
        language=record.language,
        profile=record.profile,
        backend=record.backend,
        mode=record.mode,
        parent=record.parent,
    )


def gone_on(found: ExecutionSummary, record: Record) -> ExecutionSummary:
    """The execution after this record."""
    match record:
        case CallStarted():
            return replace(found, calls=found.calls + 1)
        case ExecutionStarted():  # it goes on
            return replace(begun(record), started_at=found.started_at, calls=found.calls)
        case ExecutionFinished():
            return replace(found, outcome=record.outcome, ended_at=record.at)
        case _:
            return found


def fits(found: ExecutionSummary, tools: "set[str]", which: ExecutionFilter) -> bool:
    """Whether the filter lets this execution through, which called these tools."""
    return (
        which.tenant_id in (None, found.tenant_id)
        and (which.since is None or found.started_at >= which.since)
        and (which.until is None or found.started_at < which.until)
        and (which.outcome is None or _has_outcome(found, which.outcome))
        and (which.tool_id is None or any(_is_tool(tool, which.tool_id) for tool in tools))
    )


def _has_outcome(found: ExecutionSummary, outcome: str) -> bool:
    if outcome == UNFINISHED:
        return not found.outcome and found.mode != "host"
    return found.outcome == outcome


def _is_tool(tool_id: str, wanted: str) -> bool:
    return tool_id.startswith(wanted[:-1]) if wanted.endswith(":*") else tool_id == wanted


def check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit must be 1 to {MAX_PAGE}, not {limit}")


def check_ttl(ttl_seconds: float) -> None:
    if not 0 < ttl_seconds < math.inf:
        raise InvalidRequest(f"ttl_seconds must be more than 0 and finite, not {ttl_seconds}")


def microseconds(at: datetime) -> int:
    """Since 1970, exactly: how times are kept where they are compared."""
    delta = at - _EPOCH
    return (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds


def at_microseconds(value: int) -> datetime:
    return datetime.fromtimestamp(value // 1_000_000, UTC).replace(microsecond=value % 1_000_000)


def cursor_after(last: ExecutionSummary) -> str:
    return f"{microseconds(last.started_at)}.{last.execution_id}"


def read_cursor(cursor: str) -> tuple[int, str]:
    """Raises InvalidRequest."""
    time, dot, execution_id = cursor.partition(".")
    try:
        return int(time), {".": execution_id}[dot]
    except (ValueError, KeyError):
        raise InvalidRequest("the cursor is none of this list; begin again without a cursor") from None


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
