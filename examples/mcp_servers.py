"""Tools of an MCP server, called from a snippet. The server, made with the official SDK, is this same file."""

import os
import sys
from typing import TypedDict

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from gateway.providers.mcp import McpSource, StdioServer
from sandbox import Exec

SNIPPET = """
for stop in tools.harbour.list_stops():
    boat = tools.harbour.next_boat(stop=stop, after="09:00")
    print(f"{stop:8} {boat['at']} to {boat['to']}")

try:
    tools.harbour.next_boat(stop="Atlantis", after="09:00")
except tools.ToolError as error:
    print(error.code, "-", error)

tools.harbour.extend_network(stop="Drøbak")          # the server has a new tool now, and says so
len(tools.search_tools("ferry timetable"))
"""


def serve() -> None:
    server = MCPServer("harbour", log_level="CRITICAL")
    boats = {"Aker": ("09:20", "Nesodden"), "Nesodden": ("09:45", "Aker")}

    class Boat(TypedDict):
        at: str
        to: str

    @server.tool(structured_output=False)
    def list_stops() -> str:
        """Where boats leave from."""
        return '["Aker", "Nesodden"]'

    @server.tool()
    def next_boat(stop: str, after: str) -> Boat:
        """The next ferry from a stop."""
        if stop not in boats:
            raise ToolError(f"no boat has ever stopped at {stop}")
        at, to = boats[stop]
        return {"at": max(at, after), "to": to}

    @server.tool(name="extend network")
    async def extend_network(stop: str, context: Context) -> str:
        """Adds a stop, and a tool for its timetable."""
        server.add_tool(lambda: stop, name="timetable", description=f"The ferry timetable of {stop}.")
        await context.notify_tools_changed()
        return "done"

    server.run()


if sys.argv[1:] == ["serve"]:
    serve()
else:
    server = StdioServer([sys.executable, __file__, "serve"], env={"PATH": os.defpath})
    with Exec() as exec:
        (report,) = exec.connect(McpSource("harbour", server))
        print("tools:", ", ".join(report.tool_ids))

        result = exec.execute_code(SNIPPET)
        print(result.stdout, end="")
        print(result.summary())

        (report,) = exec.refresh("harbour")
        print("tools:", ", ".join(report.tool_ids))
        print("ailing:", {name: why for name, why in exec.check_sources().items() if why})
        exec.disconnect("harbour")
        print("namespaces:", exec.list_namespaces())
