"""A process that is not our child, held by a descriptor: it cannot be mistaken for a later one with its number."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio


class HeldProcess:
    """Belongs to the running event loop. `on_end` is called from the loop as soon as the process is gone.

    `ended` is set then, or when it was let go of before: in either case there is nothing more to wait for.
    """

    def __init__(self, pid: int, on_end: Callable[[], None]) -> None:
        """Raises ProcessLookupError if it is gone."""
        self.pid = pid
        self.ended = anyio.Event()
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(pid)
        self._loop.add_reader(self._pidfd, self._end)

    def kill(self) -> None:
        """SIGKILL; nothing if it ended. Raises PermissionError where it is not ours to kill."""
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of it, ended or not. Idempotent."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self.ended.set()

    def _end(self) -> None:
        self.close()
        self._on_end()


def first_child(pid: int) -> int | None:
    """The oldest child of a process, None if there is none or this kernel does not tell."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def is_leaving(pid: int) -> bool:
    """Whether a process is gone, or as good as gone: its memory goes before its sockets do."""
    try:
        return Path(f"/proc/{pid}/statm").read_text().startswith("0 ")
    except OSError:
        return True
