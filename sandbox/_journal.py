"""`toolexec journal`: look at what was recorded, and check that nobody changed it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import typer

from gateway.errors import InvalidRequest, NotRecorded
from gateway.journal.base import Checkpoint, ExecutionFilter, ExecutionSummary, Journal, Record, Retention
from gateway.journal.codec import content_of
from gateway.journal.export import ledger_lines, trace_of
from gateway.journal.opening import MEMORY, open_journal
from sandbox import _journal_text as shown
from sandbox._exit import ExitCode, complete
from sandbox._render import Screen, as_json

Answer = TypeVar("Answer")

POLL_SECONDS = 1.0
PAGE = 200

URL = Annotated[
    str | None,
    typer.Option("--journal", metavar="URL", help="sqlite:///FILE or postgresql://USER@HOST/DATABASE. [the setting]"),
]
JSON = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
TENANT = Annotated[str | None, typer.Option(metavar="ID", help="Of this tenant only.")]
TOOL = Annotated[str | None, typer.Option(metavar="ID", help="That called this tool; NAMESPACE:* for any of it.")]
OUTCOME = Annotated[str | None, typer.Option(metavar="NAME", help="That ended so; or unfinished.")]
SINCE = Annotated[str | None, typer.Option(metavar="TIME", help="Started then or later: 2h, 7d, or ISO 8601.")]
UNTIL = Annotated[str | None, typer.Option(metavar="TIME", help="Started before then.")]
EXECUTION = Annotated[str, typer.Argument(metavar="EXECUTION")]

app = typer.Typer(help="Look at what was recorded, and check it.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def journal() -> None:
    """Look at what was recorded, and check it."""


@app.command("list")
def list_executions(
    *,
    url: URL = None,
    tenant: TENANT = None,
    tool: TOOL = None,
    outcome: OUTCOME = None,
    since: SINCE = None,
    until: UNTIL = None,
    limit: Annotated[int, typer.Option(metavar="NUMBER", help="At most so many.")] = 50,
    json_output: JSON = False,
) -> None:
    """Executions, the newest first."""

    async def ask(journal: Journal) -> list[ExecutionSummary]:
        if limit < 1:
            raise InvalidRequest(f"--limit must be at least 1, not {limit}")
        which = _filter(tenant, tool, outcome, since, until)
        return [found async for found in _executions(journal, which, limit)]

    found = _ask(url, ask, json_output=json_output)
    if json_output:
        _print(as_json(found))
    else:
        shown.executions(found)


@app.command()
def show(
    execution_id: EXECUTION,
    *,
    url: URL = None,
    code: Annotated[bool, typer.Option("--code", help="The snippet too.")] = False,
    json_output: JSON = False,
) -> None:
    """One execution: how it began and ended, and a waterfall of its tool calls. With --json all of its records."""

    async def ask(journal: Journal) -> tuple[Sequence[Record], bytes]:
        records = await journal.records(execution_id)
        if not records:
            raise NotRecorded(f"execution {execution_id!r}")
        snippet = shown.code_of(records)
        return records, await journal.read(snippet) if code and snippet is not None else b""

    records, snippet = _ask(url, ask, json_output=json_output)
    if json_output:
        _print([json.loads(content_of(record).data) for record in records])
    else:
        shown.execution(records, snippet.decode(errors="replace"))


@app.command()
def tail(
    *,
    url: URL = None,
    tenant: TENANT = None,
    tool: TOOL = None,
    outcome: OUTCOME = None,
    number: Annotated[int, typer.Option("-n", metavar="NUMBER", help="How many to begin with, 1 to 200.")] = 10,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as executions start and end.")] = False,
    json_output: JSON = False,
) -> None:
    """The newest executions, the last one last."""
    if not 1 <= number <= PAGE:
        raise typer.BadParameter(f"must be 1 to {PAGE}", param_hint="-n")

    async def ask(journal: Journal) -> None:
        which = _filter(tenant, tool, outcome, None, None)
        told: dict[str, ExecutionSummary] = {}
        count = number
        while True:
            page = (await journal.executions(which, limit=count)).executions
            for found in reversed(page):
                if (before := told.get(found.execution_id)) is None or before.outcome != found.outcome:
                    _print(as_json(found)) if json_output else shown.line(found)
            told |= {found.execution_id: found for found in page}
            if not follow:
                return
            told = {name: told[name] for name in [*told][-2 * PAGE :]}
            count = PAGE
            await anyio.sleep(POLL_SECONDS)

    _ask(url, ask, json_output=json_output)


@app.command()
def export(
    *,
    url: URL = None,
    tenant: TENANT = None,
    execution: Annotated[str | None, typer.Option(metavar="ID", help="Of this execution only.")] = None,
    form: Annotated[str, typer.Option("--format", metavar="NAME", help="jsonl: the ledger; otlp: traces.")] = "jsonl",
    blobs: Annotated[bool, typer.Option("--blobs", help="With jsonl: large data too, in base64.")] = False,
) -> None:
    """Everything that was recorded, a JSON object a line."""
    if form not in ("jsonl", "otlp") or (blobs and form == "otlp"):
        raise typer.BadParameter("there are jsonl and otlp, and --blobs goes with jsonl", param_hint="--format")

    async def ask(journal: Journal) -> None:
        if form == "jsonl":
            async for line in ledger_lines(journal, tenant_id=tenant, execution_id=execution, blobs=blobs):
                _print(line)
            return
        which = ExecutionFilter(tenant_id=tenant)
        known = [execution] if execution else [one.execution_id async for one in _executions(journal, which, None)]
        for execution_id in known:
            if trace := trace_of(await journal.records(execution_id)):
                _print(trace)

    _ask(url, ask)


@app.command()
def verify(
    *,
    url: URL = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What --json printed earlier: all of that must still hold.")
    ] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Public key, PEM: each chain must be signed by one of these."),
    ] = None,
    json_output: JSON = False,
) -> None:
    """Check that no record was changed, removed, added or moved. Exits with 1 if any was, and says which.

    The heads that it prints, kept elsewhere, show later that the end was not cut off: see --checkpoint.
    """

    async def ask(journal: Journal) -> Any:
        points = [] if checkpoint is None else _checkpoints(checkpoint)
        if not key:
            return await journal.verify(points)
        from gateway.journal.signing import Keys  # noqa: PLC0415 - an extra's
        from gateway.journal.sql import SqlJournal  # noqa: PLC0415

        assert isinstance(journal, SqlJournal), "what a URL names"
        return await journal.verify(points, Keys.read(key))

    found = _ask(url, ask, json_output=json_output)
    if json_output:
        _print({"ok": found.ok, **as_json(found)})
    else:
        shown.verification(found)
    raise typer.Exit(ExitCode.COMPLETED if found.ok else ExitCode.RAISED)


@app.command()
def prune(
    *,
    older_than: Annotated[str, typer.Option(metavar="TIME", help="What ended longer ago: 12h, 30d.")],
    url: URL = None,
    tenant: TENANT = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Goes into the ledger.")] = "retention",
    suspended: Annotated[bool, typer.Option("--suspended", help="Also those that wait for a person.")] = False,
    json_output: JSON = False,
) -> None:
    """Delete executions that ended long ago. The chains stay verifiable, and say what was deleted."""

    async def ask(journal: Journal) -> Any:
        span = _span("--older-than", older_than)
        return await journal.prune(Retention(older_than=span, tenant_id=tenant, reason=reason, suspended=suspended))

    found = _ask(url, ask, json_output=json_output)
    if json_output:
        _print(as_json(found))
    else:
        typer.echo(
            f"deleted {found.executions} executions with {found.records} records, "
            f"and {found.blobs} blobs of {found.blob_bytes} bytes"
        )


async def _executions(journal: Journal, which: ExecutionFilter, limit: int | None) -> AsyncIterator[ExecutionSummary]:
    """The newest of them, page by page; all of them for None."""
    cursor: str | None = None
    left = limit
    while left is None or left > 0:
        page = await journal.executions(which, limit=PAGE if left is None else min(PAGE, left), cursor=cursor)
        for found in page.executions:
            yield found
        if page.cursor is None:
            return
        cursor = page.cursor
        left = None if left is None else left - len(page.executions)


def _ask(url: str | None, ask: Callable[[Journal], Awaitable[Answer]], *, json_output: bool = False) -> Answer:
    """The answer of the journal at this URL, or of the setting's."""

    async def work() -> Answer:
        async with aclosing(open_journal(journal_url(url), create=False)) as journal:
            return await ask(journal)

    return complete(work(), Screen(), json_output=json_output)


def journal_url(url: str | None) -> str:
    """That of the option, or of the setting. Raises InvalidRequest."""
    from sandbox.config import load_settings  # noqa: PLC0415 - slow to import

    found = load_settings(journal=url).journal.get_secret_value()
    if found == MEMORY:
        raise InvalidRequest("no journal is named; use --journal URL, the setting journal, or TOOLEXEC_JOURNAL")
    return found


def _filter(
    tenant: str | None, tool: str | None, outcome: str | None, since: str | None, until: str | None
) -> ExecutionFilter:
    return ExecutionFilter(
        tenant_id=tenant,
        tool_id=tool,
        outcome=outcome,
        since=None if since is None else _time("--since", since),
        until=None if until is None else _time("--until", until),
    )


def _time(option: str, text: str) -> datetime:
    """So long ago, or this time; in our own zone when it names none."""
    if text[-1:] in _UNITS:
        return datetime.now(UTC) - _span(option, text)
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise InvalidRequest(f"{option} must be such as 2h, 7d or 2026-01-31T12:00Z, not {text!r}") from None


def _span(option: str, text: str) -> timedelta:
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isdecimal():
        raise InvalidRequest(f"{option} must be a number and s, m, h or d, such as 30d, not {text!r}")
    return timedelta(**{_UNITS[unit]: int(number)})


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _checkpoints(file: Path) -> list[Checkpoint]:
    try:
        heads = json.loads(file.read_text())["heads"]
        return [Checkpoint(str(head["tenant_id"]), int(head["sequence"]), str(head["hash"])) for head in heads]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"--checkpoint {file} is not what `verify --json` prints: {error}") from error


def _print(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))
