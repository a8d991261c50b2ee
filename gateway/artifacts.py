"""Artifacts: bytes by name, kept beside values: files that a snippet left, or what a tool attached to its call."""

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.errors import InvalidRequest, PayloadTooLarge

MAX_ARTIFACTS = 100
MAX_ARTIFACT_BYTES = 16 << 20
"""Of one execution together, counted apart for what its snippet leaves and for what its tools attach."""

MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 255
"""Of one part of a path, as file systems have it."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file the snippet left in its working folder, or what a tool attached to its call. `path` is relative, with
    forward slashes; it is a name, and was never a path on this host."""

    path: str
    data: bytes = field(repr=False)


Attach: TypeAlias = Callable[[Artifact], None]


def is_plain(path: str) -> bool:
    """Whether this is a relative POSIX path of plain names."""
    encoded = path.encode(errors="replace")
    parts = encoded.split(b"/")
    if b"\0" in encoded or {b"", b".", b".."} & {*parts}:
        return False
    return len(encoded) <= MAX_PATH_BYTES and max(map(len, parts)) <= MAX_NAME_BYTES


def checked(name: object, data: object) -> Artifact:
    """What a tool attaches, with bytes of our own. Raises InvalidRequest."""
    if not (isinstance(name, str) and is_plain(name) and _is_unicode(name)):
        raise InvalidRequest(
            f"an artifact's name must be a relative path with forward slashes and no '.' or '..', not {name!r:.200}"
        )
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InvalidRequest(f"artifact {name!r:.200} must be bytes, not {type(data).__name__}; encode text first")
    return Artifact(name, bytes(data))


class ArtifactBudget:
    """What the tools of one execution may attach together, less what is `used` already."""

    __slots__ = ("_files", "_size_bytes", "lock")

    def __init__(self, used: Iterable[Artifact] = ()) -> None:
        self.lock = threading.Lock()
        """Tools attach from any thread; whoever changes what an attempt has, or these counts, holds it."""
        self._files, self._size_bytes = _count(tuple(used))

    def take(self, files: int, size_bytes: int) -> None:
        """Count more of them, or fewer. Raises InvalidRequest, PayloadTooLarge; then nothing is counted."""
        if self._files + files > MAX_ARTIFACTS:
            raise InvalidRequest(f"one execution has at most {MAX_ARTIFACTS} artifacts; attach an archive of them")
        if self._size_bytes + size_bytes > MAX_ARTIFACT_BYTES:
            raise PayloadTooLarge("what this execution attached", self._size_bytes + size_bytes, MAX_ARTIFACT_BYTES)
        self._files += files
        self._size_bytes += size_bytes


class Attached:
    """What a call's tool attached, one attempt after another. `kept` is from the attempt that succeeded."""

    __slots__ = ("_budget", "_counted", "_next", "kept")

    def __init__(self, budget: ArtifactBudget | None = None) -> None:
        self.kept: tuple[Artifact, ...] = ()
        self._budget = budget or ArtifactBudget()
        self._counted = (0, 0)
        self._next: _Attempt | None = None

    def next(self) -> Attach:
        """What the attempt to come will take."""
        self._next = _Attempt(self, self._budget)
        return self._next

    def attempt(self) -> AbstractContextManager[Attach]:
        """Takes what is attached within it. When it raises, that is dropped."""
        found, self._next = self._next or _Attempt(self, self._budget), None
        return found

    def ended(self, found: tuple[Artifact, ...], *, succeeded: bool) -> None:
        """Of one attempt; the budget has counted `found`."""
        if not succeeded:
            self._give_back(*_count(found))
            return
        self.drop()
        if found:
            self.kept, self._counted = found, _count(found)

    def mask(self, masked: Callable[[Artifact], Artifact]) -> None:
        """Keep what `masked` makes of each."""
        if self.kept:
            self.kept = tuple({artifact.path: artifact for artifact in map(masked, self.kept)}.values())

    def drop(self) -> None:
        """Of a call that fails although its tool succeeded, or whose tool is asked once more."""
        counted, self.kept, self._counted = self._counted, (), (0, 0)
        self._give_back(*counted)

    def _give_back(self, files: int, size_bytes: int) -> None:
        if files:
            with self._budget.lock:
                self._budget.take(-files, -size_bytes)


class _Attempt:
    """Takes the artifacts of one attempt; a thread that outlives it is told that it is late. A copy is the same."""

    __slots__ = ("_attached", "_budget", "_found", "_is_open")

    def __init__(self, attached: Attached, budget: ArtifactBudget) -> None:
        self._attached = attached
        self._budget = budget
        self._found: dict[str, Artifact] = {}
        self._is_open = True

    def __enter__(self) -> Attach:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: object, tb: object) -> None:
        with self._budget.lock:
            self._is_open = False
        self._attached.ended(tuple(self._found.values()), succeeded=exc_type is None)

    def __call__(self, artifact: Artifact, /) -> None:
        with self._budget.lock:
            if not self._is_open:
                raise InvalidRequest("the call has ended; attach before the tool returns")
            before = self._found.get(artifact.path)
            more_bytes = len(artifact.data) - (0 if before is None else len(before.data))
            self._budget.take(int(before is None), more_bytes)
            self._found[artifact.path] = artifact

    def __deepcopy__(self, memo: dict[int, object]) -> "_Attempt":
        del memo
        return self


def _count(artifacts: tuple[Artifact, ...]) -> tuple[int, int]:
    return len(artifacts), sum([len(artifact.data) for artifact in artifacts])


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
