"""Records for others: the ledger as lines of JSON that anybody can verify, executions as OpenTelemetry traces."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from gateway.base import JsonValue
from gateway.journal.base import (
    Blob,
    CallFinished,
    CallStarted,
    CallStatus,
    ExecutionFinished,
    ExecutionStarted,
    Journal,
    Link,
    Record,
    ToolCall,
)
from gateway.journal.codec import references
from gateway.journal.ledger import GENESIS

SERVICE = "toolexec"


def calls_of(records: Iterable[Record]) -> tuple[ToolCall, ...]:
    """The calls that these records tell of. Values that are kept apart are {truncated: true, bytes}."""
    found: dict[int, ToolCall] = {}
    for record in records:
        if isinstance(record, CallStarted):
            found[record.index] = _begun(record)
        elif isinstance(record, CallFinished) and record.index in found:
            found[record.index] = _over(found[record.index], record)
    return tuple(found[index] for index in sorted(found))


async def ledger_lines(
    journal: Journal, *, tenant_id: str | None = None, execution_id: str | None = None, blobs: bool = False
) -> AsyncIterator[dict[str, Any]]:
    """One object for each record of these, in the order of the chains: {tenant, sequence, previous, content_sha256,
    hash, execution_id, kind, content}. `previous` is null where the record before it is gone, `content` where it was
    deleted itself. With `blobs`, data that records hold by digest follows the first of them, {sha256, base64}."""
    seen: set[str] = set()
    async for link, previous in _chained(journal, tenant_id):
        if tenant_id not in (None, link.tenant_id) or execution_id not in (None, link.execution_id):
            continue
        content = None if link.content is None else json.loads(link.content)
        yield {
            "tenant": link.tenant_id,
            "sequence": link.sequence,
            "previous": previous,
            "content_sha256": link.content_sha256,
            "hash": link.hash,
            "execution_id": link.execution_id,
            "kind": link.kind,
            "content": content,
        }
        for digest in references(content) if blobs else ():
            if digest not in seen:
                seen.add(digest)
                data = await journal.read(Blob(digest, 0))
                yield {"sha256": digest, "base64": base64.b64encode(data).decode()}


def trace_of(records: Sequence[Record]) -> dict[str, Any]:
    """One execution as a trace in OTLP's JSON, as collectors read it from files: a span for it and one for each call.

    Arguments, results and output are not in it. A call of the host itself is a trace of its own. Empty for no records.
    """
    started = next((record for record in records if isinstance(record, ExecutionStarted)), None)
    if started is None:
        calls = calls_of(records)
        return (
            _trace([_call_span(_trace_id(records[0]), "", records[0].execution_id, call) for call in calls])
            if calls
            else {}
        )
    finished = next((record for record in reversed(records) if isinstance(record, ExecutionFinished)), None)
    trace_id = _trace_id(started)
    root = _span_id(started.execution_id, "")
    last = finished.at if finished is not None else records[-1].at
    outcome = "" if finished is None else finished.outcome
    facts = {
        "toolexec.execution_id": started.execution_id,
        "toolexec.tenant_id": started.tenant_id,
        "toolexec.profile": started.profile,
        "toolexec.backend": started.backend,
        "toolexec.language": started.language,
        "toolexec.mode": str(started.mode),
        "toolexec.outcome": outcome or "unfinished",
    }
    spans = [_span(trace_id, root, "", "execute_code", started.at, last, facts, failed=outcome != "completed")]
    spans += [_call_span(trace_id, root, started.execution_id, call) for call in calls_of(records)]
    return _trace(spans)


def _trace(spans: list[dict[str, Any]]) -> dict[str, Any]:
    resource = {"attributes": _attributes({"service.name": SERVICE})}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": SERVICE}, "spans": spans}]}]}


async def _chained(journal: Journal, tenant_id: str | None) -> AsyncIterator[tuple[Link, str | None]]:
    """Each link with the hash of the one before it; of one tenant, None for all."""
    place = ("" if tenant_id is None else tenant_id, 0)
    last: Link | None = None
    while links := await journal.links(place):
        for link in links:
            if tenant_id is not None and link.tenant_id != tenant_id:
                return
            follows = last is not None and (last.tenant_id, last.sequence + 1) == (link.tenant_id, link.sequence)
            yield link, GENESIS if link.sequence == 1 else last.hash if follows and last is not None else None
            last = link
        place = (links[-1].tenant_id, links[-1].sequence)


def _begun(record: CallStarted) -> ToolCall:
    return ToolCall(
        index=record.index,
        tool_id=record.tool_id,
        arguments=_value(record.arguments),
        status=None,
        result=None,
        error=None,
        started_at=record.at,
        duration_seconds=0.0,
        attempts=0,
        via=record.via,
        site=record.site,
        key=record.key,
        warnings=record.warnings,
    )


def _over(call: ToolCall, record: CallFinished) -> ToolCall:
    result = None if record.result is None else _value(record.result)
    if record.chunks is not None and record.status is CallStatus.COMPLETED:
        parts = [_value(part) for part in record.chunks]
        whole = all(isinstance(part, list) for part in parts)
        result = [item for part in parts for item in part] if whole else {"truncated": True, "bytes": _size(record)}
    return ToolCall(
        index=call.index,
        tool_id=call.tool_id,
        arguments=call.arguments,
        status=record.status,
        result=result,
        error=record.error,
        started_at=call.started_at,
        duration_seconds=record.duration_seconds,
        attempts=record.attempts,
        via=call.via,
        site=call.site,
        key=call.key,
        usage=record.usage,
        warnings=call.warnings,
    )


def _value(blob: Blob) -> JsonValue:
    return {"truncated": True, "bytes": blob.size_bytes} if blob.data is None else blob.as_json()


def _size(record: CallFinished) -> int:
    return sum(part.size_bytes for part in record.chunks or ())


def _trace_id(first: Record) -> str:
    """The caller's, when it is one; the execution's own otherwise."""
    given = str(first.caller.get("trace_id", "")) if isinstance(first, ExecutionStarted) else ""
    is_one = len(given) == 32 and all(char in "0123456789abcdef" for char in given) and set(given) != {"0"}
    return given if is_one else hashlib.sha256(first.execution_id.encode()).hexdigest()[:32]


def _span_id(execution_id: str, name: str) -> str:
    return hashlib.sha256(f"{execution_id}/{name}".encode()).hexdigest()[:16]


def _call_span(trace_id: str, root: str, execution_id: str, call: ToolCall) -> dict[str, Any]:
    facts = {
        "toolexec.call.index": call.index,
        "toolexec.call.tool_id": call.tool_id,
        "toolexec.call.status": str(call.status or "unfinished"),
        "toolexec.call.attempts": call.attempts,
        "toolexec.call.error": "" if call.error is None else str(call.error.get("code", "")),
    }
    ended_at = call.started_at + timedelta(seconds=call.duration_seconds)
    span_id = _span_id(execution_id, str(call.index))
    failed = call.status is not CallStatus.COMPLETED
    return _span(trace_id, span_id, root, f"tool {call.tool_id}", call.started_at, ended_at, facts, failed=failed)


def _span(
    trace_id: str,
    span_id: str,
    parent: str,
    name: str,
    start: datetime,
    end: datetime,
    facts: dict[str, Any],
    *,
    failed: bool,
) -> dict[str, Any]:
    return {
        "traceId": trace_id,
        "spanId": span_id,
        "parentSpanId": parent,
        "name": name,
        "kind": 1,
        "startTimeUnixNano": _nanoseconds(start),
        "endTimeUnixNano": _nanoseconds(end),
        "attributes": _attributes(facts),
        "status": {"code": 2 if failed else 1},
    }


def _nanoseconds(at: datetime) -> str:
    """As text, which is how OTLP's JSON has 64-bit integers."""
    return str(round(at.timestamp() * 1_000_000) * 1000)


def _attributes(facts: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in facts.items()
        if value != ""
    ]
