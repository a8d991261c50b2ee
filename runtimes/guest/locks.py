"""Waiting in a guest without threads: nobody else can wake it, so what waits there sleeps until its time is up.

Left alone, WebAssembly's libc gives up at once: a wait with a timeout ends too early, and one without aborts.
"""

import os
import queue
import select
import selectors
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

FOREVER_SECONDS = 1e9


class Lock:
    """`threading.Lock` for one thread."""

    def __init__(self) -> None:
        self._locked = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - as threading has it
        if not self._locked:
            self._locked = True
            return True
        if not blocking:
            if timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            return False
        if timeout < 0 and timeout != -1:
            raise ValueError("timeout value must be a non-negative number")
        time.sleep(FOREVER_SECONDS if timeout < 0 else timeout)
        return False

    def release(self) -> None:
        if not self._locked:
            raise RuntimeError("release unlocked lock")
        self._locked = False

    def locked(self) -> bool:
        return self._locked

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        self._locked = False


def select_asleep(rlist: Any, wlist: Any, xlist: Any, timeout: float | None = None) -> Any:
    """`select.select`, asleep in the host: a file is always ready, and there is nothing but files."""
    ready: tuple[list[Any], list[Any], list[Any]] = ([*rlist], [*wlist], [])
    for item in (*ready[0], *ready[1], *xlist):
        os.fstat(item if isinstance(item, int) else item.fileno())
    if not any(ready):
        time.sleep(FOREVER_SECONDS if timeout is None else max(0.0, timeout))
    return ready


def install() -> None:
    """Put these in the place of the standard library's. `time.sleep` must be the guest's own already."""
    replaced: dict[tuple[Any, str], Callable[..., Any]] = {
        (threading, "Lock"): Lock,
        (threading, "_allocate_lock"): Lock,
        (queue, "SimpleQueue"): queue._PySimpleQueue,  # type: ignore[attr-defined]  # the one that waits on our locks
        (select, "select"): select_asleep,
        (selectors.SelectSelector, "_select"): staticmethod(select_asleep),
    }
    for (owner, name), replacement in replaced.items():
        setattr(owner, name, replacement)
    _without_poll()


def _without_poll() -> None:
    """`select.poll` would wait where nothing interrupts it; without it the standard library uses `select.select`."""
    for owner, name in ((select, "poll"), (selectors, "PollSelector")):
        if hasattr(owner, name):
            delattr(owner, name)
    setattr(selectors, "DefaultSelector", selectors.SelectSelector)  # noqa: B010 - to mypy it is a class, not a choice
