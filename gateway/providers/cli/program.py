"""Programs on the command line as tools: an argv template, no shell."""

import os
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, get_args

import anyio

from gateway.base import MAX_RESULT_BYTES, JsonValue
from gateway.context import ToolContext
from gateway.errors import InvalidOutput, InvalidRequest, PayloadTooLarge, ToolFailed, ToolUnavailable
from gateway.payload import NotJsonError, decode
from gateway.providers.cli.argv import ArgvTemplate, Item, TextTemplate, check_schema
from gateway.providers.cli.argv import input_schema as schema_of
from gateway.providers.cli.process import Program, Tail, start
from gateway.providers.secret import Secret, revealed
from gateway.providers.unsent import unsent
from gateway.tools.model import Tool, ToolFields, ToolId

Output: TypeAlias = Literal["text", "lines", "json", "process"]

MAX_PROCESSES = 16
"""Calls of one tool that run at the same time; more of them wait."""

DRAIN_SECONDS = 1.0
"""How long output is still read after the program has ended: somebody who got away may hold the pipe."""

_STDERR_BYTES = 4000
_SHOWN_STDERR = 500


@dataclass(frozen=True, slots=True)
class _Finished:
    exit_code: int
    stdout: bytes
    stderr: str


class CliProvider:
    """Answers calls by running a program. `cli_tool` makes one, and says what the parameters mean."""

    def __init__(
        self,
        argv: Sequence[Item],
        *,
        cwd: str | Path = "/",
        env: Mapping[str, Secret] | None = None,
        stdin: str | None = None,
        output: Output = "text",
        ok_codes: Collection[int] | None = (0,),
        retry_codes: Collection[int] = (),
        max_output_bytes: int = MAX_RESULT_BYTES,
        max_processes: int = MAX_PROCESSES,
    ) -> None:
        self._argv = ArgvTemplate(argv)
        self._stdin = None if stdin is None else TextTemplate(stdin)
        self.slots = self._argv.slots + (() if self._stdin is None else self._stdin.slots)
        self._cwd = _folder(cwd)
        self._env = _environment(env or {})
        if output not in get_args(Output):
            raise InvalidRequest(f"output must be one of {', '.join(get_args(Output))}, not {output!r}")
        self._output = output
        self._ok_codes = None if ok_codes is None else frozenset(ok_codes)
        self._retry_codes = frozenset(retry_codes)
        self._max_output_bytes = _at_least_one("max_output_bytes", max_output_bytes)
        self._max_processes = _at_least_one("max_processes", max_processes)
        self._limiter: anyio.CapacityLimiter | None = None

    @property
    def output_schema(self) -> dict[str, Any] | None:
        return _OUTPUT_SCHEMAS.get(self._output)

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        del context
        argv = self._argv.filled(arguments)
        data = None if self._stdin is None else self._stdin.filled(arguments).encode()
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._max_processes)  # here, because it belongs to the running loop
        async with self._limiter, self._start(argv, with_input=data is not None) as program:
            finished = await self._run(program, data)
        self._check(finished)
        return self._result(finished)

    async def health(self) -> None:
        """The program is still there and may be run."""
        if not os.access(self._argv.program, os.X_OK):
            raise ToolUnavailable(self._what, "it is not there, or may not be run")

    async def aclose(self) -> None:
        """Nothing is held between calls."""

    @property
    def _what(self) -> str:
        return f"program {Path(self._argv.program).name}"

    def _start(self, argv: Sequence[str], *, with_input: bool) -> Program:
        env = {name: revealed(value) for name, value in self._env.items()}
        with unsent():
            return start(argv, folder=self._cwd, env=env, with_input=with_input)

    async def _run(self, program: Program, data: bytes | None) -> _Finished:
        stdout, stderr = bytearray(), Tail(_STDERR_BYTES)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_stdout, program, stdout)
                tasks.start_soon(program.keep_stderr, stderr)
                if data is not None:
                    tasks.start_soon(_feed, program, data)
                await program.wait()
                tasks.cancel_scope.deadline = anyio.current_time() + DRAIN_SECONDS
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # the output is too large: nothing else is raised in there
        assert program.returncode is not None
        return _Finished(program.returncode, bytes(stdout), stderr.text)

    async def _keep_stdout(self, program: Program, stdout: bytearray) -> None:
        while chunk := await program.read_stdout():
            stdout += chunk
            if len(stdout) > self._max_output_bytes:
                raise PayloadTooLarge(f"the output of {self._what}", len(stdout), self._max_output_bytes)

    def _check(self, finished: _Finished) -> None:
        code = finished.exit_code
        if code >= 0 and (self._ok_codes is None or code in self._ok_codes):
            return
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by {_signal_name(-code)}"
        said = f": {finished.stderr[-_SHOWN_STDERR:]}" if finished.stderr else ""
        if code in self._retry_codes:
            raise ToolUnavailable(self._what, how + said)
        raise ToolFailed(
            f"{self._what} {how}{said}", details={"exit_code": finished.exit_code, "stderr": finished.stderr}
        )

    def _result(self, finished: _Finished) -> JsonValue:
        match self._output:
            case "text":
                return _text(finished.stdout)
            case "lines":
                return _lines(_text(finished.stdout))
            case "json":
                return self._json(finished.stdout)
            case "process":
                return {
                    "exit_code": finished.exit_code,
                    "stdout": _text(finished.stdout),
                    "stderr": finished.stderr,
                }

    def _json(self, data: bytes) -> JsonValue:
        try:
            return decode(data)
        except NotJsonError as exc:
            raise InvalidOutput(f"{self._what} printed no JSON: {exc}", details={"head": _text(data[:200])}) from exc


class RunOptions(TypedDict, total=False):
    """How the program is run.

    cwd, env          where it runs (default `/`), and all of its environment; a value may be a function, which is
                      called for each call
    stdin             a template for its standard input (default: none); other values than texts are written as JSON
    output            what the result is: its standard output as `text` (default) or `lines`, parsed as `json`, or
                      `process`, an object of exit_code, stdout and stderr (its last 4,000 bytes)
    ok_codes          exit codes of a success (default 0); None for all of them
    retry_codes       exit codes that mean "try again later"
    max_output_bytes  more standard output than that fails the call (default 4 MiB)
    max_processes     calls at the same time (default 16); more of them wait
    """

    cwd: str | Path
    env: Mapping[str, Secret]
    stdin: str
    output: Output
    ok_codes: Collection[int] | None
    retry_codes: Collection[int]
    max_output_bytes: int
    max_processes: int


class CliOptions(RunOptions, ToolFields, total=False):
    """What `cli_tool` may be told beside the command line; see `Tool` for what is not said here."""


def cli_tool(
    tool_id: str,
    argv: Sequence[Item],
    *,
    input_schema: dict[str, Any] | None = None,
    output_schema: dict[str, Any] | None = None,
    **options: Unpack[CliOptions],
) -> Tool:
    """A tool that runs a program, without a shell: `cli_tool("git:log", ["git", "log", "--max-count={count}"])`.

    `argv` is the program, which is looked up now, and its arguments: `{name}` is an argument of the call, `{name?}`
    one that may be absent, `{name...}` a list, `{name?--flag}` a flag; a list inside the list is left out as a whole.
    A value that begins its item with `-` is refused, unless an item `--` stands before it.

    `input_schema` is by default what the placeholders ask for: texts, lists of texts and booleans. A call that is cut
    off is killed with every process that it started. Raises InvalidRequest, InvalidToolId.
    """
    about: dict[str, Any] = dict(options)
    run: Any = {name: about.pop(name) for name in RunOptions.__annotations__ if name in about}
    provider = CliProvider(argv, **run)
    if input_schema is not None:
        check_schema(input_schema, provider.slots)
    return Tool(
        id=ToolId.parse(tool_id),
        provider=provider,
        input_schema=schema_of(provider.slots) if input_schema is None else input_schema,
        output_schema=provider.output_schema if output_schema is None else output_schema,
        **about,
    )


_OUTPUT_SCHEMAS: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "lines": {"type": "array", "items": {"type": "string"}},
    "process": {
        "type": "object",
        "properties": {
            "exit_code": {"type": "integer"},
            "stdout": {"type": "string"},
            "stderr": {"type": "string"},
        },
        "required": ["exit_code", "stdout", "stderr"],
    },
}


async def _feed(program: Program, data: bytes) -> None:
    await program.write(data)  # one that does not read to the end is not wrong: `head` does so
    program.end_input()


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal has no name


def _folder(cwd: str | Path) -> Path:
    folder = Path(cwd)
    if not folder.is_absolute():
        raise InvalidRequest(f"cwd must be an absolute path, not {str(cwd)!r}")
    return folder


def _environment(env: Mapping[str, Secret]) -> Mapping[str, Secret]:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name or (isinstance(value, str) and "\0" in value):
            raise InvalidRequest(f"{name!r} cannot be in an environment: names have no '=', and nothing has a NUL")
    return env


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise InvalidRequest(f"{name} must be at least 1, not {value}")
    return value
