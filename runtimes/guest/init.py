"""The first process of a container: starts the agent, gathers what the guest leaves behind, ends as the agent ended.

When it ends the kernel ends every process of the container. No signal of the guest's reaches it, as the first process
of its namespace, and it cannot be debugged, since it is not dumpable: so its exit code is its own word. `encode` says
what it means; an engine's own code for a container that it killed, 137, is none of them.

With a folder as its argument it takes the pipes in there, `stdin`, `stdout` and `stderr`, for its standard streams:
the host reads them without an engine in between.
"""

import ctypes
import os
import sys
from typing import NoReturn

# linux/prctl.h
PR_SET_DUMPABLE = 4

SIGNALLED = 192
"""Added to a signal's number. Agents that exit with 193 to 223 by themselves are taken for killed."""

LAST_SIGNAL = 31
"""Realtime signals, which come after it, are told as this one."""

KILLED = 128 + 9
STREAMS = (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))


def main() -> NoReturn:
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_DUMPABLE, 0)
    if len(sys.argv) > 1:
        _take_streams(sys.argv[1])
    agent = os.fork()
    if agent == 0:
        prctl(PR_SET_DUMPABLE, 1)  # its own /proc entries belong to the guest
        _be_agent()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)  # the streams are the guest's: they must reach their end when it ends
    while True:
        pid, status = os.wait()
        if pid == agent:
            os._exit(encode(os.waitstatus_to_exitcode(status)))


def encode(returncode: int) -> int:
    """The exit code for an agent that exited with this code or, if negative, was ended by that signal."""
    if returncode < 0:
        return SIGNALLED + min(-returncode, LAST_SIGNAL)
    return SIGNALLED + 9 if returncode == KILLED else returncode


def _take_streams(folder: str) -> None:
    for descriptor, (name, flags) in enumerate(STREAMS):
        opened = os.open(f"{folder}/{name}", flags)
        os.dup2(opened, descriptor)
        os.close(opened)


def _be_agent() -> NoReturn:
    """Imported after the fork: init stays small, and gRPC does not survive a fork."""
    from runtimes.guest import agent  # noqa: PLC0415

    agent.main()


if __name__ == "__main__":
    main()
