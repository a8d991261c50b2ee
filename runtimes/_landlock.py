"""Landlock ruleset of a WASM worker: the paths it was given, and nothing else in the file system."""

import enum
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from runtimes._seccomp import call_libc

# asm-generic/unistd.h; the same on every architecture
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446

# linux/landlock.h
_CREATE_RULESET_VERSION = 1 << 0
_RULE_PATH_BENEATH = 1
_NET_TCP = 1 << 0 | 1 << 1  # bind and connect
_SCOPED = 1 << 0 | 1 << 1  # abstract Unix sockets and signals


class Access(enum.IntFlag):
    """LANDLOCK_ACCESS_FS_* of linux/landlock.h."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15
    RESOLVE_UNIX = 1 << 16


_SINCE_ABI = {Access.REFER: 2, Access.TRUNCATE: 3, Access.IOCTL_DEV: 5, Access.RESOLVE_UNIX: 9}

READ = Access.READ_FILE | Access.READ_DIR
# No symbolic links: the host must not be led elsewhere by what it finds there. Nothing needs devices and pipes.
WRITE = (
    READ
    | Access.WRITE_FILE
    | Access.TRUNCATE
    | Access.REMOVE_DIR
    | Access.REMOVE_FILE
    | Access.MAKE_DIR
    | Access.MAKE_REG
    | Access.MAKE_SOCK
    | Access.REFER
    | Access.RESOLVE_UNIX
)
# The kernel answers EINVAL to a rule that grants a file what only a directory can have.
_OF_FILES = (
    Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV | Access.RESOLVE_UNIX
)

_NEEDED_ABI = {3: "truncating files outside", 4: "TCP", 6: "abstract Unix sockets and signals to other processes"}


def supported_abi() -> int:
    """Landlock's version in this kernel; OSError when it has none or it is switched off."""
    return call_libc("syscall", _CREATE_RULESET, 0, 0, _CREATE_RULESET_VERSION)


def gaps(abi: int) -> tuple[str, ...]:
    """What a ruleset of this version cannot refuse and a later one can."""
    return tuple(
        f"ABI {abi} leaves {what} open, {needed} does not" for needed, what in _NEEDED_ABI.items() if abi < needed
    )


def handled_access(abi: int) -> Access:
    """Every right this version can take away."""
    return Access(sum(right for right in Access if _SINCE_ABI.get(right, 1) <= abi))


def ruleset_attributes(abi: int) -> bytes:
    """`struct landlock_ruleset_attr` as long as this version knows it."""
    attributes = struct.pack("=QQQ", handled_access(abi), _NET_TCP, _SCOPED)
    return attributes[: 24 if abi >= 6 else 16 if abi >= 4 else 8]


def _grant(ruleset: int, path: Path, access: Access, abi: int) -> None:
    # Never closed: a rule holds an inode, and /proc makes a new one once memory pressure has dropped the path's dentry.
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    allowed = access & handled_access(abi)
    if not stat.S_ISDIR(os.fstat(beneath).st_mode):
        allowed &= _OF_FILES
    rule = struct.pack("=Qi", allowed, beneath)  # struct landlock_path_beneath_attr, which is packed
    call_libc("syscall", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)


def _refused_grants(ruleset: int, grants: Iterable[tuple[Path, Access]], abi: int) -> Iterator[str]:
    for path, access in grants:
        try:
            _grant(ruleset, path, access, abi)
        except OSError as error:
            yield f"{path}: {error.strerror}"


def restrict(abi: int, grants: Iterable[tuple[Path, Access]]) -> tuple[str, ...]:
    """Leaves the calling thread and its future threads the granted access and no other.

    Needs no_new_privs. Returns the grants that could not be made, with the reason; OSError when nothing is restricted.
    """
    attributes = ruleset_attributes(abi)
    ruleset = call_libc("syscall", _CREATE_RULESET, attributes, len(attributes), 0)
    try:
        refused = [*_refused_grants(ruleset, grants, abi)]
        call_libc("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return tuple(refused)
