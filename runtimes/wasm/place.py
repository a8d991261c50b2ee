"""The folders that a guest has as its whole file system. A guest that did nothing to them hands them on: to make and
remove three folders for each takes up to an eighth of a worker's time."""

import contextlib
import itertools
import os
import shutil
import time
from pathlib import Path

COARSE_SECONDS = 0.02
"""Dates of a file system may be as coarse as a tick of the kernel, which is at most half of this."""


class Place:
    """`root` is what a guest sees as `/`: two empty folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders = root, root / "work", root / "tmp"
        for folder in self._folders:
            folder.mkdir()
        self._as_made = self._state()
        self._dated = time.monotonic() + COARSE_SECONDS
        self._is_young = True

    def begin(self) -> None:
        """A guest has it from now on."""
        self._is_young = time.monotonic() < self._dated

    def is_touched(self) -> bool:
        """Whether a guest made or removed anything. It cannot set dates: the worker's filter refuses that."""
        return self._state() != self._as_made or (self._is_young and not self._is_empty())

    def size_bytes(self) -> int:
        """Of all files in it."""
        total = 0
        for root, _, names in os.walk(self.root):
            for name in names:
                with contextlib.suppress(OSError):
                    total += Path(root, name).lstat().st_size
        return total

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def _state(self) -> list[tuple[int, ...]]:
        return [_facts(folder) for folder in self._folders]

    def _is_empty(self) -> bool:
        return [len([*folder.iterdir()]) for folder in self._folders] == [2, 0, 0]


def _facts(folder: Path) -> tuple[int, ...]:
    try:
        found = folder.lstat()
    except OSError:  # a guest removed it
        return ()
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Places:
    """Of one worker, in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._free: list[Place] = []

    def take(self) -> Place:
        """An empty one that is nobody's."""
        try:
            place = self._free.pop()
        except IndexError:
            place = Place(self._folder / str(next(self._numbers)))
        place.begin()
        return place

    def give_back(self, place: Place) -> None:
        """The next guest gets it, if this one left it as it was."""
        if place.is_touched():
            place.remove()
        else:
            self._free.append(place)
