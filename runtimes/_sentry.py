"""One container under `runsc`: started inside bounds of ours, heard, ended, and looked at from outside.

`runsc run` stays in the foreground and is our child. The kernel that faces the guest (the sentry) and what opens its
files (the gofer) are its children, and die with it, as it dies with us.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import anyio

from runtimes import _launch
from runtimes._cgroup import Counted
from runtimes._groups import Bounds, Groups
from runtimes._output import Output
from runtimes._process import ChildProcess, start
from runtimes._runsc import PANIC
from runtimes._tree import Tree
from runtimes.folder import MARK

FAILED = 128
"""What `runsc run` exits with when it failed itself."""

PANIC_CHARACTERS = 200
READ_OUT_SECONDS = 1.0
SENTRY = b"runsc-sandbox"
STATUS = ("Uid", "CapEff", "NoNewPrivs", "Seccomp")


class Held(Protocol):
    """What holds a container's processes: a control group, or else only their tree."""

    def pids(self) -> set[int]: ...

    def counted(self) -> Counted: ...

    def bounds(self) -> Mapping[str, int | str]: ...

    def pids_were_short(self) -> bool: ...

    def stop(self) -> bool: ...

    def clear(self) -> None: ...


class Running:
    """A container that was started. Belongs to the running event loop; `pump` must run until it ends."""

    def __init__(self, process: ChildProcess, held: Held, folder: Path) -> None:
        self.output = Output()
        self.held = held
        self._panic = folder / PANIC
        self._process = process
        self._read_out = anyio.Event()

    @property
    def exit_code(self) -> int | None:
        """Of `runsc run`: None while it runs, then the container's, or minus the signal that ended `runsc run`."""
        return self._process.returncode

    def tell(self, line: bytes) -> None:
        """Write to the guest's standard input."""
        self._process.tell(line)

    def panic(self) -> str:
        """Why gVisor's own kernel failed; empty if it did not. To be asked before its folder is removed."""
        try:
            return self._panic.read_text(errors="replace").partition("\n")[0][:PANIC_CHARACTERS]
        except OSError:
            return ""

    async def wait(self) -> None:
        await self._process.wait()

    async def pump(self) -> None:
        """Pass the guest's output on until its pipes end."""
        try:
            await self._process.read(partial(self.output, "stdout"), partial(self.output, "stderr"))
        finally:
            self._read_out.set()

    async def end(self) -> bool:
        """Kill everything; whether nothing runs any more. What the guest had written was passed on then. Idempotent."""
        dead = await anyio.to_thread.run_sync(self.held.stop)
        await self._process.close()
        with anyio.move_on_after(READ_OUT_SECONDS):
            await self._read_out.wait()
        return dead

    async def clear(self) -> None:
        """Remove what held it, after `end`."""
        await anyio.to_thread.run_sync(self.held.clear)

    def confinement(self) -> dict[str, Any]:
        """How the host's kernel confines the one that faces the guest; empty if it is not there."""
        for pid in self.held.pids():
            if _file(pid, "cmdline").startswith(SENTRY):
                return _confinement(pid)
        return {}


def run(command: Sequence[str], *, folder: Path, mark: str, groups: Groups | None, bounds: Bounds) -> Running:
    """Start `command`, which is `runsc run …`, inside a new group named for `mark` and `folder`. Raises SandboxLost."""
    group = groups.group(mark, folder.name) if groups is not None else None
    if group is not None:
        group.make(bounds)
    entrances = map(str, group.entrances) if group is not None else ()
    launch = (sys.executable, "-I", "-S", _launch.__file__, str(os.getpid()), *entrances, "--", *command)
    try:
        process = start(launch, folder=folder, env={"PATH": os.defpath, MARK: mark})
    except BaseException:
        if group is not None:
            group.remove()
        raise
    return Running(process, group or Tree(process.pid), folder)


def _confinement(pid: int) -> dict[str, Any]:
    """Of a process: user, capabilities, seccomp, and which of its namespaces are not ours."""
    lines = (line.partition(":") for line in _file(pid, "status").decode(errors="replace").splitlines())
    status = {name: value.split() for name, _, value in lines if name in STATUS}
    if not status:
        return {}
    return {
        "user": int(status["Uid"][0]),
        "capabilities": status["CapEff"][0],
        "no_new_privileges": status["NoNewPrivs"] == ["1"],
        "seccomp": {"0": "off", "1": "strict", "2": "filter"}.get(status["Seccomp"][0], "unknown"),
        "namespaces": [name for name in ("net", "mnt", "pid", "ipc", "user") if _apart(pid, name)],
    }


def _apart(pid: int, namespace: str) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/{namespace}").readlink() != Path(f"/proc/self/ns/{namespace}").readlink()
    except OSError:
        return False


def _file(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}", name).read_bytes()
    except OSError:
        return b""
