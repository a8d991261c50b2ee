"""The order of versions, which of them fit each other, and which one answers to a tool's id without a version."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from gateway.errors import InvalidRequest
from gateway.tools.model import Tool, ToolId

VersionSelector: TypeAlias = Callable[[Sequence[Tool]], Tool | None]
"""Chooses one of the versions of a tool, which it is given oldest first, to answer to the id without version; with None
that id leads nowhere. Asked whenever the versions change.
"""

_RELEASED = (1,)

_NAMED = re.compile(r"[A-Za-z_][A-Za-z0-9_.+-]*")
_VERSION = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")


def version_key(version: str) -> tuple[Any, ...]:
    """Sorts versions: Semantic Versioning's order where it parses as such (1.2 counts as 1.2.0), text below that.

    What differs only after a `+` is of the same age, and sorted as text.
    """
    parsed = _VERSION.fullmatch(version)
    if parsed is None:
        return (0, version)
    release = tuple(int(part or 0) for part in parsed.group(1, 2, 3))
    pre = parsed.group(4)
    if pre is None:
        return (1, release, (1,), version)
    parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in pre.split("."))
    return (1, release, (0, parts), version)


def is_compatible(version: str, wanted: str) -> bool:
    """Whether what was written for the version `wanted` works with `version`, by the rules of Semantic Versioning.

    It must not be older, and have the same major version; below 1.0.0 the same minor one, below 0.1.0 the same patch.
    Before its release a version fits only what was written for an earlier one of that release. Versions that are not
    semantic fit themselves.
    """
    found, asked = version_key(version), version_key(wanted)
    if not (found[0] and asked[0]):
        return version == wanted
    first = next((at for at, part in enumerate(asked[1]) if part), 2)
    same = found[1][: first + 1] == asked[1][: first + 1]
    return same and found[:3] >= asked[:3] and (found[2] == _RELEASED or found[1] == asked[1])


class CompatibleVersions:
    """A `VersionSelector` by the versions that callers were written for: `CompatibleVersions({"hr:report": "1.2"})`.

    Keys are ids without version, or namespaces for all their tools. The newest version that `is_compatible` answers, or
    none; of tools that are not named, the newest of all. Raises InvalidToolId, and InvalidRequest for a key with a
    version of its own, or a value that is none.
    """

    def __init__(self, wanted: Mapping[str, str]) -> None:
        for key, version in wanted.items():
            if (tool_id := ToolId.parse(key)).version:
                raise InvalidRequest(f"{key!r} has a version; write {{{tool_id.unversioned!r}: {tool_id.version!r}}}")
            given: object = version  # of a type that a config file may not have kept
            if not (isinstance(given, str) and (_VERSION.fullmatch(given) or _NAMED.fullmatch(given))):
                raise InvalidRequest(f"{version!r:.100}, wanted of {key!r}, is no version; write one, such as '1.2'")
        self._wanted = dict(wanted)

    def __call__(self, versions: Sequence[Tool]) -> Tool | None:
        tool_id = versions[-1].id
        wanted = self._wanted.get(tool_id.unversioned) or self._wanted.get(tool_id.namespace)
        fitting = [tool for tool in versions if wanted is None or is_compatible(tool.id.version, wanted)]
        return fitting[-1] if fitting else None


def chosen_version(tools: Iterable[Tool], selector: VersionSelector | None) -> Tool | None:
    """The newest of these, or what `selector` says. A tool without version is what its own id means, always.

    Raises InvalidRequest when the selector fails, or gives none of them.
    """
    versions = sorted(tools, key=_rank)
    if selector is None or not versions or not versions[-1].id.version:
        return versions[-1] if versions else None
    family = versions[-1].id.unversioned
    try:
        chosen = selector(tuple(versions))
    except Exception as exc:
        raise InvalidRequest(f"choosing a version of {family} failed: {type(exc).__name__}: {exc}") from exc
    if chosen is not None and not any(chosen is version for version in versions):
        raise InvalidRequest(f"the selector must give one of the versions of {family} that it was given, or None")
    return chosen


def _rank(tool: Tool) -> tuple[bool, tuple[Any, ...]]:
    return not tool.id.version, version_key(tool.id.version)
