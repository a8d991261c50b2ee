"""Files into the guest's working folder before the snippet runs, and what it left there out again."""

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

MAX_FILES = 100
MAX_BYTES = 16 << 20

Snapshot = dict[str, tuple[int, int, int]]
"""By relative path: size, time of the last change in nanoseconds, inode."""


def write_files(root: Path, files: Mapping[str, bytes]) -> None:
    """Write each file under its relative POSIX path. Raises ValueError, before writing any, for a path that leaves
    the folder.
    """
    targets = {root / _checked(path): data for path, data in files.items()}
    for target, data in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def snapshot(root: Path) -> Snapshot:
    """The regular files below the folder; links are neither listed nor followed."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            facts = _facts(path)
            if facts is not None:
                found[path.relative_to(root).as_posix()] = facts
    return found


def collect_files(
    root: Path, before: Snapshot, report: Callable[[str], object] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Files that appeared or changed since `before`, sorted by path: at most MAX_FILES, MAX_BYTES in total.

    Collection ends at the first file beyond these. What is left out is told once, at the end, to `report`
    (default: a line on stderr). Files that cannot be read or named in UTF-8 are left out too.
    """
    changed = sorted(path for path, facts in snapshot(root).items() if before.get(path) != facts)
    left_out: list[str] = []
    room = MAX_BYTES
    for index, path in enumerate(changed[:MAX_FILES]):
        data = _read(root / path, room) if _is_utf8(path) else None
        if data is None:
            left_out.append(path)
            continue
        room -= len(data)
        if room < 0:
            left_out += changed[index:MAX_FILES]
            break
        yield path, data
    left_out += changed[MAX_FILES:]
    if left_out:
        (report or _to_stderr)(_message(left_out))


def _checked(path: str) -> PurePosixPath:
    parts = path.split("/")
    if "\0" in path or "\\" in path or any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"{path!r} is no path of a file inside the working folder; use names joined by '/'")
    return PurePosixPath(path)


def _facts(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = path.lstat()
    except OSError:
        return None
    return (facts.st_size, facts.st_mtime_ns, facts.st_ino) if stat.S_ISREG(facts.st_mode) else None


def _read(path: Path, room: int) -> bytes | None:
    """The content; one byte more than there is room for, when it is larger. None when it cannot be read."""
    try:
        # What was a file a moment ago may be a link or a pipe now.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor, not a path
            return file.read(room + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _message(left_out: list[str]) -> str:
    count = "1 file" if len(left_out) == 1 else f"{len(left_out)} files"
    return (
        f"toolexec: {count} not kept, the first being {left_out[0]!a}: "
        f"at most {MAX_FILES} readable files and {MAX_BYTES >> 20} MiB in total are"
    )


def _to_stderr(message: str) -> None:
    with contextlib.suppress(Exception):  # by now the stream may be closed, or the guest's own
        print(message, file=sys.stderr, flush=True)
