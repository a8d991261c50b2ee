"""Several tool calls in sequence, over a callable that makes one call."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.base import MAX_BATCH, CallOutcome, ChainResult, ChainStep, JsonValue
from gateway.errors import BudgetExceeded, InvalidInput, ToolError, ToolTimeout
from gateway.grant import Grant
from gateway.payload import error_json, printable

NO_TIME = 0.0
"""The timeout of a call that is not made because its chain's or batch's time is up."""

MAX_ID_TEXT = 400
"""Characters of a tool's id, or of what was asked for as one, that are told and recorded."""


@dataclass(slots=True)
class Took:
    """How long a call took, as its record says."""

    seconds: float = 0.0


class CallTool(Protocol):
    """Makes one call whose budget is reserved already, and gives the reservation back when it refuses the call.

    With `flaw` the call cannot be made: it is recorded as refused, and the flaw raised. `position` is its own among the
    calls of a chain or a batch. Raises ToolError.
    """

    async def __call__(
        self,
        tool_id: str,
        arguments: JsonValue,
        *,
        position: int,
        took: Took,
        flaw: ToolError | None = None,
        timeout_seconds: float | None = None,
    ) -> JsonValue: ...


class Watcher(Protocol):
    """Follows a chain."""

    async def wanted(self) -> None:
        """Wait until the next step may begin."""

    async def ended(self, outcome: CallOutcome) -> None:
        """A step has ended, or was skipped. In their order."""


class Time:
    """What is left of a chain's or a batch's own time."""

    def __init__(self, seconds: float | None) -> None:
        check_timeout(seconds)
        self.seconds = seconds
        self._ends = None if seconds is None else time.monotonic() + seconds

    def bound(self, asked_seconds: float | None) -> float | None:
        """What one call may take that asked for `asked_seconds`; 0 or less when nothing is left."""
        if self._ends is None:
            return asked_seconds
        left = self._ends - time.monotonic()
        return left if asked_seconds is None else min(left, asked_seconds)


async def run_chain(
    steps: Sequence[ChainStep], grant: Grant, call: CallTool, bounds: Time, watcher: Watcher | None = None
) -> ChainResult:
    """Run the steps in order. Raises BudgetExceeded before the first one when the whole chain does not fit."""
    check_batch(len(steps))
    for step in steps:
        check_timeout(step.timeout_seconds)
    grant.check_chain(len(steps))
    grant.reserve(len(steps))
    outcomes: list[CallOutcome] = []
    unspent = len(steps)
    try:
        for step in steps:
            if watcher is not None:
                await watcher.wanted()
            unspent -= 1
            outcome = await _run_step(step, outcomes, call, bounds)
            outcomes.append(outcome)
            if watcher is not None:
                await watcher.ended(outcome)
            # Not by the clock: that a step came too late is recorded, and the same in a replay.
            if not outcome.ok and (step.stop_on_error or _came_too_late(outcome)):
                break
    finally:
        grant.release(unspent)
    skipped = [CallOutcome(step.tool_id, ok=False, skipped=True) for step in steps[len(outcomes) :]]
    if watcher is not None:
        for outcome in skipped:
            await watcher.ended(outcome)
    return ChainResult(outcomes[-1].value if outcomes else None, (*outcomes, *skipped))


async def outcome_of(
    call: CallTool,
    tool_id: str,
    arguments: JsonValue,
    *,
    position: int,
    flaw: ToolError | None,
    timeout_seconds: float | None,
) -> CallOutcome:
    """One call as a value, its error too."""
    took = Took()
    if flaw is None and timeout_seconds is not None and timeout_seconds <= 0:
        flaw, timeout_seconds = ToolTimeout(tool_id, NO_TIME), None
    try:
        value = await call(tool_id, arguments, position=position, took=took, flaw=flaw, timeout_seconds=timeout_seconds)
    except ToolError as exc:
        return CallOutcome(tool_id, ok=False, error=error_json(exc), duration_seconds=took.seconds)
    return CallOutcome(tool_id, ok=True, value=value, duration_seconds=took.seconds)


def _came_too_late(outcome: CallOutcome) -> bool:
    """Whether it was refused, because no time was left for it."""
    error = outcome.error or {}
    return error.get("code") == ToolTimeout.code and error.get("details") == {"timeout_seconds": NO_TIME}


def step_json(outcome: CallOutcome) -> dict[str, JsonValue]:
    """A step as guests see it."""
    return outcome_json(outcome) | {"skipped": outcome.skipped}


def outcome_json(outcome: CallOutcome) -> dict[str, JsonValue]:
    """A call of a batch as guests see it."""
    return {
        "tool_id": printable(outcome.tool_id, MAX_ID_TEXT),
        "ok": outcome.ok,
        "value": outcome.value,
        "error": outcome.error,
        "duration_seconds": outcome.duration_seconds,
    }


def check_batch(size: int) -> None:
    """Raise BudgetExceeded when a chain or a batch has more calls than any may have."""
    if size > MAX_BATCH:
        raise BudgetExceeded("batch", MAX_BATCH, size)


def check_timeout(seconds: float | None) -> None:
    """Raise InvalidInput unless it is None or a time to wait."""
    if seconds is not None and not seconds > 0:
        raise InvalidInput(f"timeout_seconds must be above 0, not {seconds}; leave it out for no bound of your own")


async def _run_step(step: ChainStep, before: Sequence[CallOutcome], call: CallTool, bounds: Time) -> CallOutcome:
    arguments, flaw = step.arguments, None
    try:
        if isinstance(arguments, Mapping):
            arguments = {**arguments, **_taken(step, before)}
    except InvalidInput as exc:
        flaw = exc
    return await outcome_of(
        call,
        step.tool_id,
        arguments,
        position=len(before),
        flaw=flaw,
        timeout_seconds=bounds.bound(step.timeout_seconds),
    )


def _taken(step: ChainStep, before: Sequence[CallOutcome]) -> dict[str, JsonValue]:
    """The arguments that come from earlier results."""
    previous = before[-1].value if before else None
    taken: dict[str, JsonValue] = {"previous": previous} if step.use_previous else {}
    if step.mapping:
        results = {"previous": previous, "steps": [outcome.value for outcome in before]}
        taken |= {name: pointed(results, pointer) for name, pointer in step.mapping.items()}
    for name in taken.keys() & step.arguments.keys():
        raise InvalidInput(f"the argument {name!r} is given, and taken from earlier results too; leave one of them out")
    return taken


def pointed(document: JsonValue, pointer: str) -> JsonValue:
    """What a JSON Pointer leads to. Raises InvalidInput."""
    if pointer and not pointer.startswith("/"):
        raise InvalidInput(f"{pointer[:100]!r} is no JSON Pointer: it must begin with /, as in /previous/id")
    node = document
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isascii() and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            raise InvalidInput(f"{pointer[:100]!r} leads nowhere in the earlier results: there is no {key[:50]!r}")
    return node
