"""What a call reports while it is under way, as MCP's progress."""

import math
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext

from gateway.base import JsonValue
from gateway.payload import MAX_NESTING, encode, printable

REPORT_SECONDS = 5.0
"""How long a client may take to read one report; after that it gets no more of this call."""

MAX_TEXT = 4000
"""Longest message of a report, in characters."""


class Reports:
    """Reports for one request. MCP wants the number in them to rise each time; where nobody tells one, it counts."""

    def __init__(self, context: ServerRequestContext[Any, Any]) -> None:
        self._session = context.session
        self.wanted = "progress_token" in (context.meta or {})
        self._last = 0.0
        self._is_told = False

    async def progress(self, message: str, progress: float | None, total: float | None) -> None:
        """How far the call says that it is; a number that does not rise is left out with its message."""
        if progress is None:
            await self._send(message, self._next())
        elif progress > self._last:
            self._is_told = True
            await self._send(message, progress, total)

    async def part(self, part: JsonValue) -> None:
        """Part of the result, or of what was written."""
        await self._send(part if isinstance(part, str) else encode(part, MAX_NESTING + 1).decode(), self._next())

    def _next(self) -> float:
        return math.nextafter(self._last, math.inf) if self._is_told else self._last + 1

    async def _send(self, message: str, progress: float, total: float | None = None) -> None:
        if not self.wanted:
            return
        self._last = progress
        with anyio.move_on_after(REPORT_SECONDS) as scope:
            await self._session.report_progress(progress, total, printable(message, MAX_TEXT) or None)
        self.wanted = not scope.cancelled_caught
