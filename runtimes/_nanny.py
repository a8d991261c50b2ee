"""Stands between host and guest process: gathers whatever the guest starts, and ends all of it.

The nanny is the reaper of everything below it, so a grandchild that left its session still has the nanny for a parent
in the end. It ends the whole tree when the guest ends, when the host says so (SIGTERM), and when the host dies; then
it ends as the guest did. SIGTERM is its own ending when it was told to kill a guest that was alive.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from runtimes.guest import agent

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

PATIENCE_SECONDS = 5.0
"""How long a tree that forks as fast as it is killed is fought; the process group is killed last."""

ROUND_SECONDS = 0.001
"""Between two rounds of killing: what was killed needs a moment to die."""


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(0)  # the host died before we asked to hear of it
    guest = os.fork()
    if guest == 0:
        os.setpgid(0, 0)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        agent.main()
    with contextlib.suppress(OSError):  # it has done so itself, or is gone
        os.setpgid(guest, guest)
    _let_go_of_streams()
    _watch(guest)


def _watch(guest: int) -> NoReturn:
    told = False

    def on_term(_signal: int, _frame: FrameType | None) -> None:
        nonlocal told
        told = told or not _has_ended(guest)
        _kill(guest)

    signal.signal(signal.SIGTERM, on_term)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    status = _wait_for(guest)
    _end_tree()
    _end_as(status, told=told)


def _wait_for(guest: int) -> int:
    """Reap whoever ends until the guest does; return its wait status."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == guest:
            return status


def _has_ended(guest: int) -> bool:
    """Whether it ended by itself: then how it did counts, and not that we were told to end it a moment later.

    Its memory goes before its sockets do, by which the host hears of it, and those before it can be waited for.
    """
    try:
        return Path(f"/proc/{guest}/statm").read_text().startswith("0 ")
    except OSError:
        return True


def _end_tree() -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until and (pids := list(_below(os.getpid()))):
        for pid in pids:
            _kill(pid)
        # Not waiting for the rest: one that was forked meanwhile may live long, and is killed in the next round.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(ROUND_SECONDS)


def _kill(pid: int) -> None:
    """Kill its whole group at once: killed one by one, processes that fork get away."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        group = os.getpgid(pid)
        if group == os.getpgrp():
            os.kill(pid, signal.SIGKILL)
        else:
            os.killpg(group, signal.SIGKILL)


def _below(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield int(child)
            yield from _below(int(child))


def _end_as(status: int, *, told: bool) -> NoReturn:
    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    if told and number == signal.SIGKILL:
        number = signal.SIGTERM
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def _let_go_of_streams() -> None:
    """The pipes are the guest's: they must reach their end when it ends."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


if __name__ == "__main__":
    main()
