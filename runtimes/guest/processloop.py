"""An event loop for guests that are processes: like asyncio's own, but a deadlock is an error at once."""

import asyncio
import selectors
import threading
from collections.abc import Callable
from typing import Any


class WatchfulSelector(selectors.DefaultSelector):
    """Refuses to wait for ever for what cannot come.

    Something can come while a tool call is under way, a file other than the loop's own is watched, or a thread that the
    snippet started is alive.
    """

    def __init__(self, pending: "Pending") -> None:
        super().__init__()
        self._pending = pending

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None and len(self.get_map()) <= 1 and not self._pending.anything():
            raise RuntimeError("deadlock: every task waits, and nothing is left that could wake one")
        return super().select(timeout)


class Pending:
    """What the guest's loops may be waiting for."""

    def __init__(self) -> None:
        self.calls = 0
        self.on_loop: Callable[[asyncio.AbstractEventLoop], None] = lambda _loop: None
        self._threads = frozenset(threading.enumerate())

    def anything(self) -> bool:
        return self.calls > 0 or not self._threads.issuperset(threading.enumerate())

    def new_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop(WatchfulSelector(self))
        self.on_loop(loop)
        return loop
