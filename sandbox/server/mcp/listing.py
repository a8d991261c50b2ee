"""The tools that a client sees, and by which names."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.base import JsonValue
from gateway.errors import InvalidCursor
from gateway.grant import Grant
from gateway.tools.access import permits
from gateway.tools.export import exported_names, mcp_tool
from gateway.tools.registry import RegisteredTool, ToolRegistry

PAGE = 100
"""Most registered tools on one page."""


class Listing:
    """The server's `own` tools, and with `exposes_tools` those of the registry that `rights` permit, by id."""

    def __init__(
        self, registry: ToolRegistry, rights: Grant, own: Sequence[dict[str, JsonValue]], *, exposes_tools: bool
    ) -> None:
        self._registry = registry
        self._rights = rights
        self._own = {str(tool["name"]): tool for tool in own}
        self._exposes_tools = exposes_tools
        self._version = -1
        self._by_name: dict[str, RegisteredTool] = {}
        self._names: dict[str, str] = {}

    def page(self, cursor: str | None) -> tuple[list[dict[str, JsonValue]], str | None]:
        """The tools after the page that gave `cursor`, and the cursor of the next one. Raises InvalidCursor."""
        own = list(self._own.values()) if cursor is None else []
        if not self._exposes_tools:
            if cursor is not None:
                raise InvalidCursor("is not one of this list, which has one page")
            return own, None
        self._settle()
        page = self._registry.page(PAGE, cursor, permits=self._permits)
        return [*own, *(mcp_tool(tool.tool, self._names[tool.id]) for tool in page.items)], page.cursor

    def find(self, name: str) -> RegisteredTool | None:
        """The registered tool that is listed by this name."""
        if not self._exposes_tools:
            return None
        self._settle()
        return self._by_name.get(name)

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        """That of a tool that is listed."""
        if name in self._own:
            schema: Mapping[str, Any] = self._own[name]["inputSchema"]
            return schema
        found = self.find(name)
        return None if found is None else found.tool.input_schema

    def _permits(self, tool: RegisteredTool) -> bool:
        return permits(self._rights, tool)

    def _settle(self) -> None:
        """Names depend on all that are listed, so they are given anew when the registry has changed."""
        if self._version != self._registry.version:
            self._by_name = exported_names(filter(self._permits, self._registry.tools()), taken=self._own)
            self._names = {tool.id: name for name, tool in self._by_name.items()}
            self._version = self._registry.version
