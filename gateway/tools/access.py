"""Which tools a grant gives, and what a call uses, for keeping the order of calls that would disturb each other."""

import re
from collections.abc import Mapping

import anyio.to_thread

from gateway.base import JsonValue
from gateway.grant import Grant
from gateway.parallel import Access
from gateway.tools.model import Tool
from gateway.tools.registry import RegisteredTool, ToolRegistry

_ARGUMENT = re.compile(r"\{(\w+)\}")


def permits(grant: Grant, tool: RegisteredTool) -> bool:
    """Whether the grant allows the tool and its caller has a role for it. Says nothing of budget and time."""
    return (grant.permits(tool.address) or grant.permits(tool.id)) and grant.admits(tool.tool.roles)


async def stubs_for(grant: Grant, registry: ToolRegistry) -> str:
    """The stubs of the tools that the grant gives, written in a worker thread: thousands of them take a while."""
    from gateway.tools.stubs import stub_module  # noqa: PLC0415 - a twentieth of our import time, and rarely needed

    tools = [tool for tool in registry.tools() if permits(grant, tool)]
    return await anyio.to_thread.run_sync(stub_module, tools)


def access_of(tool: Tool, arguments: Mapping[str, JsonValue]) -> Access:
    """The resource that a call of `tool` uses, and whether it writes: a tool that does not say it is read-only does.

    `arguments` as the provider gets them: what is the same account to it must be the same resource here. One that is
    missing stands as it is written.
    """
    resource = tool.resource or tool.id.namespace or tool.id.name
    filled = _ARGUMENT.sub(lambda found: str(arguments.get(found[1], found[0])), resource)
    return Access(filled, writes=not tool.read_only)
