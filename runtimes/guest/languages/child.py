"""A snippet that is a child process of the agent: how it is started, and what its end means."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtimes.guest.outcome import Exited


def start(
    argv: Sequence[str], work: Path, env: Mapping[str, str], descriptors: Sequence[int]
) -> "subprocess.Popen[bytes]":
    """Start it in `work` with the agent's own output, no input, `env`, and these descriptors."""
    return subprocess.Popen(argv, cwd=work, env=dict(env), stdin=subprocess.DEVNULL, pass_fds=descriptors)


def ended(status: int) -> Exited:
    """The ending of a child with this return code. If a signal ended it, the agent ends by the same, and at once.

    Why a guest was ended by a signal is for the host to find out; an agent could only claim it.
    """
    if status >= 0:
        return Exited(status)
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
    os._exit(128 - status)
