"""Independent tool calls at the same time, over a callable that makes one call."""

from collections.abc import Sequence

import anyio

from gateway.base import CallOutcome, ParallelCall
from gateway.chain import CallTool, check_batch, outcome_of
from gateway.grant import Grant

MAX_IN_FLIGHT = 32
"""Most calls of one batch that are under way at the same time."""


async def run_parallel(calls: Sequence[ParallelCall], grant: Grant, call: CallTool) -> tuple[CallOutcome, ...]:
    """One outcome per call, in order. Raises BudgetExceeded before the first call when the batch does not fit."""
    check_batch(len(calls))
    grant.reserve(len(calls))
    batch = _Batch(calls, call)
    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(min(MAX_IN_FLIGHT, len(calls))):
                tasks.start_soon(batch.work)
    except ExceptionGroup as group:
        # Tools fail by value; this is the host's failure (a journal that does not write), the same as without a batch.
        raise group.exceptions[0] from group
    finally:
        grant.release(batch.unspent)
    return tuple(batch.outcomes[index] for index in range(len(calls)))


class _Batch:
    """The calls of one batch; every worker takes the next one until none is left."""

    def __init__(self, calls: Sequence[ParallelCall], call: CallTool) -> None:
        self._waiting = iter(enumerate(calls))
        self._call = call
        self.unspent = len(calls)
        self.outcomes: dict[int, CallOutcome] = {}

    async def work(self) -> None:
        for index, item in self._waiting:
            self.unspent -= 1
            self.outcomes[index] = await outcome_of(self._call, item.tool_id, item.arguments)
