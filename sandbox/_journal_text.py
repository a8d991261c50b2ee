"""What `toolexec journal` prints for people: plain text when piped, colours on a terminal."""

from collections.abc import Iterator, Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.journal.base import (
    ApprovalDecided,
    ApprovalRequested,
    Blob,
    ExecutionFinished,
    ExecutionStarted,
    ExecutionSummary,
    Finding,
    Mode,
    Record,
    Verification,
)
from gateway.journal.export import calls_of
from sandbox._render import milliseconds, visible, waterfall

MAX_OUTPUT_CHARS = 2000

_COLUMNS = ("started", "execution", "tenant", "backend", "calls", "outcome", "took")


def executions(found: Sequence[ExecutionSummary]) -> None:
    """A table on a terminal, fields between tabs otherwise."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        for one in found:
            typer.echo("\t".join(_fields(one)))
        return
    table = Table(*_COLUMNS, box=None, pad_edge=False, header_style="dim")
    for one in found:
        table.add_row(*_fields(one), style="" if one.outcome in ("", "completed") else "red")
    console.print(table)


def line(one: ExecutionSummary) -> None:
    """One execution as one line, at once."""
    typer.echo("\t".join(_fields(one)))


def code_of(records: Sequence[Record]) -> Blob | None:
    return next((record.code for record in records if isinstance(record, ExecutionStarted)), None)


def execution(records: Sequence[Record], snippet: str) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for label, text in _facts(records):
        console.print(Text(f"{label}:", "dim"), Text(visible(text)))
    if snippet:
        console.print(Text(visible(snippet.rstrip())), style="dim")
    for bar in waterfall(calls_of(records)):
        console.print(bar)


def verification(found: Verification) -> None:
    for head in found.heads:
        unsigned = (
            "" if found.unsigned is None else f", {found.unsigned[head.tenant_id]} of them after its last signature"
        )
        typer.echo(f"{_tenant(head.tenant_id)}: {head.sequence} records{unsigned}, head {head.hash}")
    for finding in found.findings:
        typer.echo(visible(f"WRONG {_place(finding)}{finding.what}"))
    checked = f"{found.records} records, {found.pruned} of them deleted by policy, {found.signatures} signatures"
    typer.echo(f"{checked}: {'all in order' if found.ok else f'{len(found.findings)} findings'}")


def _facts(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    first = records[0]
    yield "execution", first.execution_id
    if first.tenant_id:
        yield "tenant", first.tenant_id
    for record in records:
        if isinstance(record, ExecutionStarted):
            yield from _beginning(record)
        elif isinstance(record, ExecutionFinished):
            yield from _end(record)
        elif isinstance(record, ApprovalRequested):
            yield "asked", _request(record)
        elif isinstance(record, ApprovalDecided):
            yield record.verdict, _decision(record)
    if not any(isinstance(record, ExecutionFinished) for record in records):
        yield "outcome", "unfinished"
    yield "records", str(len(records))


def _beginning(record: ExecutionStarted) -> Iterator[tuple[str, str]]:
    yield "started", record.at.isoformat(timespec="milliseconds")
    mode = {Mode.LIVE: "", Mode.RESUME: ", taken up again"}.get(record.mode, f", {record.mode}")
    mode += f" after {record.parent}" if record.parent else ""
    yield "ran", f"{record.language} on backend {record.backend}, profile {record.profile}{mode}"
    yield "code", f"{record.code.size_bytes} bytes, SHA-256 {record.code.sha256}"
    yield "limits", ", ".join(f"{name}={bound}" for name, bound in record.limits.items())
    if unheld := sorted(set(record.limits) - {*record.enforced}):
        yield "not enforced", ", ".join(unheld)
    if record.allowed_tools is not None:
        yield "tools", ", ".join(record.allowed_tools) or "none"


def _request(record: ApprovalRequested) -> str:
    reason = f": {record.reason}" if record.reason else ""
    return f"whether to make call {record.index} of {record.tool_id} with {_text(record.arguments)}{reason}"


def _decision(record: ApprovalDecided) -> str:
    arguments = "" if record.arguments is None else f", with {_text(record.arguments)} in place of its arguments"
    reason = f": {record.reason}" if record.reason else ""
    return f"call {record.index}, by {record.by or 'a person'}{arguments}{reason}"


def _end(record: ExecutionFinished) -> Iterator[tuple[str, str]]:
    yield "outcome", f"{record.outcome} in {milliseconds(record.duration_seconds)}"
    if record.error is not None:
        yield "error", f"{record.error.get('type', '')}: {record.error.get('message', '')}"
    if record.value is not None:
        yield "value", _text(record.value)
    for label, output in (("stdout", record.stdout), ("stderr", record.stderr)):
        if output.size_bytes:
            yield label, _text(output)
    for path, blob in record.artifacts.items():
        yield "file", f"{path} ({blob.size_bytes} bytes, SHA-256 {blob.sha256})"


def _text(blob: Blob) -> str:
    if blob.data is None:
        return f"{blob.size_bytes} bytes, SHA-256 {blob.sha256}"
    text = blob.data.decode(errors="replace").rstrip("\n")
    return text if len(text) <= MAX_OUTPUT_CHARS else f"{text[:MAX_OUTPUT_CHARS]}... ({len(text)} characters)"


def _fields(one: ExecutionSummary) -> tuple[str, ...]:
    took = "" if one.ended_at is None else milliseconds((one.ended_at - one.started_at).total_seconds())
    outcome = one.outcome or ("" if one.mode == "host" else "unfinished")
    started = one.started_at.isoformat(timespec="milliseconds")
    known = (started, one.execution_id, one.tenant_id, one.backend or one.mode, str(one.calls), outcome, took)
    return tuple(visible(field).replace("\n", " ").replace("\t", " ") for field in known)


def _place(finding: Finding) -> str:
    """What is wrong with a chain as a whole, or with a list, has no record; what is shared by all has no tenant."""
    if finding.sequence:
        return f"{_tenant(finding.tenant_id)}, record {finding.sequence}: "
    return f"{_tenant(finding.tenant_id)}: " if finding.tenant_id else ""


def _tenant(tenant_id: str) -> str:
    return f"tenant {visible(tenant_id)}" if tenant_id else "no tenant"
