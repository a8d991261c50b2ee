"""Which version of a tool answers to its id without a version."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from gateway.errors import InvalidRequest
from gateway.tools.model import Tool, version_key

VersionSelector: TypeAlias = Callable[[Sequence[Tool]], Tool]
"""Chooses one of two or more versions of a tool, which it is given oldest first. Asked whenever they change."""


def chosen_version(tools: Iterable[Tool], selector: VersionSelector | None) -> Tool | None:
    """The newest of these, or what `selector` says. A tool without version is what its own id means, always.

    Raises InvalidRequest when the selector fails, or gives none of them.
    """
    versions = sorted(tools, key=_rank)
    if selector is None or len(versions) < 2 or not versions[-1].id.version:
        return versions[-1] if versions else None
    family = versions[-1].id.unversioned
    try:
        chosen = selector(tuple(versions))
    except Exception as exc:
        raise InvalidRequest(f"choosing a version of {family} failed: {type(exc).__name__}: {exc}") from exc
    if not any(chosen is version for version in versions):
        raise InvalidRequest(f"the selector must give one of the versions of {family} that it was given")
    return chosen


def _rank(tool: Tool) -> tuple[bool, tuple[Any, ...]]:
    return not tool.id.version, version_key(tool.id.version)
