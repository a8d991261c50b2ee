"""Tells clients that the list of tools is another one now."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from gateway.tools.changes import Change
from gateway.tools.registry import ToolRegistry

SETTLE_SECONDS = 0.1
"""Many tools that change together are told once."""

TELL_SECONDS = 5.0
"""How long a client may take to hear of it; it is asked again at the next change."""

_log = logging.getLogger(__name__)


class ListChanges:
    """Follows a registry for the clients of one server: those of 2026-07-28 subscribe, older ones are just told."""

    def __init__(self, registry: ToolRegistry) -> None:
        self._registry = registry
        self._bus = InMemorySubscriptionBus()
        self._connections: set[Connection] = set()
        self.listen = ListenHandler(self._bus)

    async def remember(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """A middleware of the server: keeps the connection of an older client until it closes."""
        connection = ctx.session._connection  # the SDK has no other way from a request to what outlives it
        is_new = ctx.method == "notifications/initialized" and connection not in self._connections
        if is_new and ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            self._connections.add(connection)
            connection.exit_stack.callback(self._connections.discard, connection)
        return await call_next(ctx)

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Tell clients of changes for as long as the context lasts."""
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def note(_change: Change) -> None:
            loop.call_soon_threadsafe(changed.set)

        unsubscribe = self._registry.subscribe(note)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tell, changed)
                yield
                tasks.cancel_scope.cancel()
        finally:
            unsubscribe()
            self.listen.close()

    async def _tell(self, changed: asyncio.Event) -> None:
        while True:
            await changed.wait()
            await anyio.sleep(SETTLE_SECONDS)
            changed.clear()
            await self._bus.publish(ToolsListChanged())
            async with anyio.create_task_group() as telling:
                for connection in self._connections:
                    telling.start_soon(_tell, connection)


async def _tell(connection: Connection) -> None:
    with anyio.move_on_after(TELL_SECONDS) as scope:
        await connection.send_tool_list_changed()
    if scope.cancelled_caught:
        _log.warning("an MCP client does not read what it is told")
