"""What the kernel counts and bounds for one container, read from its control groups: versions 1 and 2, on this host."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = frozenset({"memory", "cpu", "cpuacct", "pids"})
UNIFIED = ""
"""Version 2 has one group for all controllers."""

BOUNDS = {
    UNIFIED: {"memory_bytes": "memory.max", "swap_bytes": "memory.swap.max", "pids": "pids.max", "cpu": "cpu.max"},
    "memory": {
        "memory_bytes": "memory.limit_in_bytes",
        "memory_and_swap_bytes": "memory.memsw.limit_in_bytes",
    },
    "pids": {"pids": "pids.max"},
    "cpu": {"cpu_quota_microseconds": "cpu.cfs_quota_us", "cpu_period_microseconds": "cpu.cfs_period_us"},
}


@dataclass(frozen=True, slots=True)
class Counted:
    """None where this kernel cannot tell.

    `oom_kills` counts processes that were ended for want of memory, `pids_refused` those that could not be made.
    """

    oom_kills: int | None = None
    cpu_seconds: float | None = None
    memory_peak_bytes: int | None = None
    pids_refused: int | None = None


class Cgroup:
    """The control groups of one container, by controller. Reading them after its end gives None, never an error."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    @classmethod
    def of(cls, pid: int, name: str) -> "Cgroup | None":
        """Those of a process; None unless each is called after `name`: then it is another process, or not here."""
        try:
            folders = dict(_folders(Path(f"/proc/{pid}/cgroup").read_text().splitlines()))
        except OSError:
            return None
        ours = folders and all(name in folder.name for folder in folders.values())
        return cls(folders) if ours else None

    def counted(self) -> Counted:
        if (unified := self._folders.get(UNIFIED)) is not None:
            return Counted(
                _entry(unified / "memory.events", "oom_kill"),
                _divided(_entry(unified / "cpu.stat", "usage_usec"), 10**6),
                _number(unified / "memory.peak"),
                _entry(unified / "pids.events", "max"),
            )
        memory, cpu, pids = (self._folders.get(name, ROOT / "none") for name in ("memory", "cpuacct", "pids"))
        return Counted(
            _entry(memory / "memory.oom_control", "oom_kill"),
            _divided(_number(cpu / "cpuacct.usage"), 10**9),
            _number(memory / "memory.max_usage_in_bytes"),
            _entry(pids / "pids.events", "max"),
        )

    def bounds(self) -> dict[str, int | str]:
        """The bounds in force as the kernel says them, those it has."""
        files = (
            (name, folder / file)
            for controller, folder in self._folders.items()
            for name, file in BOUNDS.get(controller, {}).items()
        )
        texts = ((name, _text(path)) for name, path in files)
        return {name: int(text) if text.isdigit() else text for name, text in texts if text is not None}


def _folders(lines: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """From /proc/PID/cgroup: `4:memory:/docker/…` in version 1, `0::/system.slice/…` in version 2 alone."""
    entries = [line.split(":", 2) for line in lines]
    mounted = [(controller, path) for _, names, path in entries for controller in names.split(",")]
    version_1 = [(controller, path) for controller, path in mounted if controller in CONTROLLERS]
    if version_1:
        yield from ((controller, ROOT / controller / path.lstrip("/")) for controller, path in version_1)
    else:
        yield from ((UNIFIED, ROOT / path.lstrip("/")) for controller, path in mounted if controller == UNIFIED)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdigit() else None


def _entry(path: Path, key: str) -> int | None:
    """The number behind `key` in a file of lines `key number`."""
    for line in (_text(path) or "").splitlines():
        name, _, number = line.partition(" ")
        if name == key and number.isdigit():
            return int(number)
    return None


def _divided(number: int | None, by: int) -> float | None:
    return None if number is None else number / by
