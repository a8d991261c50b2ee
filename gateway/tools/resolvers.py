"""Tools that are looked up when they are asked for, not registered ahead."""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import anyio
import anyio.to_thread

from gateway.errors import InvalidRequest, ToolError, ToolFailed, ToolUnavailable
from gateway.payload import printable
from gateway.tools.model import Tool, ToolId

ToolResolver: TypeAlias = Callable[[ToolId], Tool | Awaitable[Tool | None] | None]
"""Given an id that is not registered: its tool, or None where there is none. Async, or sync and then run in a thread.

The tool has that id; where it was asked for without a version, it may have one. What it holds is the resolver's to
close.
"""

RESOLVE_SECONDS = 10.0
"""How long one resolver may take."""

_MAX_THREADS = 8
_MAX_TEXT = 2000


class Resolvers:
    """Asks one after another until one knows the tool. Raises InvalidRequest for what cannot be called."""

    def __init__(self, resolvers: Iterable[ToolResolver], *, seconds: float = RESOLVE_SECONDS) -> None:
        self._resolvers = tuple(resolvers)
        self._seconds = seconds
        self._threads = anyio.CapacityLimiter(_MAX_THREADS)
        for resolver in self._resolvers:
            if not callable(resolver):
                raise InvalidRequest(f"a resolver must be a function of a tool id, not {type(resolver).__name__}")

    def __bool__(self) -> bool:
        return bool(self._resolvers)

    async def ask(self, wanted: ToolId) -> Tool | None:
        """The tool of this id. A resolver's ToolError comes out as it is; raises ToolFailed when one fails otherwise or
        gives another tool, ToolUnavailable when one does not answer in time."""
        for resolver in self._resolvers:
            found = await self._answer(resolver, wanted)
            if found is not None:
                return _checked(found, wanted)
        return None

    async def _answer(self, resolver: ToolResolver, wanted: ToolId) -> object:
        with anyio.move_on_after(self._seconds):
            try:
                return await self._call(resolver, wanted)
            except ToolError:
                raise
            except Exception as exc:
                reason = printable(f"{type(exc).__name__}: {exc}", _MAX_TEXT)
                raise ToolFailed(f"looking up {wanted} failed: {reason}", details={"type": type(exc).__name__}) from exc
        raise ToolUnavailable(f"the catalogue that is asked for {wanted}", f"no answer within {self._seconds:g} s")

    async def _call(self, resolver: Callable[[ToolId], Any], wanted: ToolId) -> object:
        if inspect.iscoroutinefunction(resolver):
            return await resolver(wanted)
        answer = await anyio.to_thread.run_sync(resolver, wanted, abandon_on_cancel=True, limiter=self._threads)
        return await answer if inspect.isawaitable(answer) else answer  # of an object that is called like a function


def _checked(found: object, wanted: ToolId) -> Tool:
    if not isinstance(found, Tool):
        raise ToolFailed(f"looking up {wanted} gave {type(found).__name__}, not a Tool", details={"type": "TypeError"})
    if str(wanted) not in (str(found.id), found.id.unversioned):
        raise ToolFailed(f"looking up {wanted} gave {found.id}, which is another tool", details={"type": "ValueError"})
    return found
