"""What a WASM worker takes from itself before it hosts a guest: a guest that broke out of wasmtime finds this."""

import errno
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtimes import _landlock, _seccomp
from runtimes._seccomp import call_libc

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

# linux/capability.h
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_CAP_SETPCAP = 1 << 8

_STATUS_FIELDS = ("NoNewPrivs", "Seccomp", "Seccomp_filters", "CapEff", "CapBnd", "Uid")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What `confine` put in force, for every thread of the process.

    Below `landlock_abi` 9 no filter can tell one Unix socket path from another: a socket elsewhere on the host can be
    connected to as far as its file permissions allow.
    """

    no_new_privs: bool
    dumpable_off: bool
    """Neither core dumps nor, for other processes of the user, ptrace and /proc/<pid>/mem."""
    capabilities_dropped: bool
    landlock_abi: int | None
    """None when Landlock is not in force."""
    seccomp: bool
    missing: tuple[str, ...]
    """Why something is not in force or a path could not be granted, one reason each; empty when nothing is amiss."""


def die_with_parent(parent_pid: int) -> None:
    """Has the kernel kill this process when the thread that started it ends; exits now if `parent_pid` is gone already.

    Call it before `confine`, which forbids to change it.
    """
    call_libc("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def confine(*, readable: Sequence[Path], writable: Sequence[Path]) -> Confinement:
    """Confines this process for good, as far as the kernel lets it, and says how far that is.

    Afterwards it can read beneath `readable` and the interpreter's own directories; read, create, change and delete
    beneath `writable`, bind and connect Unix sockets there; start threads, but no process and no program; signal only
    itself. What is refused is an OSError with EPERM or EACCES. A step the kernel refuses is reported, not raised.

    Call it while there is one thread: the kernel drops capabilities and applies Landlock for the calling thread only.
    """
    threads = _refusal("threads", _require_one_thread)
    no_new_privs = _refusal("no_new_privs", lambda: call_libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    dumpable = _refusal("dumpable", lambda: call_libc("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0))
    capabilities = _drop_capabilities()
    landlock_abi, landlock = _restrict_files(_grants(readable, writable))
    seccomp = _refusal("seccomp", _seccomp.install_filter)
    return Confinement(
        no_new_privs=not no_new_privs,
        dumpable_off=not dumpable,
        capabilities_dropped=not capabilities and not threads,
        landlock_abi=None if threads else landlock_abi,
        seccomp=not seccomp,
        missing=(*threads, *no_new_privs, *dumpable, *capabilities, *landlock, *seccomp),
    )


def evidence() -> dict[str, str | int | None]:
    """What the kernel says of this process now: fields of /proc/self/status, and `landlock_abi` as in `Confinement`."""
    status = _status()
    found: dict[str, str | int | None] = {name: status[name] for name in _STATUS_FIELDS if name in status}
    return found | {"landlock_abi": _landlock_in_force()}


def _refusal(step: str, action: Callable[[], object]) -> tuple[str, ...]:
    try:
        action()
    except OSError as error:
        return (f"{step}: {error.strerror}",)
    return ()


def _require_one_thread() -> None:
    others = len([*Path("/proc/self/task").iterdir()]) - 1
    if others:
        raise OSError(errno.EBUSY, f"{others} started earlier keep their capabilities and are outside Landlock")


def _drop_capabilities() -> tuple[str, ...]:
    return (
        # Taking from the bounding set needs CAP_SETPCAP, so it comes first.
        *_refusal("capability bounding set", _empty_bounding_set),
        *_refusal(
            "ambient capabilities", lambda: call_libc("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        ),
        *_refusal("capabilities", _empty_capability_sets),
    )


def _empty_bounding_set() -> None:
    if not int(_status()["CapEff"], 16) & _CAP_SETPCAP:
        return  # not ours to change, and without execve and set-user-ID programs nothing is gained from it
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    for capability in range(last + 1):
        call_libc("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)


def _empty_capability_sets() -> None:
    number = _seccomp.SYSCALLS[_seccomp.this_machine()]["capset"]
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    call_libc("syscall", number, header, bytes(24))  # effective, permitted and inheritable, 64 bits each


def _grants(readable: Sequence[Path], writable: Sequence[Path]) -> Iterator[tuple[Path, _landlock.Access]]:
    interpreter = (Path(sys.prefix), Path(sys.base_prefix))  # modules imported later
    for path in (*interpreter, Path("/proc/self"), Path("/dev/urandom"), *readable):
        yield path, _landlock.READ
    for path in (Path("/dev/null"), *writable):
        yield path, _landlock.WRITE


def _restrict_files(grants: Iterator[tuple[Path, _landlock.Access]]) -> tuple[int | None, tuple[str, ...]]:
    try:
        abi = _landlock.supported_abi()
        refused = _landlock.restrict(abi, grants)
    except OSError as error:
        return None, (f"landlock: {error.strerror}",)
    return abi, tuple(f"landlock: {reason}" for reason in (*_landlock.gaps(abi), *refused))


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _landlock_in_force() -> int | None:
    """The kernel does not say whether a process is in a Landlock domain; it shows in being unable to list /."""
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except PermissionError:
        return _landlock.supported_abi()
    return None
