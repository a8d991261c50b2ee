"""`toolexec tools`: look at tools, and call them, without a model or a sandbox."""

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

import sandbox
from gateway.base import LEVELS, DetailLevel, ToolSummary
from gateway.errors import InvalidRequest
from sandbox._exit import ExitCode, complete
from sandbox._options import read_code, tools_at
from sandbox._render import Screen, as_json, show_health, visible

Answer = TypeVar("Answer")

TOOLS = Annotated[
    list[str], typer.Option("--tools", metavar="WHERE", help="Where they are: MODULE:ATTR, or a .toml or .json.")
]
JSON = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]

app = typer.Typer(help="Look at tools, and call them.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def tools() -> None:
    """Look at tools, and call them."""


@app.command("list")
def list_tools(
    *, tools: TOOLS, namespace: Annotated[str | None, typer.Option(metavar="NAME")] = None, json_output: JSON = False
) -> None:
    """All tools, by id."""

    async def ask(host: "sandbox.AsyncExec") -> list[ToolSummary]:
        page = await host.list_tools(namespace=namespace)
        found = [*page.tools]
        while page.cursor is not None:
            page = await host.list_tools(cursor=page.cursor, namespace=namespace)
            found += page.tools
        return found

    _show(_ask(tools, ask, json_output=json_output), json_output=json_output)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="Words.")],
    *,
    tools: TOOLS,
    limit: Annotated[int, typer.Option(metavar="NUMBER", help="1 to 100.")] = 10,
    json_output: JSON = False,
) -> None:
    """The tools that fit these words best."""

    async def ask(host: "sandbox.AsyncExec") -> list[ToolSummary]:
        return list(await host.search_tools(query, limit))

    _show(_ask(tools, ask, json_output=json_output), json_output=json_output)


@app.command()
def show(
    tool_id: Annotated[str, typer.Argument(metavar="ID")],
    *,
    tools: TOOLS,
    level: Annotated[str, typer.Option(metavar="LEVEL", help=f"{', '.join(LEVELS)}.")] = "full",
) -> None:
    """What one tool is for and how to call it, as JSON."""
    if level not in LEVELS:
        raise typer.BadParameter(f"there are {', '.join(LEVELS)}", param_hint="--level")
    known: DetailLevel = level

    async def ask(host: "sandbox.AsyncExec") -> Any:
        return await host.describe_tool(tool_id, known)

    _print(_ask(tools, ask))


@app.command()
def stubs(*, tools: TOOLS) -> None:
    """The module `tools` as a snippet sees it, with all types: a .pyi file."""

    async def ask(host: "sandbox.AsyncExec") -> str:
        return await host.tool_stubs()

    typer.echo(_ask(tools, ask), nl=False)


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The snippet's file; - reads standard input.")],
    *,
    tools: TOOLS,
) -> None:
    """Look for errors of type in a snippet; run nothing. Exits with 1 if there are any."""

    async def ask(host: "sandbox.AsyncExec") -> list[str]:
        return [f"{file}:{found}" for found in await host.check_code(read_code(file))]

    found = _ask(tools, ask)
    for line in found:
        typer.echo(visible(line))
    raise typer.Exit(ExitCode.RAISED if found else ExitCode.COMPLETED)


@app.command()
def call(
    tool_id: Annotated[str, typer.Argument(metavar="ID")],
    arguments: Annotated[str, typer.Argument(metavar="JSON", help="An object of arguments.")] = "{}",
    *,
    tools: TOOLS,
    stream: Annotated[bool, typer.Option("--stream", help="Print each event on a line, as it comes.")] = False,
) -> None:
    """Call one tool; print its result as JSON."""

    async def ask(host: "sandbox.AsyncExec") -> Any:
        given = _arguments(arguments)
        if not stream:
            return await host.run_tool(tool_id, given)
        last = None
        async for event in host.stream_tool(tool_id, given):
            last = event
            _print({"kind": event.kind, "data": event.data, "error": event.error})
        return last

    result = _ask(tools, ask)
    if not stream:
        _print(result)
    elif result.kind == "error":
        raise typer.Exit(ExitCode.RAISED)


@app.command()
def health(*, tools: TOOLS, json_output: JSON = False) -> None:
    """How the tools are: healthy, degraded, unhealthy or unknown. Exits with 1 if one is unhealthy."""

    async def ask(host: "sandbox.AsyncExec") -> "sandbox.HealthSummary":
        return await host.health()

    found = _ask(tools, ask, json_output=json_output)
    if json_output:
        _print(as_json(found))
    else:
        show_health(found)
    raise typer.Exit(ExitCode.RAISED if found.status is sandbox.HealthStatus.UNHEALTHY else ExitCode.COMPLETED)


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"the arguments are no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidRequest(f"the arguments must be a JSON object, not {type(found).__name__}")
    return found


def _ask(
    where: list[str], ask: "Callable[[sandbox.AsyncExec], Awaitable[Answer]]", *, json_output: bool = False
) -> Answer:
    """The answer of an `AsyncExec` that has these tools."""

    async def work() -> Answer:
        async with aclosing(sandbox.AsyncExec()) as host:
            host.register(*(tool for one in where for tool in tools_at(one)))
            return await ask(host)

    return complete(work(), Screen(), json_output=json_output)


def _show(found: list[ToolSummary], *, json_output: bool) -> None:
    if json_output:
        _print([{"id": tool.id, "description": tool.description, "score": tool.score} for tool in found])
        return
    table = Table("tool", "what for", box=None, pad_edge=False, header_style="dim")
    for tool in found:
        table.add_row(visible(tool.id), visible(tool.description))
    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        console.print(table)
    else:
        for tool in found:
            typer.echo(f"{visible(tool.id)}\t{visible(tool.description)}")


def _print(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))
