"""Whose failure was it: what the host did and saw comes before what the guest says."""

import signal
from typing import Any

import pytest

from gateway.errors import SandboxLost
from gateway.frames import Finished, FinishedKind, GuestError
from runtimes._failure import Stop, Verdict, judge
from runtimes.base import Ending, Outcome

COMPLETED = Finished(FinishedKind.COMPLETED, 1)
EXITED = Finished(FinishedKind.EXITED, exit_code=3)
TOO_LARGE = Finished(FinishedKind.TOO_LARGE)


NO_SPACE = "[Errno 28] No space left on device"


def raised(kind: str, message: str = "text") -> Finished:
    return Finished(FinishedKind.RAISED, error=GuestError(kind, message, line=2))


def verdict(**facts: Any) -> Verdict:
    nothing: dict[str, Any] = {
        "stop": None,
        "fault": "",
        "finished": None,
        "ending": Ending(),
        "held": {"memory_bytes", "disk_bytes"},
    }
    return judge(**nothing | facts)


@pytest.mark.parametrize(
    ("facts", "outcome", "limit", "exit_code"),
    [
        # What the guest says, when nothing else is known.
        ({"finished": COMPLETED}, Outcome.COMPLETED, None, None),
        ({"finished": EXITED}, Outcome.EXITED, None, 3),
        ({"finished": TOO_LARGE}, Outcome.LIMIT_EXCEEDED, "value_bytes", None),
        ({"finished": raised("ValueError")}, Outcome.RAISED, None, None),
        ({"finished": Finished(FinishedKind.RAISED)}, Outcome.RAISED, None, None),
        # Memory: an exception of that name counts only where memory is held.
        ({"finished": raised("MemoryError")}, Outcome.LIMIT_EXCEEDED, "memory_bytes", None),
        ({"finished": raised("MemoryError"), "held": {"disk_bytes"}}, Outcome.RAISED, None, None),
        ({"finished": raised("MyMemoryError")}, Outcome.RAISED, None, None),
        ({"finished": raised("TimeoutError")}, Outcome.RAISED, None, None),
        ({"finished": raised("LimitExceeded")}, Outcome.RAISED, None, None),
        # Disk likewise.
        ({"finished": raised("OSError", NO_SPACE)}, Outcome.LIMIT_EXCEEDED, "disk_bytes", None),
        ({"finished": raised("OSError", NO_SPACE), "held": {"memory_bytes"}}, Outcome.RAISED, None, None),
        ({"finished": raised("OSError", f"not {NO_SPACE}")}, Outcome.RAISED, None, None),
        ({"finished": raised("MyError", NO_SPACE)}, Outcome.RAISED, None, None),
        # A limit that the host saw reached explains an ending that is not a good one.
        (
            {"finished": raised("CalledProcessError"), "ending": Ending(limit="memory_bytes")},
            Outcome.LIMIT_EXCEEDED,
            "memory_bytes",
            None,
        ),
        ({"finished": EXITED, "ending": Ending(limit="memory_bytes")}, Outcome.LIMIT_EXCEEDED, "memory_bytes", None),
        ({"finished": COMPLETED, "ending": Ending(limit="memory_bytes")}, Outcome.COMPLETED, None, None),
        # What the host did comes first.
        ({"stop": Stop.DEADLINE}, Outcome.TIMED_OUT, "wall_seconds", None),
        ({"stop": Stop.DEADLINE, "ending": Ending(signal=9)}, Outcome.TIMED_OUT, "wall_seconds", None),
        ({"stop": Stop.DEADLINE, "ending": Ending(lost="gone")}, Outcome.TIMED_OUT, "wall_seconds", None),
        ({"stop": Stop.OUTPUT_FLOOD, "finished": COMPLETED}, Outcome.LIMIT_EXCEEDED, "output_bytes", None),
        ({"stop": Stop.CALL_FLOOD, "finished": COMPLETED}, Outcome.LIMIT_EXCEEDED, "tool_calls", None),
        ({"stop": Stop.PROTOCOL, "finished": COMPLETED, "fault": "bad frame"}, Outcome.KILLED, None, None),
        # What the host saw, when the guest said nothing.
        ({"ending": Ending(limit="cpu_seconds")}, Outcome.LIMIT_EXCEEDED, "cpu_seconds", None),
        ({"ending": Ending(exit_code=0)}, Outcome.EXITED, None, 0),
        ({"ending": Ending(exit_code=7)}, Outcome.EXITED, None, 7),
        ({"ending": Ending(signal=signal.SIGSEGV)}, Outcome.KILLED, None, None),
        # A guest that sends itself SIGTERM was not timed out.
        ({"ending": Ending(signal=signal.SIGTERM)}, Outcome.KILLED, None, None),
        ({"ending": Ending(signal=signal.SIGKILL)}, Outcome.KILLED, None, None),
        ({}, Outcome.KILLED, None, None),
    ],
)
def test_the_table(facts: dict[str, Any], outcome: Outcome, limit: str | None, exit_code: int | None) -> None:
    found = verdict(**facts)
    assert (found.outcome, found.limit, found.exit_code) == (outcome, limit, exit_code)
    assert (found.error is None) == (outcome in {Outcome.COMPLETED, Outcome.EXITED})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"ending": Ending(signal=signal.SIGSEGV)}, "ended by SIGSEGV"),
        ({"ending": Ending(signal=99)}, "ended by signal 99"),
        ({"stop": Stop.PROTOCOL, "fault": "bad frame"}, "bad frame"),
        ({"stop": Stop.DEADLINE}, "stopped at limit wall_seconds"),
        ({}, "hung up without a last word"),
        ({"finished": Finished(FinishedKind.RAISED)}, "no details"),
    ],
)
def test_the_error_says_what_happened(facts: dict[str, Any], message: str) -> None:
    error = verdict(**facts).error
    assert error is not None
    assert message in error.message


def test_a_sandbox_that_died_under_its_guest_is_lost() -> None:
    with pytest.raises(SandboxLost, match="the worker died; the snippet may be run again") as caught:
        verdict(ending=Ending(lost="the worker died"))
    assert caught.value.retryable


def test_a_sandbox_that_died_after_the_guest_had_finished_is_not() -> None:
    assert verdict(ending=Ending(lost="the worker died"), finished=COMPLETED).outcome is Outcome.COMPLETED


@pytest.mark.parametrize("stop", Stop)
@pytest.mark.parametrize("finished", [None, COMPLETED, EXITED, TOO_LARGE, raised("MemoryError")])
def test_every_way_of_stopping_has_a_verdict(stop: Stop, finished: Finished | None) -> None:
    assert verdict(stop=stop, finished=finished).outcome in {
        Outcome.TIMED_OUT,
        Outcome.LIMIT_EXCEEDED,
        Outcome.KILLED,
        Outcome.SUSPENDED,
    }
