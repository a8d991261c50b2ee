"""MCP servers as sources of tools. Needs the extra `mcp`."""

from gateway.providers.mcp.source import HttpServer, McpSource, StdioServer

__all__ = ["HttpServer", "McpSource", "StdioServer"]
