"""Whose failure was it? Decides an execution's outcome from what the host did and saw, and what the guest said.

Pure. What the host did and saw comes first; the guest's words decide only between endings that it may claim for itself
(completed, raised, exited). A guest that lies about those fools its own caller and nobody else.
"""

import errno
import signal
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from gateway.errors import SandboxLost
from gateway.frames import Finished, FinishedKind, GuestError
from runtimes.base import Ending, Outcome
from runtimes.limits import LimitName

_PARSER = "too complex to parse"
"""Code that nests too deeply for Python's parser is a MemoryError too, with memory to spare."""

_DISK_FULL = f"[Errno {errno.ENOSPC}]"


class Stop(StrEnum):
    """Why the host ended an execution, if it did."""

    DEADLINE = "deadline"
    OUTPUT_FLOOD = "output_flood"
    CALL_FLOOD = "call_flood"
    PROTOCOL = "protocol"
    SUSPENDED = "suspended"
    """A call waits for a person."""
    RECORD_ENDS = "record_ends"
    """A replay came to where the record ends."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an execution ended. `limit` is set for limit_exceeded and timed_out, `exit_code` for exited."""

    outcome: Outcome
    limit: LimitName | str | None = None
    error: GuestError | None = None
    exit_code: int | None = None


def judge(
    *, stop: Stop | None, fault: str, finished: Finished | None, ending: Ending, held: Collection[LimitName]
) -> Verdict:
    """`held` are the limits that were really held. Raise SandboxLost when neither the guest nor the host ended it."""
    if stop is not None:
        return _stopped(stop, fault)
    if finished is not None:
        return _seen(_said(finished, held), ending)
    if ending.limit is not None:
        return Verdict(Outcome.LIMIT_EXCEEDED, ending.limit, _limit_error(ending.limit))
    if ending.lost is not None:
        raise SandboxLost(ending.lost)
    if ending.exit_code is not None:
        return Verdict(Outcome.EXITED, exit_code=ending.exit_code)
    if ending.signal is not None:
        return Verdict(Outcome.KILLED, error=GuestError("Killed", f"the guest was ended by {_name(ending.signal)}"))
    return Verdict(Outcome.KILLED, error=GuestError("Killed", fault or "the guest hung up without a last word"))


def _stopped(stop: Stop, fault: str) -> Verdict:
    match stop:
        case Stop.DEADLINE:
            return Verdict(Outcome.TIMED_OUT, "wall_seconds", _limit_error("wall_seconds"))
        case Stop.OUTPUT_FLOOD:
            return Verdict(Outcome.LIMIT_EXCEEDED, "output_bytes", _limit_error("output_bytes"))
        case Stop.CALL_FLOOD:
            return Verdict(Outcome.LIMIT_EXCEEDED, "tool_calls", _limit_error("tool_calls"))
        case Stop.SUSPENDED | Stop.RECORD_ENDS:
            return Verdict(Outcome.SUSPENDED)
        case Stop.PROTOCOL:
            return Verdict(Outcome.KILLED, error=GuestError("ProtocolError", fault))


def _seen(said: Verdict, ending: Ending) -> Verdict:
    """A guest that did not complete while the host saw it at a limit, one of its processes killed there, say."""
    if said.outcome not in {Outcome.RAISED, Outcome.EXITED} or ending.limit is None:
        return said
    return Verdict(Outcome.LIMIT_EXCEEDED, ending.limit, said.error or _limit_error(ending.limit))


def _said(finished: Finished, held: Collection[LimitName]) -> Verdict:
    match finished.kind:
        case FinishedKind.COMPLETED:
            return Verdict(Outcome.COMPLETED)
        case FinishedKind.EXITED:
            return Verdict(Outcome.EXITED, exit_code=finished.exit_code)
        case FinishedKind.TOO_LARGE:
            return Verdict(Outcome.LIMIT_EXCEEDED, "value_bytes", _limit_error("value_bytes"))
        case FinishedKind.RAISED:
            error = finished.error or GuestError("Exception", "the guest gave no details")
            if "memory_bytes" in held and error.type == "MemoryError" and _PARSER not in error.message:
                return Verdict(Outcome.LIMIT_EXCEEDED, "memory_bytes", error)
            if "disk_bytes" in held and error.type == "OSError" and error.message.startswith(_DISK_FULL):
                return Verdict(Outcome.LIMIT_EXCEEDED, "disk_bytes", error)
            return Verdict(Outcome.RAISED, error=error)


def _limit_error(limit: str) -> GuestError:
    return GuestError("LimitExceeded", f"stopped at limit {limit}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
