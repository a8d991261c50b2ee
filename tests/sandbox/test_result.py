"""What an execution gives back."""

import dataclasses
from typing import Any

import pytest

from runtimes.limits import Limits
from sandbox import Artifact, Event, ExecutionFailed, ExecutionResult, GuestError, Outcome
from sandbox import result as module


def made(outcome: Outcome, **facts: Any) -> ExecutionResult:
    rest: dict[str, Any] = {"profile": "dev", "backend": "mock", "limits": Limits(), "enforced": frozenset()}
    return ExecutionResult(execution_id="id", outcome=outcome, **rest | facts)


ERROR = GuestError("ValueError", "no", line=3)


@pytest.mark.parametrize(
    ("result", "ok", "summary"),
    [
        (made(Outcome.COMPLETED), True, "completed"),
        (made(Outcome.RAISED, error=ERROR), False, "raised: ValueError: no (line 3)"),
        (made(Outcome.EXITED, exit_code=0), True, "exited with code 0"),
        (made(Outcome.EXITED, exit_code=3), False, "exited with code 3"),
        (made(Outcome.TIMED_OUT, error=GuestError("L", "stopped")), False, "timed_out: L: stopped"),
        (made(Outcome.KILLED), False, "killed"),
        (made(Outcome.LIMIT_EXCEEDED), False, "limit_exceeded"),
        (made(Outcome.SUSPENDED), False, "suspended"),
    ],
    ids=lambda one: str(one.outcome) if isinstance(one, ExecutionResult) else "",
)
def test_how_it_ended_in_a_few_words(result: ExecutionResult, ok: bool, summary: str) -> None:
    assert (result.ok, result.summary()) == (ok, summary)
    if ok:
        result.raise_for_outcome()
    else:
        with pytest.raises(ExecutionFailed) as caught:
            result.raise_for_outcome()
        assert str(caught.value) == f"execution id {summary}"
        assert caught.value.result is result


def test_results_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        made(Outcome.RAISED).outcome = Outcome.COMPLETED  # type: ignore[misc]  # frozen, which is the point


def test_a_large_artifact_does_not_fill_the_log() -> None:
    assert repr(Artifact("a", b"x" * 10_000)) == "Artifact(path='a')"


def test_the_documented_events_are_those_there_are() -> None:
    kinds = {
        kind.strip()
        for line in (Event.__doc__ or "").splitlines()
        if line.strip().startswith("| ") and "---" not in line
        for kind in line.split("|")[1].split(",")
    }
    assert kinds - {"kind"} == set(module.EventKind.__args__)  # type: ignore[attr-defined]  # of a Literal
