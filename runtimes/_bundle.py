"""An OCI bundle from a container's description and a root file system: what `runsc` is given. Pure but for the folders.

The root file system is either the host's Python, seen read-only through a skeleton of folders, or an unpacked image.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import BackendUnavailable
from runtimes._container import Bind, Container, Tmpfs

PACKAGES = ("gateway", "runtimes")
"""Those of ours that hold what runs inside. With an editable install they are not among the interpreter's own."""

MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Folders that are links into /usr on most systems, and folders of their own on the others."""

ETC = ("alternatives", "ld.so.cache")
"""What programs below /usr need of /etc, and nothing that says anything about this host's users."""

ISOLATED = ("-I", "-u", "-X", "utf8")
AGENT = "/opt/toolexec"
"""Where images made by `toolexec image build` have the agent."""

PYTHONS = ("/usr/local/bin/python3", "/usr/bin/python3")
INIT = "runtimes.guest.init"
ENTER = 0o005
UNPACK = "Unpack one made by `toolexec image build`: `docker export` a container of it (`docker create IMAGE python3`)"

CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
NAMESPACES = ("pid", "network", "ipc", "uts", "mount")
OCI_VERSION = "1.0.2"


NO_TMP = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "mode=0555", "size=4096"]}  # noqa: S108
"""Without it gVisor lays a writable file system of any size over an empty /tmp."""


@dataclass(frozen=True, slots=True)
class RootFs:
    """What a guest sees as `/`, read-only: a folder, and folders of the host laid over it where they are on the host.

    `python` is its interpreter, `start` what makes that the agent's init, `site` where the agent is if the interpreter
    does not know; all as seen from inside.
    """

    folder: Path
    python: str
    start: tuple[str, ...]
    site: tuple[str, ...] = ()
    binds: tuple[Bind, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        return (self.python, *ISOLATED, *self.start)


def host_root(folder: Path) -> RootFs:
    """The host's Python with its packages, and /usr: nothing of /etc, /home, /root, /var or /opt beside those.

    Makes the skeleton in `folder`, which must be empty.
    """
    binds = tuple(Bind(path, str(path)) for path in _outermost(_readable()))
    for name in MERGED:
        if (Path("/") / name).is_symlink():
            (folder / name).symlink_to((Path("/") / name).readlink())
    for bind in binds:
        (folder / bind.target.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for parent in {parent for bind in binds for parent in Path(bind.target).parents[:-1]} - _module_paths():
        (folder / str(parent).lstrip("/")).chmod(0o711)  # on the way, and nothing to look at
    if sys.prefix != sys.base_prefix:
        _environment(folder / sys.prefix.lstrip("/"))
    _etc(folder / "etc")
    return RootFs(folder, sys.executable, ("-m", INIT), binds=binds)


def image_root(folder: Path) -> RootFs:
    """An unpacked image that holds the guest's agent. Raises BackendUnavailable when it does not."""
    start = f"{AGENT}/start.py"
    pythons = [python for python in PYTHONS if os.path.lexists(folder / python.lstrip("/"))]
    if not pythons or not (folder / start.lstrip("/")).is_file():
        raise BackendUnavailable("gvisor", f"{folder} is no guest image with Python and {start}", UNPACK)
    if folder.stat().st_mode & ENTER != ENTER:
        raise BackendUnavailable("gvisor", f"guests may not enter {folder}", f"chmod 755 {folder}")
    return RootFs(folder, pythons[0], (start,), (AGENT,))


def oci_config(container: Container, root: RootFs) -> dict[str, Any]:
    """The bundle's config.json."""
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "user": {"uid": container.uid, "gid": container.gid},
            "args": list(container.argv),
            "env": [f"{name}={value}" for name, value in container.env.items()],
            "cwd": container.cwd,
            "noNewPrivileges": True,
            "capabilities": {name: [] for name in CAPABILITY_SETS},
            # gVisor's kernel counts a user's processes and threads, and this user has no others.
            "rlimits": list(_rlimits({**container.rlimits, "nproc": container.pids})),
        },
        "root": {"path": str(root.folder), "readonly": True},
        "hostname": container.hostname,
        "mounts": list(_mounts(container, root)),
        "linux": {"namespaces": [{"type": name} for name in NAMESPACES]},
    }


def _mounts(container: Container, root: RootFs) -> Iterator[dict[str, Any]]:
    yield {"destination": "/proc", "type": "proc", "source": "proc"}
    for bind in root.binds:
        yield _bind(bind, "nosuid", "nodev")
    if not any(bind.target.startswith("/tmp/") for bind in root.binds):  # noqa: S108 - where it is not, not a file there
        yield NO_TMP
    for tmpfs in container.tmpfs:
        yield _tmpfs(tmpfs, container.uid, container.gid)
    yield _bind(container.bind, "nosuid", "nodev", "noexec")


def _bind(bind: Bind, *options: str) -> dict[str, Any]:
    return {
        "destination": bind.target,
        "type": "bind",
        "source": str(bind.source),
        "options": ["bind", "ro", *options],
    }


def _tmpfs(tmpfs: Tmpfs, uid: int, gid: int) -> dict[str, Any]:
    return {
        "destination": tmpfs.target,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": list(tmpfs.options(uid, gid)),
    }


def _rlimits(rlimits: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for name, value in rlimits.items():
        yield {"type": f"RLIMIT_{name.upper()}", "soft": value, "hard": value}


def _readable() -> Iterator[Path]:
    """What of the host a guest may read: programs and libraries that every user of the host may."""
    yield Path("/usr")
    for name in MERGED:
        if (Path("/") / name).is_dir() and not (Path("/") / name).is_symlink():
            yield Path("/") / name
    for prefix in (sys.base_prefix, sys.base_exec_prefix):
        yield Path(prefix, "bin")
        yield Path(prefix, sys.platlibdir)
        yield Path(prefix, "lib")
    for name in ("purelib", "platlib", "stdlib", "platstdlib"):
        yield Path(sysconfig.get_path(name))
    yield from map(_folder_of, PACKAGES)


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _module_paths() -> set[Path]:
    """Folders that the interpreter lists to find our packages."""
    return {_folder_of(package).parent for package in PACKAGES}


def _outermost(paths: Iterator[Path]) -> list[Path]:
    """Those that exist and are in none of the others."""
    found = sorted({path for path in paths if path.is_dir()})
    return [path for path in found if not any(other in path.parents for other in found)]


def _environment(prefix: Path) -> None:
    """What makes the interpreter find a virtual environment's packages, without the rest of the environment's folder:
    a pip.conf in it may hold passwords."""
    program = prefix / Path(sys.executable).relative_to(sys.prefix)
    program.parent.mkdir(parents=True, exist_ok=True)
    program.symlink_to(Path(sys.executable).resolve())
    shutil.copyfile(Path(sys.prefix, "pyvenv.cfg"), prefix / "pyvenv.cfg")


def _etc(folder: Path) -> None:
    folder.mkdir()
    for name in ETC:
        source = Path("/etc", name)
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True)
        elif source.is_file():
            shutil.copyfile(source, folder / name)
