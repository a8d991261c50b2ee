"""What `toolexec` shows: plain text when piped, colours on a terminal. Guests' text never controls either."""

import asyncio
import base64
import dataclasses
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.text import Text

import sandbox
from gateway.journal.base import CallStatus, ToolCall
from runtimes.base import Capabilities
from sandbox.profile import PROFILES
from sandbox.result import Event, ExecutionResult

Answer = TypeVar("Answer")

PATIENCE_SECONDS = 1.0
"""A sandbox that takes longer than this to start is being made for the first time; say so."""

FIRST_TIME = "preparing the sandbox; the first time, its guest is compiled (about 5 s)"
BAR_WIDTH = 32
MAX_VALUE_CHARS = 2000

STYLES = {CallStatus.COMPLETED: "green", CallStatus.FAILED: "red", CallStatus.REFUSED: "yellow"}

HEALTH_STYLES = {"healthy": "green", "degraded": "yellow", "unhealthy": "red", "unknown": "dim"}


class Screen:
    """Standard output and standard error of one command. `quiet` keeps everything but complaints off them."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._err = Console(stderr=True, soft_wrap=True, highlight=False)
        self._at_line_start = True

    async def follow(self, events: AsyncGenerator[Event, None]) -> ExecutionResult:
        """Show output as it comes, and return the result."""
        result: ExecutionResult | None = None
        async with aclosing(events):
            event = await self.patiently(anext(events))
            while result is None:
                if event.kind == "output" and not self._quiet:
                    self._output(sys.stdout if event.stream == "stdout" else sys.stderr, event.text)
                result = event.result
                if result is None:
                    event = await anext(events)
        return result

    async def patiently(self, work: Awaitable[Answer]) -> Answer:
        """Await it; when it takes long, say what it is that takes so long."""
        notice = asyncio.create_task(self._notice())
        try:
            return await work
        finally:
            notice.cancel()
            await asyncio.wait([notice])

    async def _notice(self) -> None:
        await asyncio.sleep(PATIENCE_SECONDS)
        if self._err.is_terminal:
            with self._err.status(FIRST_TIME):
                await asyncio.Event().wait()
        elif not self._quiet:
            self._err.print(FIRST_TIME, markup=False)

    def complain(self, message: str) -> None:
        self._line("error", message, "bold red")

    def summary(self, result: ExecutionResult) -> None:
        """Everything but the output, in words."""
        if not self._at_line_start:
            self._err.print()
        for label, text, style in _facts(result):
            self._line(label, text, style)
        for line in waterfall(result.tool_calls):
            self._err.print(line)

    def doctor(self, found: Mapping[str, Capabilities]) -> None:
        """Each backend, on standard output."""
        out = Console(soft_wrap=True, highlight=False)
        for kind in sorted(found, key=lambda kind: (-found[kind].boundaries, kind)):
            usable = found[kind].usable
            out.print(Text(kind, "bold green" if usable else "bold red"), Text("usable" if usable else "not usable"))
            for label, text in _findings(found[kind]):
                out.print(Text(f"  {label:<15}", "dim"), Text(visible(text)))

    def _output(self, stream: TextIO, text: str) -> None:
        stream.write(visible(text) if stream.isatty() else text)
        stream.flush()
        self._at_line_start = text.endswith("\n") or not stream.isatty()

    def _line(self, label: str, text: str, style: str = "") -> None:
        self._err.print(Text(f"{label}:", "dim"), Text(visible(text), style))


def _facts(result: ExecutionResult) -> Iterator[tuple[str, str, str]]:
    """Label, text and style of what there is to say of a result."""
    if result.error is not None and result.error.traceback:
        yield "traceback", result.error.traceback.rstrip(), ""
    if result.ok:
        yield "value", _shown(result), "bold"
    where = f"in {milliseconds(result.duration_seconds)} on backend {result.backend}, profile {result.profile}"
    yield "outcome", f"{result.summary()}; {where}", "green" if result.ok else "red"
    if result.truncated:
        yield "truncated", ", ".join(sorted(result.truncated)) + " at limit output_bytes", "yellow"
    if unheld := sorted(set(result.limits.asked()) - result.enforced):
        yield "not enforced", ", ".join(unheld), "yellow"
    for artifact in result.artifacts:
        yield "file", f"{artifact.path} ({len(artifact.data)} bytes)", ""
    if result.tool_calls:
        yield "tool calls", str(len(result.tool_calls)), ""


def _shown(result: ExecutionResult) -> str:
    text = result.value if result.value_is_repr else json.dumps(result.value, ensure_ascii=False)
    return (
        text
        if len(text) <= MAX_VALUE_CHARS
        else f"{text[:MAX_VALUE_CHARS]}... ({len(text)} characters; --json has all)"
    )


def waterfall(calls: Sequence[ToolCall]) -> list[Text]:
    """One line for each call: what, how it ended, when it started after the first, how long it took, and a bar."""
    if not calls:
        return []
    first = min(call.started_at for call in calls)
    starts = [(call.started_at - first).total_seconds() for call in calls]
    total = max(start + call.duration_seconds for start, call in zip(starts, calls, strict=True)) or 1.0
    width = max(len(visible(call.tool_id)) for call in calls)
    return [_bar(call, start, total, width) for call, start in zip(calls, starts, strict=True)]


def _bar(call: ToolCall, start: float, total: float, width: int) -> Text:
    before = min(BAR_WIDTH - 1, int(start / total * BAR_WIDTH))
    length = min(max(1, round(call.duration_seconds / total * BAR_WIDTH)), BAR_WIDTH - before)
    status = call.status or CallStatus.CANCELLED
    return Text.assemble(
        f"  {visible(call.tool_id):<{width}}  ",
        (f"{status:<9}", STYLES.get(status, "dim")),
        f"  {'+' + milliseconds(start):>10}  {milliseconds(call.duration_seconds):>9}  |{' ' * before}",
        ("=" * length, STYLES.get(status, "dim")),
        f"{' ' * (BAR_WIDTH - before - length)}|",
    )


def _findings(found: Capabilities) -> Iterator[tuple[str, str]]:
    if not found.usable:
        yield "reason", found.reason
        yield "fix", found.fix
        return
    fits = [profile.name for profile in PROFILES.values() if found.boundaries >= profile.floor]
    yield "boundaries", str(found.boundaries)
    yield "profiles", ", ".join(fits) + (" (only with --allow-unsafe)" if not found.boundaries else "")
    yield "languages", ", ".join(sorted(found.languages))
    yield "limits", ", ".join(sorted(found.enforces)) + ", and those that every backend holds"
    yield "version", found.version
    yield from _details(found.details.items())


def _details(details: Iterable[tuple[str, Any]], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, fact in details:
        if isinstance(fact, Mapping):
            yield from _details(fact.items(), prefix)
        elif fact or fact == 0:
            yield name, str(fact).replace("\t", " ")


def show_health(found: "sandbox.HealthSummary") -> None:
    """One line for each tool and source: what it is, how it is, how long it took to say so, and what is wrong."""
    console = Console(highlight=False, soft_wrap=True)
    rows = [(one.tool_id, one.status, one.latency_seconds, one.message) for one in found.tools]
    rows += [(f"source {one.name}", one.status, one.latency_seconds, one.message) for one in found.sources]
    width = max((len(visible(name)) for name, *_ in rows), default=0)
    for name, status, seconds, message in rows:
        shown = f"  {milliseconds(seconds):>10}  {visible(message)}".rstrip()
        console.print(Text.assemble(f"{visible(name):<{width}}  ", (f"{status:<9}", HEALTH_STYLES[status]), shown))
    disabled = f", {found.disabled} disabled" if found.disabled else ""
    console.print(Text.assemble(f"{found.total} tools{disabled}: ", (str(found.status), HEALTH_STYLES[found.status])))


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def visible(text: str) -> str:
    """The text with control characters escaped: printed, it moves no cursor and changes no terminal."""
    return "".join(char if char in "\n\t" or char.isprintable() else ascii(char)[1:-1] for char in text)


def as_json(value: Any) -> Any:
    """Results and capabilities as JSON values; bytes become base64, and sets sorted lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): as_json(item) for name, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(as_json(item) for item in value)
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
