"""What a hardened container is, whichever engine makes it. Pure: from what a sandbox must be to one frozen description.

Nothing in a description is optional and nothing in it weakens it: no network, no capabilities, no new privileges, a
read-only root, a user of its own, and bounds on memory (no swap), processor, processes and open files, whether or not
the request asked for any. An engine that cannot hold one of these must refuse to start.
"""

import json
import math
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.endpoint import GRPC_ENVIRONMENT, Endpoint
from runtimes.base import Ending, SandboxSpec
from runtimes.guest.init import KILLED, LAST_SIGNAL, SIGNALLED
from runtimes.limits import LimitName

GUEST_FOLDER = "/guest"
"""Where a guest may write: a file system in memory with the folders `work` and `tmp`, which `disk_bytes` bounds."""

SOCKET_FOLDER = "/run/toolexec"
"""Where the folder with this guest's socket is seen from inside, read-only."""

SOCKET_NAME = "gateway.sock"
INSIDE_ADDRESS = f"unix:{SOCKET_FOLDER}/{SOCKET_NAME}"
"""The endpoint's address as a guest sees it."""

ENFORCES: frozenset[LimitName] = frozenset({"memory_bytes", "cpu_seconds", "disk_bytes", "pids"})
"""What a container of this description holds, where the engine applies all of it."""

DEFAULT_MEMORY_BYTES = 512 << 20
DEFAULT_DISK_BYTES = 64 << 20
DEFAULT_PIDS = 128
CPUS = 1.0
"""Processors that a guest may keep busy at a time."""

AGENT_MEMORY_BYTES = 64 << 20
"""What init, agent and their gRPC take before the snippet runs, on top of what it asked for; measured 38 MiB."""

AGENT_PIDS = 24
"""Likewise their processes and threads; measured 10, and more while calls are at work."""

MAX_OPEN_FILES = 1024
SHARED_MEMORY_BYTES = 16 << 20
MAX_FILES = 16_384
"""Inodes of the guest's folder: empty files cost the host memory too."""

FIRST_UID = 1_879_048_192
UIDS = 1 << 20
"""Users that exist nowhere else: above those of systemd and of the usual subordinate ranges."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder of the host, seen read-only (nosuid, nodev, noexec) at `target`."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """A file system in memory (nosuid, nodev) that belongs to the guest's user; what is in it counts as its memory.

    `programs` says whether what is in it may be executed."""

    target: str
    size_bytes: int
    mode: int = 0o700
    programs: bool = False
    inodes: int = MAX_FILES

    def options(self, uid: int, gid: int) -> tuple[str, ...]:
        """Mount options as in mount(8)."""
        bounds = (f"size={self.size_bytes}", f"nr_inodes={self.inodes}", f"mode={self.mode:04o}")
        programs = "exec" if self.programs else "noexec"
        return ("rw", "nosuid", "nodev", programs, *bounds, f"uid={uid}", f"gid={gid}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container. `rlimits` are soft and hard at once, named as setrlimit(2) does without RLIMIT_ in lower case.

    What is not here is the same for all of them: read-only root, no network but a loopback of its own, no
    capabilities, no_new_privs, swap off, namespaces of its own for everything, nothing of the host's environment.
    """

    argv: tuple[str, ...]
    uid: int
    gid: int
    memory_bytes: int
    pids: int
    cpus: float
    bind: Bind
    tmpfs: tuple[Tmpfs, ...]
    rlimits: Mapping[str, int]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    hostname: str = "guest"


def container_for(spec: SandboxSpec, *, argv: tuple[str, ...], uid: int, gid: int, socket_folder: Path) -> Container:
    """The container of a sandbox: `spec` with every bound that it left open. `argv` starts the agent's init."""
    disk_bytes = spec.disk_bytes or DEFAULT_DISK_BYTES
    return Container(
        argv=argv,
        uid=uid,
        gid=gid,
        memory_bytes=(spec.memory_bytes or DEFAULT_MEMORY_BYTES) + AGENT_MEMORY_BYTES,
        pids=(spec.pids or DEFAULT_PIDS) + AGENT_PIDS,
        cpus=CPUS,
        bind=Bind(socket_folder, SOCKET_FOLDER),
        tmpfs=(
            Tmpfs(GUEST_FOLDER, disk_bytes, programs=True),
            Tmpfs("/dev/shm", min(disk_bytes, SHARED_MEMORY_BYTES), mode=0o1777),  # noqa: S108 - a mount point
        ),
        rlimits={"nofile": MAX_OPEN_FILES, "core": 0, "memlock": 64 << 10, "msgqueue": 0},
        # Without the bound each of the agent's threads reserves 64 MiB of address space.
        env={**GRPC_ENVIRONMENT, "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": str(math.ceil(CPUS))},
    )


def agent_config(spec: SandboxSpec, endpoint: Endpoint, authority: bytes | None = None) -> bytes:
    """The line for the agent's standard input. `endpoint.address` is as seen from inside; `authority` is the
    certificate (PEM) that a gateway at a TCP address is checked by.

    Address space is bounded for Python only, whose snippets can catch a MemoryError then; Node reserves far more than
    it uses. The container holds every language to its memory.
    """
    config = {
        "address": endpoint.address,
        "token": endpoint.token,
        "work": f"{GUEST_FOLDER}/work",
        "language": spec.language,
        "memory_bytes": spec.memory_bytes if spec.language == "python" else None,
        "cpu_seconds": spec.cpu_seconds,
        "authority": authority and authority.decode(),
    }
    return json.dumps(config).encode() + b"\n"


def ending_of(
    exit_code: int, *, out_of_memory: bool, cpu_seconds: float | None = None, allowed_cpu_seconds: float | None = None
) -> Ending:
    """How a container ended that we did not kill, from the exit code of its init (see `runtimes/guest/init.py`).

    `out_of_memory` says whether the kernel ended one of its processes for want of memory, `cpu_seconds` what the
    container used if that is known: a guest that sends itself the signal of its processor limit has not reached it.
    """
    if out_of_memory and exit_code in {KILLED, SIGNALLED + signal.SIGKILL}:
        return Ending(limit="memory_bytes")
    if exit_code == KILLED:
        return Ending(lost="something other than its guest killed it")
    number = exit_code - SIGNALLED
    if not 0 < number <= LAST_SIGNAL:
        return Ending(exit_code=exit_code)
    reached = allowed_cpu_seconds is not None and (cpu_seconds is None or cpu_seconds >= allowed_cpu_seconds)
    return Ending(limit="cpu_seconds") if number == signal.SIGXCPU and reached else Ending(signal=number)
