"""Recorded calls as they are told again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gateway.approvals import Verdict
from gateway.base import JsonValue
from gateway.errors import ToolError
from gateway.frames import Reply
from gateway.journal.base import ApprovalDecided, CallFinished, CallStarted, Journal, ToolCall
from gateway.operations import decode_error
from gateway.past import Past, PastCall
from gateway.payload import Encoded, encode, normalise

MAX_AHEAD_BYTES = 4 << 20
"""What is given to a guest ahead; the rest it waits for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the guest was told of one call: a value, or an error."""

    value: JsonValue
    error: ToolError | None
    duration_seconds: float


async def answer_of(past: Past, call: PastCall) -> Answer:
    """As it was, when its turn has come. Does not return for a call that was never answered: there the record ends.

    Raises ReplayDiverged, NotRecorded.
    """
    finished = call.finished
    if finished is None or not call.answered:
        await past.never_answered()
        raise AssertionError("unreachable")
    value = None if finished.result is None else json.loads(await past.read(finished.result))
    error = None if finished.error is None else _error(finished.error)
    await past.turn(call)
    return Answer(value, error, finished.duration_seconds)


async def chunks_of(past: Past, call: PastCall) -> tuple[Encoded, ...]:
    """What a streamed call gave, also when it came to no end; when the execution ended first, what it told of it."""
    parts = () if call.finished is None else call.finished.chunks or ()
    chunks = tuple([normalise(chunk) for part in parts for chunk in json.loads(await past.read(part))])
    return chunks if call.answered or call.left else chunks[: sum(read.events for read in call.reads)]


async def answers_ahead(past: Past) -> dict[int, Reply]:
    """What calls will be told, by the ids that their guest will give them: for one that does exactly the same again.

    None where there are streams: each read of one takes an id, and one that is begun again may take fewer of them.
    """
    found: dict[int, Reply] = {}
    if past.has_streams:
        return found
    size_bytes = 0
    for call in past.calls:
        finished = call.finished
        if finished is None or not call.answered or call.started.via != "run_tool" or not call.started.frame:
            continue
        value = None if finished.result is None else await past.read(finished.result)
        error = None if finished.error is None else encode(dict(finished.error))
        size_bytes += len(value or b"") + len(error or b"")
        if size_bytes > MAX_AHEAD_BYTES:
            break
        found[call.started.frame] = Reply(value, error)
    return found


def expired(call: PastCall) -> ApprovalDecided | None:
    """The record of it when nobody decided on the call in time."""
    asked, now = call.requested, datetime.now(UTC)
    if asked is None or asked.expires_at is None or asked.expires_at > now:
        return None
    return ApprovalDecided(
        execution_id=asked.execution_id,
        tenant_id=asked.tenant_id,
        at=now,
        index=asked.index,
        verdict=Verdict.EXPIRED,
    )


def told(call: PastCall) -> ToolCall:
    """The call as results list it, as far as it came. `with_artifacts` comes before."""
    return ToolCall.of(*records_told(call))


def records_told(call: PastCall) -> tuple[CallStarted, CallFinished | None]:
    finished = call.finished if call.answered or call.left else None
    if finished is not None and not call.own:
        finished = replace(finished, artifacts={})
    return call.started, finished


async def with_artifacts(journal: Journal, calls: Sequence[PastCall]) -> Sequence[PastCall]:
    """The same calls; what the tools of this execution's own attached is at hand. Raises NotRecorded."""
    for call in calls:
        finished = call.finished
        if finished is not None and finished.artifacts and call.own:
            named = {name: blob.with_data(await journal.read(blob)) for name, blob in finished.artifacts.items()}
            call.finished = replace(finished, artifacts=named)
    return calls


def _error(told: Mapping[str, JsonValue]) -> ToolError:
    return decode_error(encode(dict(told)))
