"""`toolexec journal replay` and `resume`: run what was recorded again, or go on with it."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.text import Text

import sandbox
from sandbox._exit import ExitCode, complete, exit_code
from sandbox._journal import EXECUTION, JSON, URL, journal_url
from sandbox._options import read_code, tools_at
from sandbox._render import Screen, as_json, visible
from sandbox.result import ExecutionResult

Answer = TypeVar("Answer")

TOOLS = Annotated[
    list[str] | None, typer.Option("--tools", metavar="WHERE", help="Tools to offer: MODULE:ATTR, or a .toml or .json.")
]
UNSAFE = Annotated[bool, typer.Option("--allow-unsafe", help="Permit backends that do not isolate.")]


def add_to(journal: typer.Typer) -> None:
    """Make them commands of `toolexec journal`."""
    journal.command()(replay)
    journal.command()(resume)


def replay(
    execution_id: EXECUTION,
    *,
    url: URL = None,
    tools: TOOLS = None,
    backend: Annotated[str | None, typer.Option(metavar="KIND", help="On this one. [the one it ran on]")] = None,
    code: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run this snippet in its place, and say what differs.")
    ] = None,
    allow_unsafe: UNSAFE = False,
    json_output: JSON = False,
) -> NoReturn:
    """Run an execution again with its calls answered from the journal; no tool is called.

    Exits with 1 when something differs.
    """

    async def ask(host: "sandbox.AsyncExec") -> "sandbox.ReplayReport":
        snippet = None if code is None else read_code(str(code))
        return await host.replay(execution_id, backend=backend, code=snippet)

    report = _ask(url, tools, ask, allow_unsafe=allow_unsafe, json_output=json_output)
    if json_output:
        typer.echo(json.dumps({"same": report.same, **as_json(report)}, ensure_ascii=False))
    else:
        _show(report)
    raise typer.Exit(ExitCode.COMPLETED if report.same else ExitCode.RAISED)


def resume(
    execution_id: EXECUTION,
    *,
    url: URL = None,
    tools: TOOLS = None,
    allow_unsafe: UNSAFE = False,
    json_output: JSON = False,
) -> NoReturn:
    """Take up an execution that was cut off or suspended, and go on with it. It needs its tools again."""
    screen = Screen(quiet=json_output)
    result: ExecutionResult = _ask(
        url, tools, lambda host: host.resume(execution_id), allow_unsafe=allow_unsafe, json_output=json_output
    )
    if json_output:
        typer.echo(json.dumps(as_json(result), ensure_ascii=False))
    else:
        typer.echo(visible(result.stdout), nl=False)
        screen.summary(result)
    raise typer.Exit(exit_code(result))


def _ask(
    url: str | None,
    tools: list[str] | None,
    ask: "Callable[[sandbox.AsyncExec], Awaitable[Answer]]",
    *,
    allow_unsafe: bool,
    json_output: bool,
) -> Answer:
    async def work() -> Answer:
        async with sandbox.AsyncExec(journal=journal_url(url), allow_unsafe=allow_unsafe or None) as host:
            host.register(*(tool for where in tools or () for tool in tools_at(where)))
            return await ask(host)

    return complete(work(), Screen(), json_output=json_output)


def _show(report: "sandbox.ReplayReport") -> None:
    out = Console(soft_wrap=True, highlight=False)
    how = "the same" if report.same else "not the same"
    exact = ", to the last byte" if report.same and report.exact else ""
    out.print(Text(f"{how}{exact}; {report.answered} calls answered", "green" if report.same else "red"))
    for what, same in (
        ("outcome", report.same_outcome),
        ("value", report.same_value),
        ("output", report.same_output),
    ):
        if not same:
            out.print(Text(f"  another {what}"))
    for line in report.missing:
        out.print(Text(f"  not recorded: {visible(line)}"))
    for call in report.unused:
        out.print(Text(f"  not made: {visible(call.tool_id)} (call {call.index})"))
