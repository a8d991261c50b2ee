"""What one execution may call, and how it finds out."""

from collections.abc import Sequence

import anyio

from gateway.base import DetailLevel, JsonValue, ToolPage, ToolSummary
from gateway.errors import DeadlineExceeded, InvalidInput, ToolDenied, ToolNotFound
from gateway.grant import Grant
from gateway.tools.access import permits
from gateway.tools.docs import describe, examples
from gateway.tools.model import ToolId
from gateway.tools.registry import RegisteredTool, ToolRegistry
from gateway.tools.search import ToolSearch

MAX_LIMIT = 100
_MAX_HINTS = 50
"""Unknown ids of one execution that resolvers are asked for, and that are answered with the names of similar tools."""


class Discovery:
    """The tools of one grant, and of no other."""

    def __init__(self, grant: Grant, registry: ToolRegistry, search: ToolSearch) -> None:
        self.grant = grant
        self._registry = registry
        self._search = search
        self._hints = 0

    async def search_tools(
        self, query: str, limit: int = 10, *, namespace: str | None = None, tags: Sequence[str] = ()
    ) -> tuple[ToolSummary, ...]:
        self._check_open()
        check_limit(limit)
        return await self._search.find(query, limit, namespace=namespace, tags=tags, permits=self._permits)

    async def list_tools(
        self,
        limit: int = 100,
        cursor: str | None = None,
        *,
        query: str = "",
        namespace: str | None = None,
        tags: Sequence[str] = (),
    ) -> ToolPage:
        self._check_open()
        check_limit(limit)
        page = await self._search.page(query, limit, cursor, namespace=namespace, tags=tags, permits=self._permits)
        return ToolPage(page.items, page.cursor)

    async def describe_tool(self, tool_id: str, level: DetailLevel = "summary") -> dict[str, JsonValue]:
        return describe(await self._granted(tool_id), level)

    async def list_namespaces(self) -> tuple[str, ...]:
        self._check_open()
        return tuple(sorted({tool.tool.id.namespace for tool in self._registry.tools() if self._permits(tool)}))

    async def list_tool_examples(self, tool_id: str, limit: int = 5) -> tuple[dict[str, JsonValue], ...]:
        if limit > 0:
            check_limit(limit)
        return examples(await self._granted(tool_id), limit)

    async def _granted(self, tool_id: str) -> RegisteredTool:
        """The tool, if this execution may call it now. Names of tools that it may not call are not given away."""
        tool = self._registry.find(tool_id) or await self._resolved(tool_id)
        # Whoever may call `crm:lookup` may call the version that this means now.
        self.grant.check(tool.address if self.grant.permits(tool.address) else tool.id)
        if not self.grant.admits(tool.tool.roles):
            raise ToolDenied(tool_id)
        return tool

    async def _resolved(self, tool_id: str) -> RegisteredTool:
        """What resolvers know by an id that is not registered: only what may be called, and not without end."""
        if not self.grant.permits(tool_id) or self._hints >= _MAX_HINTS:
            raise self._unknown(tool_id)
        self._check_open()
        with anyio.move_on_after(self.grant.remaining_seconds()):
            tool = await self._registry.lookup(tool_id)
            if tool is None:
                raise self._unknown(tool_id)
            return tool
        raise DeadlineExceeded

    def _unknown(self, tool_id: str) -> ToolNotFound:
        ToolId.parse(tool_id)
        self._hints += 1
        near = self._registry.near(tool_id, self._permits) if self._hints <= _MAX_HINTS else ()
        return ToolNotFound(tool_id, near)

    def _permits(self, tool: RegisteredTool) -> bool:
        return permits(self.grant, tool)

    def _check_open(self) -> None:
        if self.grant.closed or self.grant.remaining_seconds() == 0:
            raise DeadlineExceeded


def check_limit(limit: int) -> None:
    """Raise InvalidInput unless a search or a list may be so long."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"limit must be 1 to {MAX_LIMIT}, not {limit}")
