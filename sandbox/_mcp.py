"""`toolexec mcp`: the tools, and sandboxes for code that calls them, as an MCP server."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import anyio
import typer

import sandbox
from gateway.context import Caller
from gateway.errors import InvalidRequest
from sandbox._exit import complete
from sandbox._options import parse_limits, tools_at
from sandbox._render import Screen

TOKEN = "TOOLEXEC_MCP_TOKEN"  # noqa: S105 - the name of a variable
"""Where the token is looked for in the environment when no file is named."""


def mcp(
    *,
    tools: Annotated[
        list[str] | None, typer.Option(metavar="WHERE", help="Tools to offer: MODULE:ATTR, or a .toml or .json.")
    ] = None,
    expose: Annotated[
        str, typer.Option(metavar="WHAT", help="metatools (search, describe, run, code), tools or both.")
    ] = "metatools",
    allow_tool: Annotated[list[str] | None, typer.Option(metavar="ID", help="Offer these only.")] = None,
    role: Annotated[str, typer.Option(metavar="NAME", help="The role that clients act in.")] = "",
    code: Annotated[bool, typer.Option("--code/--no-code", help="Whether clients may run code.")] = True,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="The weakest profile for code. [default: standard]")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="The most for code: wall_seconds=5, and so on.")
    ] = None,
    allow_unsafe: Annotated[bool, typer.Option("--allow-unsafe", help="Permit backends that do not isolate.")] = False,
    call_seconds: Annotated[float, typer.Option(metavar="SECONDS", help="Longest call of a tool or chain.")] = 300.0,
    max_calls: Annotated[int, typer.Option(metavar="NUMBER", help="Calls under way at once.")] = 64,
    http: Annotated[bool, typer.Option("--http", help="Serve streamable HTTP, not standard input and output.")] = False,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="With --http; others than loopback need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="NUMBER", help="With --http; 0 is any that is free.")] = 8080,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"With --http; holds the bearer token. [default: ${TOKEN}]")
    ] = None,
) -> None:
    """Serve the tools to MCP clients, over standard input and output unless --http is given.

    Clients get no more than these options allow; in what they ask for they may go below it.
    """

    async def serve() -> None:
        from sandbox.server.mcp import McpServer  # noqa: PLC0415 - an extra's

        async with aclosing(sandbox.AsyncExec(allow_unsafe=allow_unsafe or None)) as exec:
            exec.register(*(tool for where in tools or () for tool in tools_at(where)))
            server = McpServer(
                exec,
                expose=expose,  # type: ignore[arg-type]  # checked there
                allowed_tools=allow_tool,
                caller=Caller(role=role),
                execute_code=code,
                profile=profile,
                limits=parse_limits(limit or ()),
                call_seconds=call_seconds,
                max_calls=max_calls,
            )
            if not http:
                await _until_terminated(server.serve_stdio)
                return
            token = read_token(token_file)
            await _until_terminated(lambda: server.serve_http(host=host, port=port, token=token, started=_say))

    complete(serve(), Screen(), json_output=False)


def read_token(file: Path | None) -> str | None:
    """The token in the file, else in the environment, if there is one."""
    if file is None:
        return os.environ.get(TOKEN)
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"--token-file {file} cannot be read: {error}") from error


async def _until_terminated(serve: Callable[[], Awaitable[None]]) -> None:
    """A service is stopped with SIGTERM: what it has open is closed then."""
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        loop.add_signal_handler(signal.SIGTERM, scope.cancel)
        try:
            await serve()
        finally:
            loop.remove_signal_handler(signal.SIGTERM)


def _say(url: str) -> None:
    print(f"serving MCP at {url}", file=sys.stderr, flush=True)
