"""Run as a program: joins control groups, asks to die with the host, and becomes the command that follows `--`.

    _launch.py HOST_PID [ENTRANCE...] -- COMMAND [ARGUMENT...]

So that everything the command starts is in the groups from its first instruction. Needs nothing but the interpreter.
"""

import ctypes
import os
import signal
import sys

# linux/prctl.h
PR_SET_PDEATHSIG = 1


def main(host: str, *rest: str) -> None:
    cut = rest.index("--")
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(host):
        sys.exit("the host is gone")  # it died before we asked to hear of it
    for entrance in rest[:cut]:
        with open(entrance, "w") as file:  # noqa: PTH123 - importing pathlib doubles what this takes to start
            file.write("0")
    os.execv(rest[cut + 1], rest[cut + 1 :])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
