"""An `AsyncExec` as an MCP server: find tools, call them, run code that calls them. Needs the extra `mcp`.

async with AsyncExec() as exec:
    exec.register(...)
    await McpServer(exec, profile="hardened").serve_stdio()
"""

from gateway.errors import MissingExtra

try:
    from sandbox.server.mcp.server import Expose, McpServer
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] not in {"mcp", "mcp_types", "starlette", "uvicorn"}:
        raise
    raise MissingExtra("MCP servers", "mcp") from exc

__all__ = ["Expose", "McpServer"]
