"""The folders that a guest has as its whole file system. A guest that did nothing to them hands them on: to make and
remove three folders for each takes up to an eighth of a worker's time."""

import contextlib
import itertools
import os
import shutil
from pathlib import Path


class Place:
    """`root` is what a guest sees as `/`: two empty folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders = root, root / "work", root / "tmp"
        for folder in self._folders:
            folder.mkdir()
        self._as_made = self._facts()

    def is_touched(self) -> bool:
        """Whether a guest left anything, or its dates tell that it did something."""
        try:
            return not self._is_empty() or self._facts() != self._as_made
        except OSError:  # a guest removed a folder
            return True

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

    def _is_empty(self) -> bool:
        return [len(os.listdir(folder)) for folder in self._folders] == [2, 0, 0]  # noqa: PTH208 - a third of the time

    def _facts(self) -> list[tuple[int, ...]]:
        """A guest cannot set dates: the worker's filter refuses that."""
        found = [folder.lstat() for folder in self._folders]
        return [(one.st_ino, one.st_mode, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in found]


class Places:
    """Of one worker, in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._free: list[Place] = []

    def take(self) -> Place:
        """An empty one that is nobody's."""
        try:
            return self._free.pop()
        except IndexError:
            return Place(self._folder / str(next(self._numbers)))

    def give_back(self, place: Place) -> None:
        """The next guest gets it, if this one left it as it was."""
        if place.is_touched():
            place.remove()
        else:
            self._free.append(place)
