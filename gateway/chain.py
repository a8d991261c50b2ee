"""Several tool calls in sequence, over a callable that makes one call."""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.base import MAX_BATCH, CallOutcome, ChainResult, ChainStep, JsonValue
from gateway.errors import BudgetExceeded, InvalidInput, ToolError
from gateway.grant import Grant
from gateway.payload import error_json


class CallTool(Protocol):
    """Makes one call whose budget is reserved already, and gives the reservation back when it refuses the call.

    With `flaw` the call cannot be made: it is recorded as refused, and the flaw raised. Raises ToolError.
    """

    async def __call__(self, tool_id: str, arguments: JsonValue, flaw: ToolError | None = None) -> JsonValue: ...


async def run_chain(steps: Sequence[ChainStep], grant: Grant, call: CallTool) -> ChainResult:
    """Run the steps in order. Raises BudgetExceeded before the first one when the whole chain does not fit."""
    check_batch(len(steps))
    grant.check_chain(len(steps))
    grant.reserve(len(steps))
    outcomes: list[CallOutcome] = []
    unspent = len(steps)
    previous: JsonValue = None
    try:
        for step in steps:
            unspent -= 1
            outcome = await _run_step(step, previous, call)
            outcomes.append(outcome)
            previous = outcome.value
            if step.stop_on_error and not outcome.ok:
                break
    finally:
        grant.release(unspent)
    skipped = [CallOutcome(step.tool_id, ok=False, skipped=True) for step in steps[len(outcomes) :]]
    return ChainResult(previous, (*outcomes, *skipped))


async def outcome_of(call: CallTool, tool_id: str, arguments: JsonValue, flaw: ToolError | None = None) -> CallOutcome:
    """One call as a value, its error too."""
    started = time.perf_counter()
    try:
        value = await call(tool_id, arguments, flaw)
    except ToolError as exc:
        return CallOutcome(tool_id, ok=False, error=error_json(exc), duration_seconds=time.perf_counter() - started)
    return CallOutcome(tool_id, ok=True, value=value, duration_seconds=time.perf_counter() - started)


def check_batch(size: int) -> None:
    """Raise BudgetExceeded when a chain or a batch has more calls than any may have."""
    if size > MAX_BATCH:
        raise BudgetExceeded("batch", MAX_BATCH, size)


async def _run_step(step: ChainStep, previous: JsonValue, call: CallTool) -> CallOutcome:
    arguments = step.arguments
    if not step.use_previous or not isinstance(arguments, Mapping):
        return await outcome_of(call, step.tool_id, arguments)
    if "previous" in arguments:
        flaw = InvalidInput("use_previous passes the argument 'previous', which is given too; leave one of them out")
        return await outcome_of(call, step.tool_id, arguments, flaw)
    return await outcome_of(call, step.tool_id, {**arguments, "previous": previous})
