"""`toolexec approvals`: calls that wait for a person."""

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

import sandbox
from gateway.errors import InvalidRequest
from sandbox._exit import complete
from sandbox._journal import JSON, TENANT, URL, journal_url
from sandbox._options import tools_at
from sandbox._render import Screen, as_json, visible

Answer = TypeVar("Answer")

APPROVAL = Annotated[str, typer.Argument(metavar="APPROVAL", help="An id that `list` shows.")]
BY = Annotated[str, typer.Option(metavar="NAME", help="Who decides, for the record.")]

app = typer.Typer(help="Decide on calls that wait for a person.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def approvals() -> None:
    """Decide on calls that wait for a person. `toolexec journal resume` then goes on with their execution."""


@app.command("list")
def list_approvals(*, url: URL = None, tenant: TENANT = None, json_output: JSON = False) -> None:
    """Calls that wait, the oldest first."""
    found = _ask(url, lambda host: host.approvals(tenant_id=tenant), json_output=json_output)
    if json_output:
        typer.echo(json.dumps([as_json(one) for one in found], ensure_ascii=False))
    else:
        Console(soft_wrap=True, highlight=False).print(_table(found))


@app.command()
def approve(approval: APPROVAL, *, by: BY = "", url: URL = None) -> None:
    """Let the call be made, with the arguments it waits with."""
    _ask(url, lambda host: host.approve(approval, by=by))


@app.command()
def reject(
    approval: APPROVAL,
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="The guest is told.")] = "",
    by: BY = "",
    url: URL = None,
) -> None:
    """Refuse the call."""
    _ask(url, lambda host: host.reject(approval, reason, by=by))


@app.command()
def edit(
    approval: APPROVAL,
    arguments: Annotated[str, typer.Argument(metavar="JSON", help="All arguments of the call, as an object.")],
    *,
    tools: Annotated[list[str], typer.Option("--tools", metavar="WHERE", help="Where the tool is, to check them.")],
    by: BY = "",
    url: URL = None,
) -> None:
    """Let the call be made with other arguments."""

    async def ask(host: "sandbox.AsyncExec") -> None:
        host.register(*(tool for where in tools for tool in tools_at(where)))
        await host.edit(approval, _object(arguments), by=by)

    _ask(url, ask)


def _ask(
    url: str | None, ask: "Callable[[sandbox.AsyncExec], Awaitable[Answer]]", *, json_output: bool = False
) -> Answer:
    async def work() -> Answer:
        host = sandbox.AsyncExec(journal=journal_url(url))
        try:
            return await ask(host)
        finally:
            await host.aclose()

    return complete(work(), Screen(), json_output=json_output)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"the arguments are not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidRequest("the arguments must be a JSON object")
    return found


def _table(found: "tuple[sandbox.PendingApproval, ...]") -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("approval", "tool", "arguments", "reason", "expires"):
        table.add_column(name, overflow="fold")
    for one in found:
        expires = "" if one.expires_at is None else one.expires_at.isoformat(timespec="seconds")
        told = (one.id, one.tool_id, json.dumps(one.arguments, ensure_ascii=False), one.reason)
        table.add_row(*map(visible, told), "expired" if one.expired else expires)
    return table
