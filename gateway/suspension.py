"""Ends an execution whose calls wait for a person, as soon as nothing else of it is at work."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

SETTLE_SECONDS = 0.05
"""Nothing was asked for and nothing was at work for so long: the guest has come as far as it can."""

GATHER_SECONDS = 0.5
"""Calls that come this long after the first one that waits are not begun: a guest cannot put its end off."""


class Suspension:
    """Of one execution. `on_suspend` ends it; it may be called more than once. `deadline`, of `time.monotonic()`, is
    when the execution would be ended anyway."""

    def __init__(self, on_suspend: Callable[[], None], deadline: float | None = None) -> None:
        self.fired = False
        self._on_suspend = on_suspend
        self._deadline = deadline
        self._busy = 0
        self._moved_at = time.monotonic()
        self._waiting_since: float | None = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """A call is at work."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._moved_at = time.monotonic()

    async def admit(self) -> None:
        """Does not return for a call that comes too late to be begun."""
        if self._waiting_since is not None and time.monotonic() - self._waiting_since > GATHER_SECONDS:
            await self._end_when_settled()

    async def wait_for_person(self) -> None:
        """Does not return: the call that needs a person waits here until the guest is ended."""
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        self._busy -= 1
        self._moved_at = time.monotonic()
        try:
            await self._end_when_settled()
        finally:
            self._busy += 1

    async def _end_when_settled(self) -> None:
        while not self._settled():  # noqa: ASYNC110 - it is time that has to pass
            await anyio.sleep(SETTLE_SECONDS / 2)
        self.fired = True
        self._on_suspend()
        await anyio.sleep_forever()

    def _settled(self) -> bool:
        now = time.monotonic()
        if self._deadline is not None and now > self._deadline - 2 * SETTLE_SECONDS:
            return True
        return self._busy == 0 and now - self._moved_at > SETTLE_SECONDS
