"""A group as a tool of its own: a call of it is a call of the member that is chosen, recorded like any other."""

from collections.abc import Mapping
from typing import Any

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import InvalidRequest, ToolFailed
from gateway.grant import Grant
from gateway.selection.group import ToolGroup
from gateway.selection.selection import Selection, context_of
from gateway.tools.model import Tool, ToolId
from gateway.tools.registry import RegisteredTool, ToolRegistry


class GroupProvider:
    """Answers with the tool that the group chooses for the caller."""

    forwards = True

    def __init__(self, selection: Selection, group: ToolGroup) -> None:
        self._selection = selection
        self._group = group

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        call_tool = context.call_tool
        if call_tool is None:
            raise ToolFailed(f"the group {self._group.name!r} can be called at a gateway only")
        grant = Grant(caller=context.caller)

        def permits(tool: RegisteredTool) -> bool:
            return grant.admits(tool.tool.roles) and not isinstance(tool.tool.provider, GroupProvider)

        return await self._selection.run(
            self._group,
            lambda tool_id: call_tool(tool_id, arguments),
            context.caller,
            permits,
            context_of(context.caller, arguments),
        )

    async def health(self) -> None:
        """A group is as well as its members."""
        raise NotImplementedError("ask its members")

    async def aclose(self) -> None:
        """The members are closed for themselves."""


def group_tool(
    selection: Selection,
    registry: ToolRegistry,
    group: ToolGroup,
    *,
    description: str = "",
    input_schema: Mapping[str, Any] | None = None,
) -> Tool:
    """The group as a tool; its input is that of its first member unless a schema says otherwise.

    Raises InvalidRequest when no member is registered yet and no schema is given.
    """
    members = [found.tool for tool_id in group.tool_ids if (found := registry.find(tool_id)) is not None]
    if input_schema is None and not members:
        raise InvalidRequest(f"no tool of the group {group.name!r} is registered; register them first")
    selection.add(group)
    return Tool(
        id=ToolId.parse(group.name),
        provider=GroupProvider(selection, group),
        description=description or (members[0].description if members else ""),
        input_schema=dict(members[0].input_schema if input_schema is None else input_schema),
        timeout_seconds=max((member.timeout_seconds for member in members), default=30.0),
        read_only=True if members and all(member.read_only for member in members) else None,
    )
