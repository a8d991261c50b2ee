"""Tool calls at the same time, over a callable that makes one call. Writes to one resource keep their order."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import anyio

from gateway.base import CallOutcome, ParallelCall
from gateway.chain import CallTool, Time, check_batch, check_timeout, outcome_of
from gateway.errors import InvalidInput
from gateway.grant import Grant

MAX_IN_FLIGHT = 32
"""Most calls of one batch that are under way at the same time."""


class Access(NamedTuple):
    """Which resource a call uses, and whether it may change it."""

    resource: str
    writes: bool


async def run_parallel(
    calls: Sequence[ParallelCall],
    grant: Grant,
    call: CallTool,
    access: Callable[[ParallelCall], Access | None],
    bounds: Time,
    max_concurrent: int | None = None,
) -> tuple[CallOutcome, ...]:
    """One outcome per call, in order. `access` is None for a call that will be refused.

    Raises BudgetExceeded before the first call when the batch does not fit, InvalidInput for a bound out of range.
    """
    check_batch(len(calls))
    check_concurrent(max_concurrent)
    for item in calls:
        check_timeout(item.timeout_seconds)
    grant.reserve(len(calls))
    batch = _Batch(calls, call, access, bounds)
    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(min(max_concurrent or MAX_IN_FLIGHT, len(calls))):
                tasks.start_soon(batch.work)
    except ExceptionGroup as group:
        # Tools fail by value; this is the host's failure (a journal that does not write), the same as without a batch.
        raise group.exceptions[0] from group
    finally:
        grant.release(batch.unspent)
    return tuple(batch.outcomes[index] for index in range(len(calls)))


def check_concurrent(calls: int | None) -> None:
    """Raise InvalidInput unless so many calls of a batch may be under way at once."""
    if calls is not None and not 1 <= calls <= MAX_IN_FLIGHT:
        raise InvalidInput(f"max_concurrent must be 1 to {MAX_IN_FLIGHT}, not {calls}")


class _Batch:
    """The calls of one batch; every worker takes the next one until none is left."""

    def __init__(
        self,
        calls: Sequence[ParallelCall],
        call: CallTool,
        access: Callable[[ParallelCall], Access | None],
        bounds: Time,
    ) -> None:
        self._waiting = iter(enumerate(calls))
        self._call = call
        self._access = access
        self._bounds = bounds
        self._order = _Order()
        self.unspent = len(calls)
        self.outcomes: dict[int, CallOutcome] = {}

    async def work(self) -> None:
        for index, item in self._waiting:
            before, ended = self._order.join(self._access(item))
            for other in before:
                await other.wait()
            self.unspent -= 1
            bound = self._bounds.bound(item.timeout_seconds)
            self.outcomes[index] = await outcome_of(
                self._call, item.tool_id, item.arguments, position=index, flaw=None, timeout_seconds=bound
            )
            ended.set()


class _Order:
    """Who must wait for whom. Calls join in their order and wait for earlier ones only, so somebody can go on."""

    def __init__(self) -> None:
        self._writes: dict[str, anyio.Event] = {}
        self._reads: dict[str, list[anyio.Event]] = {}

    def join(self, access: Access | None) -> tuple[list[anyio.Event], anyio.Event]:
        """The ends to wait for, and the call's own end."""
        ended = anyio.Event()
        if access is None:
            return [], ended
        before = [self._writes[access.resource]] if access.resource in self._writes else []
        if access.writes:
            before += self._reads.pop(access.resource, [])
            self._writes[access.resource] = ended
        else:
            self._reads.setdefault(access.resource, []).append(ended)
        return before, ended
