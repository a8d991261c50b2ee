"""Ends an execution whose calls wait for a person, as soon as nothing else of it is at work."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

SETTLE_SECONDS = 0.05
"""Nothing was asked for and nothing was at work for so long: the guest has come as far as it can."""

GATHER_SECONDS = 0.5
"""Calls that come this long after the first one that waits are not begun: a guest cannot put its end off."""


class Suspension:
    """Of one execution. `on_wait` is called when the first call waits: from then on that is how the execution ends,
    whatever its guest does. `on_suspend` ends it. `deadline`, of `time.monotonic()`, is when it would be ended anyway.
    """

    def __init__(
        self, on_wait: Callable[[], None], on_suspend: Callable[[], None], deadline: float | None = None
    ) -> None:
        self._on_wait = on_wait
        self._on_suspend = on_suspend
        self._deadline = deadline
        self._busy = 0
        self._moved_at = time.monotonic()
        self._waiting_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

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
            await anyio.sleep_forever()

    async def wait_for_person(self) -> None:
        """Does not return: the call that needs a person waits here until the guest is ended. A guest that gives it up
        changes nothing."""
        self._busy -= 1
        self._moved_at = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
            self._on_wait()
            self._look()
        try:
            await anyio.sleep_forever()
        finally:
            self._busy += 1

    def close(self) -> None:
        """The execution is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self._settled():
            self._on_suspend()
        else:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS / 2, self._look)

    def _settled(self) -> bool:
        now = time.monotonic()
        if self._deadline is not None and now > self._deadline - 2 * SETTLE_SECONDS:
            return True
        return self._busy == 0 and now - self._moved_at > SETTLE_SECONDS
