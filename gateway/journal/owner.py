"""Which process wrote of an execution, so that another one can tell whether it is still there."""

import os
import secrets
from pathlib import Path

_SEPARATOR = ":"


def this_process() -> str:
    """A name for one journal in this process: boot, namespace and time of start make its pid unique."""
    pid = os.getpid()
    return _SEPARATOR.join((_place(), str(pid), _started(pid), secrets.token_hex(4)))


def is_gone(owner: str) -> bool:
    """Whether this process is known to have ended; False also where nobody here can tell."""
    place, _, rest = owner.partition(_SEPARATOR)
    pid, _, rest = rest.partition(_SEPARATOR)
    started = rest.partition(_SEPARATOR)[0]
    if not (place and started and pid.isdecimal()) or place != _place():
        return False
    return _started(int(pid)) != started


def spoken(owner: str) -> str:
    """For a message: the process where the name begins with one, else the name."""
    place, _, rest = owner.partition(_SEPARATOR)
    pid = rest.partition(_SEPARATOR)[0]
    if not pid.isdecimal():
        return repr(owner)
    return f"process {pid}" if place == _place() else f"process {pid} of another machine or container"


def _place() -> str:
    """This boot of this machine and our namespace of pids; empty where there is no such thing."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{Path('/proc/self/ns/pid').readlink()}".replace(_SEPARATOR, "")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When this process began, in ticks since the boot; empty when there is none, or when it is only waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, start = fields[0], fields[19]
    return "" if state in {"Z", "X"} else start
