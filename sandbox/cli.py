"""The `toolexec` command. Exit codes are part of its interface; see `ExitCode`."""

import json
import platform
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import sandbox
from runtimes.base import Capabilities
from sandbox import _approvals, _image, _journal, _mcp, _rerun, _tools
from sandbox._exit import ExitCode, complete, exit_code
from sandbox._options import (
    empty_folder,
    language_of,
    named_files,
    pairs,
    parse_limits,
    read_code,
    tools_at,
    write_artifacts,
)
from sandbox._render import Screen, as_json
from sandbox.logs import configure_logs
from sandbox.profile import PROFILES
from sandbox.result import ExecutionResult

EXIT_CODES = """\b
Exit codes:
  0    the snippet completed, or exited with 0
  1    the snippet raised
  2    an argument is wrong
  3    the profile forbids it, or no backend here can run it
  4    stopped: timed out, over a limit, killed, or suspended until a person decides
  5    this host failed, not the snippet; trying again may help
  130  interrupted from the keyboard
A snippet that exits with a code of its own passes it on, up to 125.
"""

app = typer.Typer(
    add_completion=False,
    help="Run an agent's code in a sandbox that can call the host's tools, and nothing else.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(_image.app, name="image")
app.add_typer(_tools.app, name="tools")
_rerun.add_to(_journal.app)
app.add_typer(_journal.app, name="journal")
app.add_typer(_approvals.app, name="approvals")
app.command("mcp")(_mcp.mcp)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # both are text streams
    app()


@app.callback(invoke_without_command=True)
def toolexec(
    *, show_version: Annotated[bool, typer.Option("--version", help="Say which versions these are.")] = False
) -> None:
    """Each command has a help of its own."""
    if show_version:
        version()
        raise typer.Exit


@app.command(epilog=EXIT_CODES)
def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The snippet's file; - reads standard input.")],
    *,
    language: Annotated[
        str | None, typer.Option(metavar="NAME", help="python, bash or javascript. [default: by the file's ending]")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="dev, standard or hardened. [default: standard]")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="KIND", help="One of those that `toolexec doctor` lists.")
    ] = None,
    limit: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="wall_seconds=5, and so on.")] = None,
    tools: Annotated[
        list[str] | None, typer.Option(metavar="WHERE", help="Tools to offer: MODULE:ATTR, or a .toml or .json.")
    ] = None,
    allow_tool: Annotated[list[str] | None, typer.Option(metavar="ID", help="Offer these only.")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="The snippet's environment.")] = None,
    input_file: Annotated[
        list[Path] | None, typer.Option("--file", metavar="PATH", help="A file for the snippet, by its name.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="New or empty folder for files the snippet leaves.")
    ] = None,
    journal: _journal.URL = None,
    allow_unsafe: Annotated[bool, typer.Option("--allow-unsafe", help="Permit backends that do not isolate.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Look for errors of type first; if any, do not run.")] = False,
    log: Annotated[
        str | None,
        typer.Option(metavar="FORM", envvar="TOOLEXEC_LOG", help="Log to standard error: json or text. [default: no]"),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the whole result as one JSON object.")] = False,
) -> NoReturn:
    """Run the snippet in FILE, or on standard input for `-`.

    Its output appears as it is written; what else is known of it follows on standard error.
    """
    screen = Screen(quiet=json_output)

    async def execute() -> ExecutionResult:
        if log is not None:
            configure_logs(log)
        code, folder = read_code(file), None if out is None else empty_folder(out)
        # One snippet needs one sandbox: nobody would use what is kept warm beside it.
        unsafe = allow_unsafe or None
        async with sandbox.AsyncExec(allow_unsafe=unsafe, journal=journal, workers=1, pool_size=0) as exec:
            exec.register(*(tool for where in tools or () for tool in tools_at(where)))
            events = exec.stream_code(
                code,
                language=language or language_of(file),
                profile=profile,
                backend=backend,
                limits=parse_limits(limit or ()),
                allowed_tools=allow_tool,
                check=check,
                env=pairs("--env", env or ()),
                files=named_files(input_file or ()),
            )
            result = await screen.follow(events)
        if folder is not None:
            write_artifacts(folder, result.artifacts)
        return result

    result = complete(execute(), screen, json_output=json_output)
    if json_output:
        print(json.dumps(as_json(result), ensure_ascii=False))
    else:
        screen.summary(result)
    raise typer.Exit(exit_code(result))


@app.command()
def doctor(
    *, json_output: Annotated[bool, typer.Option("--json", help="Print it as one JSON object.")] = False
) -> NoReturn:
    """Say of each backend whether it can be used here.

    If not, why, and what to do about it. Exits with 3 if none here fits profile standard.
    """
    screen = Screen(quiet=json_output)

    async def probe() -> dict[str, Capabilities]:
        async with sandbox.AsyncExec(workers=1) as exec:
            return await screen.patiently(exec.probe())

    found = complete(probe(), screen, json_output=json_output)
    if json_output:
        print(json.dumps(as_json(found), ensure_ascii=False))
    else:
        screen.doctor(found)
    fits = any(one.usable and one.boundaries >= PROFILES["standard"].floor for one in found.values())
    raise typer.Exit(ExitCode.COMPLETED if fits else ExitCode.REFUSED)


@app.command()
def version(
    *, json_output: Annotated[bool, typer.Option("--json", help="Print it as one JSON object.")] = False
) -> None:
    """Say which versions these are."""
    from importlib.metadata import version as installed_version  # noqa: PLC0415 - slow to import

    found = {
        "toolexec": installed_version("toolexec"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    print(json.dumps(found) if json_output else "toolexec {toolexec} (Python {python}, {platform})".format(**found))
