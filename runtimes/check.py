"""Checks a snippet against the types of the tools before it runs. Needs the extra `check`; nothing is executed."""

import json
import resource
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from gateway.errors import InvalidRequest, MissingExtra
from gateway.tools.words import cut
from runtimes._findings import RULES, SYNTAX, Finding, certain
from runtimes._process import ChildProcess, start
from runtimes.guest.source import Source, read_source

DEADLINE_SECONDS = 10.0
"""A snippet takes about a tenth of a second; one that takes this long was written to."""

MAX_DIAGNOSTICS = 100
"""The first ones, by their place in the snippet."""

NOT_CHECKED = "not-checked"
"""The rule of the one diagnostic of a snippet that the checker could not cope with."""

_MEMORY_BYTES = 2 << 30
_MAX_OUTPUT_BYTES = 4 << 20
_MAX_MESSAGE = 500
_FILE = "snippet.py"
# What the snippet finds without an import. `__out` is read only where it was set.
_BUILTINS = "import tools as tools\n__out: object\n"
_CONFIGURATION = "\n".join(
    [
        "[environment]",
        'python-version = "3.14"',
        'python-platform = "linux"',
        "[rules]",
        'all = "ignore"',
        *(f'{rule} = "error"' for rule in sorted(RULES)),
    ]
)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One error. `line` and `column` count from 1 in the code as given, 0 for no place; `rule` names its kind."""

    line: int
    column: int
    message: str
    rule: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.message}"


async def check_snippet(code: str, stubs: str, *, deadline_seconds: float = DEADLINE_SECONDS) -> tuple[Diagnostic, ...]:
    """What would go wrong in `code`, with `tools` as `stub_module` writes it; empty when nothing is found.

    Only what must fail where it is reached: unknown tools, arguments, fields, attributes and names, values of types
    that do not fit, and syntax. What may fail, such as a None that was not tested for, is not reported, and neither are
    imports: the checker does not know what is installed in the sandbox. A snippet that the checker does not get
    through within `deadline_seconds`, 2 GiB and 4 MiB of errors has the one diagnostic `not-checked`.

    Raises MissingExtra without the extra `check`, InvalidRequest for a deadline that is not above 0.
    """
    if not deadline_seconds > 0:
        raise InvalidRequest(f"deadline_seconds must be above 0, not {deadline_seconds}")
    checker = _checker()
    source = read_source(code)
    folder = await anyio.to_thread.run_sync(_laid_out, source, stubs)
    try:
        output = await _run(checker, Path(folder.name), deadline_seconds)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(folder.cleanup)
    if isinstance(output, str):
        return (Diagnostic(0, 0, f"the snippet could not be checked: {output}", NOT_CHECKED),)
    return await anyio.to_thread.run_sync(_diagnostics, source, output)


def _checker() -> str:
    if find_spec("ty") is None:
        raise MissingExtra("type checks", "check")
    from ty import find_ty_bin  # noqa: PLC0415 - an extra

    try:
        return find_ty_bin()
    except FileNotFoundError as exc:
        raise MissingExtra("type checks", "check") from exc


def _laid_out(source: Source, stubs: str) -> "tempfile.TemporaryDirectory[str]":
    """A private folder with all that the checker reads; with a configuration of its own it looks for no other."""
    folder = tempfile.TemporaryDirectory(prefix="toolexec-check-", ignore_cleanup_errors=True)
    # Half a surrogate pair is no text that a file can hold. The guest says what is wrong with it.
    files = {_FILE: source.text, "tools.pyi": stubs, "__builtins__.pyi": _BUILTINS, "ty.toml": _CONFIGURATION}
    for name, text in files.items():
        Path(folder.name, name).write_bytes(text.encode(errors="replace"))
    return folder


async def _run(checker: str, folder: Path, deadline_seconds: float) -> bytes | str:
    """What the checker writes; in words why there is none."""
    argv = [checker, "check", "--output-format", "gitlab", "--exit-zero", "--no-progress", _FILE]
    # Nothing of the host's environment: there are other checkers' settings in it, and secrets.
    process = start(argv, folder=folder, env={"HOME": str(folder), "TY_MAX_PARALLELISM": "1"})
    output = bytearray()
    try:
        _confine(process, deadline_seconds)
        with anyio.move_on_after(deadline_seconds) as scope:
            await process.read(lambda chunk: _take(process, output, chunk), lambda _: None)
            await process.wait()
    finally:
        await process.close()
    if scope.cancelled_caught:
        return f"it took longer than {deadline_seconds:g} s"
    if len(output) > _MAX_OUTPUT_BYTES:
        return f"it has more than {_MAX_OUTPUT_BYTES >> 20} MiB of errors"
    return bytes(output) if process.returncode == 0 else f"the type checker ended with {process.returncode}"


def _confine(process: ChildProcess, deadline_seconds: float) -> None:
    seconds = int(deadline_seconds) + 1
    bounds = {resource.RLIMIT_AS: _MEMORY_BYTES, resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0}
    for kind, bound in bounds.items():
        with suppress(ProcessLookupError):  # it has ended already
            resource.prlimit(process.pid, kind, (bound, bound))


def _take(process: ChildProcess, output: bytearray, chunk: bytes) -> None:
    output += chunk
    if len(output) > _MAX_OUTPUT_BYTES:
        process.kill_group()


def _diagnostics(source: Source, output: bytes) -> tuple[Diagnostic, ...]:
    found = sorted({_finding(item) for item in json.loads(output)})
    shown = [_diagnostic(finding, source) for finding in certain(found, source.text)]
    return tuple(shown[:MAX_DIAGNOSTICS])


def _finding(item: dict[str, Any]) -> Finding:
    rule, place = item["check_name"], item["location"]["positions"]["begin"]
    # Cut at once: a long text in a snippet becomes part of a type, and is then searched and shown.
    return Finding(
        place["line"], place["column"], rule, cut(item["description"].removeprefix(f"{rule}: "), _MAX_MESSAGE)
    )


def _diagnostic(finding: Finding, source: Source) -> Diagnostic:
    rule = "syntax" if finding.rule == SYNTAX else finding.rule
    return Diagnostic(finding.line, finding.column + source.removed_indent, finding.message, rule)
