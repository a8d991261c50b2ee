"""A real MCP server, made with the official SDK: `python tests/mcp_server.py stdio FOLDER` or `... http FOLDER PORT`.

It keeps notes in FOLDER of what happens to it.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, TypedDict

import anyio
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp_types import CallToolResult, EmbeddedResource, TextContent, TextResourceContents, ToolAnnotations
from pydantic import BaseModel

FOLDER = Path(sys.argv[2])
PIXEL = b"\x89PNG\r\n\x1a\nnot really"

server = MCPServer("test server", version="1.0")


class Sum(TypedDict):
    total: int


class Answer(BaseModel):
    name: str


def note(name: str, text: str = "") -> None:
    (FOLDER / name).write_text(text)


@server.tool(
    structured_output=False, annotations=ToolAnnotations(title="Echo", read_only_hint=True, open_world_hint=False)
)
def echo(text: str) -> str:
    """Say it again."""
    return text


@server.tool(annotations=ToolAnnotations(destructive_hint=True, idempotent_hint=True))
def add(a: int, b: int) -> Sum:
    return {"total": a + b}


@server.tool(structured_output=False)
def picture() -> list[Any]:
    resource = TextResourceContents(uri="file:///notes", mime_type="text/plain", text="notes")
    return ["look", Image(data=PIXEL, format="png"), EmbeddedResource(type="resource", resource=resource)]


@server.tool(structured_output=False)
def nothing() -> None:
    """Gives no content."""


@server.tool()
def both() -> Annotated[CallToolResult, None]:
    picture = Image(data=PIXEL, format="png").to_image_content()
    return CallToolResult(content=[TextContent(type="text", text="{}"), picture], structured_content={"points": 3})


@server.tool()
def chart() -> Annotated[CallToolResult, Sum]:
    """A result that fits its schema, and a picture of it."""
    picture = Image(data=PIXEL, format="png").to_image_content()
    return CallToolResult(content=[TextContent(type="text", text="{}"), picture], structured_content={"total": 3})


@server.tool(structured_output=False)
def torn() -> CallToolResult:
    """Fails, and shows where."""
    picture = Image(data=PIXEL, format="png").to_image_content()
    return CallToolResult(content=[TextContent(type="text", text="torn"), picture], is_error=True)


@server.tool()
def fail(text: str) -> str:
    raise ValueError(text)


@server.tool()
async def slow(context: Context, seconds: float) -> str:
    """Works for a while, says how far it is, and notes when it is told to stop."""
    note("started")
    try:
        await context.report_progress(1, 4, "a quarter")
        await context.report_progress(2, 4, "half")
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        note("cancelled")
        raise
    return "done"


@server.tool(name="get user/by id")
def awkward_name() -> str:
    return "slash"


@server.tool(name="get_user_by_id")
def plain_name() -> str:
    return "plain"


@server.tool(name="run_tool")
def reserved_name() -> str:
    return "reserved"


@server.tool()
async def grow(context: Context) -> str:
    """Adds a tool, and tells everybody."""

    def grown() -> str:
        return "grown"

    server.add_tool(grown)
    await context.notify_tools_changed()
    return "more"


@server.tool()
def die() -> str:
    note("child", str(subprocess.Popen(["sleep", "1000"]).pid))
    print("I am dying", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
async def ask(context: Context) -> str:
    answer = await context.elicit("who are you?", Answer)
    return repr(answer)


@server.tool(structured_output=False)
def environment() -> str:
    return " ".join(sorted(os.environ))


@server.tool(structured_output=False)
def headers(context: Context) -> str:
    return str(dict(context.headers or {}).get("authorization"))


if __name__ == "__main__":
    note("pid", str(os.getpid()))
    if sys.argv[1] == "http":
        server.run("streamable-http", port=int(sys.argv[3]))
    else:
        server.run()
