"""The processes below one of ours, where no control group holds them: found, measured and ended through /proc."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from runtimes._cgroup import Counted

PATIENCE_SECONDS = 5.0
ROUND_SECONDS = 0.002
TICKS = os.sysconf("SC_CLK_TCK")
COUNTED = ("RssAnon:", "RssShmem:")
"""Of /proc/PID/status: what a process holds in memory beside pages of files."""


class Tree:
    """A process and its descendants. What left for another parent is not found: use it for programs of ours."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: set[int] = set()
        self._cpu_seconds = 0.0
        self._memory_peak_bytes = 0

    def pids(self) -> set[int]:
        """Those that run."""
        self._seen.update(_below(self._pid))
        self._seen = {pid for pid in self._seen if runs(pid)}
        return self._seen

    def counted(self) -> Counted:
        """What they used so far. Memory that several share is that of the one which holds most."""
        pids = self.pids()
        self._cpu_seconds = max(self._cpu_seconds, sum(map(_cpu_seconds, pids)))
        self._memory_peak_bytes = max(self._memory_peak_bytes, max(map(_memory_bytes, pids), default=0))
        return Counted(None, self._cpu_seconds, self._memory_peak_bytes)

    def bounds(self) -> dict[str, int | str]:
        """None that the kernel holds."""
        return {}

    def pids_were_short(self) -> bool:
        return False

    def stop(self) -> bool:
        """Kill them all; whether none is left that could run. Blocks, up to 5 seconds."""
        self.counted()
        until = time.monotonic() + PATIENCE_SECONDS
        while (pids := self.pids()) and time.monotonic() < until:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(ROUND_SECONDS)
        return not pids

    def clear(self) -> None:
        """There is nothing to remove."""


def _below(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in children.read_text().split():
                yield from _below(int(child))


def runs(pid: int) -> bool:
    """Not one that is dead and waits to be reaped."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in {"Z", "X"}


def _cpu_seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def _memory_bytes(pid: int) -> int:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(COUNTED))
    return 0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
