"""The one folder of a host on disk: its socket, its guests' files. Gone at close, or at the next start after a kill."""

import os
import secrets
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MARK = "TOOLEXEC_RUN"
"""Environment variable of guest processes: the name of their host's folder, by which orphans are found."""

MAX_SOCKET_PATH = 100
"""Unix sockets have 108 bytes for their path, the file's name included."""


def make_folder() -> Path:
    """A new private folder named for this process, after removing what dead hosts left."""
    base = _base()
    reap(base)
    name = f"{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(4)}"
    folder = base / name
    folder.mkdir(mode=0o700)
    return folder


def remove_folder(folder: Path) -> None:
    """Remove it and whatever guests put there. Idempotent."""
    shutil.rmtree(folder, ignore_errors=True)


def reap(base: Path) -> None:
    """Kill the guest processes and remove the folders of hosts that are dead."""
    dead = {folder.name for folder in base.iterdir() if not is_alive(folder.name)}
    if not dead:
        return
    for pid in marked(dead):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    for name in dead:
        remove_folder(base / name)


def marked(names: set[str]) -> Iterator[int]:
    """Processes that carry one of these marks. Only those that did not clean their environment are found."""
    marks = {f"{MARK}={name}".encode() for name in names}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if marks & set((entry / "environ").read_bytes().split(b"\0")):
                    yield int(entry.name)


def _base() -> Path:
    """Where the folders of all our hosts are. Raise PermissionError if somebody else owns it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime, "toolexec") if runtime else Path(tempfile.gettempdir(), f"toolexec-{os.geteuid()}")
    if len(str(base)) + 60 > MAX_SOCKET_PATH:
        base = Path("/tmp", f"toolexec-{os.geteuid()}")  # noqa: S108 - checked below to be ours alone
    base.mkdir(mode=0o700, exist_ok=True)
    status = base.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(f"{base} is not a private folder of ours; remove it, or set XDG_RUNTIME_DIR")
    return base


def is_alive(name: str) -> bool:
    """Whether the host whose run folder has this name still runs here."""
    pid, _, rest = name.partition("-")
    started = rest.partition("-")[0]
    return pid.isdigit() and bool(started) and _started(int(pid)) == started


def _started(pid: int) -> str:
    """When the process started, in ticks since boot: with the pid, its identity. Empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
