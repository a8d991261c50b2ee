"""Control groups that we make and end ourselves, for an engine that is started inside one. Versions 1 and 2.

A group is made below our own where that is possible, so that a bound on the host's service holds for its guests too.
"""

import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import SandboxLost
from runtimes._cgroup import ROOT, UNIFIED, Cgroup, Counted
from runtimes._tree import runs
from runtimes.folder import is_alive

PERIOD_MICROSECONDS = 100_000
PATIENCE_SECONDS = 5.0
"""How long processes that were killed may take to be gone: a large guest's memory takes a while to free."""

ROUND_SECONDS = 0.001

NEEDED = ("cpu", "memory", "pids")

OURS = re.compile(r"toolexec-(?P<run>\d+-\d+-[0-9a-f]{8})-[0-9a-f]{8}")
"""What our groups are called: by it those of dead hosts are found."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one group. Swap is off; `cpus` is how many processors it may keep busy."""

    memory_bytes: int
    pids: int
    cpus: float


class Group:
    """One group: its folder by controller, or one folder for all of them under `UNIFIED`."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        self._distinct = tuple(dict.fromkeys(folders.values()))
        self._kernel = Cgroup(folders)
        self._counted = Counted()

    @property
    def entrances(self) -> tuple[Path, ...]:
        """The files that a process writes 0 to for joining; what it starts then is inside too."""
        return tuple(folder / "cgroup.procs" for folder in self._distinct)

    def make(self, bounds: Bounds) -> None:
        """Raises SandboxLost when the kernel does not take it, leaving nothing."""
        try:
            for folder in self._distinct:
                folder.mkdir()
            for file, value in self._settings(bounds):
                file.write_text(value)
            self._no_swap(bounds)
        except OSError as error:
            self.remove()
            raise SandboxLost(f"its control group could not be made: {error}") from error

    def counted(self) -> Counted:
        """What was used inside so far; final after `end`."""
        counted = self._kernel.counted()
        if counted.cpu_seconds is not None:
            self._counted = counted
        return self._counted

    def bounds(self) -> dict[str, int | str]:
        """Those in force, as the kernel says them."""
        return self._kernel.bounds()

    def pids(self) -> set[int]:
        """Every process inside."""
        found: set[int] = set()
        for entrance in self.entrances:
            with suppress(OSError):
                found.update(map(int, entrance.read_text().split()))
        return found

    def pids_were_short(self) -> bool:
        """Whether something inside was refused a process or thread at the group's bound."""
        folder = self._folders.get("pids") or self._folders[UNIFIED]
        with suppress(OSError):
            return any(int(line.split()[1]) for line in (folder / "pids.events").read_text().splitlines())
        return False

    def stop(self) -> bool:
        """Kill everything inside; whether none of it can run any more. Blocks, up to 5 seconds. What died may take the
        kernel some more milliseconds to take down, which nobody needs to wait for: see `clear`."""
        until = time.monotonic() + PATIENCE_SECONDS
        self.kill()
        while (alive := any(map(runs, self.pids()))) and time.monotonic() < until:
            time.sleep(ROUND_SECONDS)
            self.kill()
        self.counted()
        return not alive

    def clear(self) -> None:
        """Remove the group once it is empty. Blocks, up to 5 seconds."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not self.remove() and time.monotonic() < until:
            time.sleep(ROUND_SECONDS)

    def kill(self) -> None:
        """SIGKILL to everything inside."""
        kill_all = self._distinct[0] / "cgroup.kill"
        if kill_all.exists():  # version 2, from Linux 5.14
            kill_all.write_text("1")
            return
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> bool:
        """Remove it if nothing is inside; whether it is gone."""
        gone = True
        for folder in self._distinct:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone

    def _settings(self, bounds: Bounds) -> Iterator[tuple[Path, str]]:
        quota = str(round(bounds.cpus * PERIOD_MICROSECONDS))
        if unified := self._folders.get(UNIFIED):
            yield unified / "pids.max", str(bounds.pids)
            yield unified / "memory.max", str(bounds.memory_bytes)
            yield unified / "memory.oom.group", "1"
            yield unified / "cpu.max", f"{quota} {PERIOD_MICROSECONDS}"
        else:
            yield self._folders["pids"] / "pids.max", str(bounds.pids)
            yield self._folders["memory"] / "memory.limit_in_bytes", str(bounds.memory_bytes)
            yield self._folders["cpu"] / "cpu.cfs_period_us", str(PERIOD_MICROSECONDS)
            yield self._folders["cpu"] / "cpu.cfs_quota_us", quota

    def _no_swap(self, bounds: Bounds) -> None:
        """A kernel that does not count swap has no file for it: then only a host without swap will do."""
        if unified := self._folders.get(UNIFIED):
            file, value = unified / "memory.swap.max", "0"
        else:
            file, value = self._folders["memory"] / "memory.memsw.limit_in_bytes", str(bounds.memory_bytes)
        if file.exists():
            file.write_text(value)
        elif len(Path("/proc/swaps").read_text().splitlines()) > 1:
            raise OSError(f"there is no {file.name}, and this host swaps; boot it with swapaccount=1, or without swap")


@dataclass(frozen=True, slots=True)
class Groups:
    """Where groups can be made: the folder above them by controller."""

    parents: Mapping[str, Path]

    def group(self, run: str, name: str) -> Group:
        """A group, not made yet, of the host whose folder is called `run`; `name` is eight hexadecimal digits."""
        assert OURS.fullmatch(f"toolexec-{run}-{name}"), (run, name)
        return Group({controller: parent / f"toolexec-{run}-{name}" for controller, parent in self.parents.items()})


def sweep(root: Path = ROOT) -> None:
    """Remove the empty groups of hosts that are dead. Their processes died with them: see `runtimes/_launch.py`."""
    for folder in root.glob("**/toolexec-*"):
        match = OURS.fullmatch(folder.name)
        if match and not is_alive(match["run"]):
            Group({UNIFIED: folder}).remove()


def find_groups(root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> Groups | str:
    """Where this process may make groups that hold processor, memory and processes; else why it may not.

    `root` is where control groups are mounted, `own` says which ones we are in.
    """
    belongs = _belongs(own.read_text())
    if all((root / name / "cgroup.procs").exists() for name in NEEDED):
        names = [*NEEDED, *(["cpuacct"] if (root / "cpuacct").is_dir() else [])]
        return _ours({name: _below(root / name, belongs.get(name, "/")) for name in names})
    if (root / "cgroup.controllers").exists():
        return _unified(root, _below(root, belongs.get(UNIFIED, "/")))
    return f"control groups for {', '.join(NEEDED)} are not mounted below {root}"


def _unified(root: Path, own: Path) -> Groups | str:
    """Only the root may hold processes and pass its controllers on too: so beside our own group, else at the root."""
    found: Groups | str = ""
    for parent in dict.fromkeys((own if own == root else own.parent, root)):
        control = parent / "cgroup.subtree_control"
        try:
            if missing := set(NEEDED) - set(control.read_text().split()):
                control.write_text(" ".join(f"+{name}" for name in sorted(missing)))
        except OSError as error:
            found = f"{parent} does not pass on {', '.join(NEEDED)}: {error.strerror}"
            continue
        found = _ours({UNIFIED: parent})
        if isinstance(found, Groups):
            break
    return found


def _ours(parents: Mapping[str, Path]) -> Groups | str:
    for parent in parents.values():
        if not os.access(parent, os.W_OK | os.X_OK):
            return f"{parent} is not ours to write to"
    return Groups(parents)


def _belongs(own: str) -> dict[str, str]:
    """The path of our own group by controller, from /proc/self/cgroup."""
    found: dict[str, str] = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        found.update((name, path) for name in controllers.split(","))
    return found


def _below(mount: Path, path: str) -> Path:
    """Our own group, or the mount's root where ours is not to be seen, as in a container."""
    own = mount / path.lstrip("/")
    return own if own.is_dir() else mount
