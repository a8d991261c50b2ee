"""The commands `tool` and `result` of bash snippets, as the agent answers them.

Each process that runs one (`ask.py`) passes its command line on over a socket of the sandbox, so that token and gRPC
stay in the agent. What is said here is said to the guest by the guest: nothing of it needs to be believed.
"""

import json
import os
import re
import secrets
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

from runtimes.guest.outcome import Completed, TooLarge
from runtimes.guest.tools import ToolError, Tools
from runtimes.guest.values import ValueTooLarge, encode_value

ASK = Path(__file__).parent / "ask.py"
SCRIPT = """#!/bin/sh
exec {python} -I -S {ask} {name} "$@"
"""
MAX_REQUEST_BYTES = 8 << 20
"""Of one command line and its standard input: arguments of 4 MiB, and as much again for escapes."""

MAX_AT_WORK = 64
"""Commands answered at once; others wait."""

ADDRESS = "TOOLEXEC_AGENT"
"""Environment variable with the name of the socket."""

FAILED, MISUSED = 1, 2
"""Exit codes, beside 0."""

TOOL_USAGE = """\
usage: tool [-r] NAMESPACE:NAME [KEY=TEXT | KEY:=JSON]...
       tool [-r] NAMESPACE:NAME JSON-OBJECT    (- reads it from standard input)
       tool --search [WORD]... | --describe ID | --examples ID | --namespaces
Calls a tool and prints its result as JSON; with -r, a text as it is. Exits with 1 if the call fails.
"""
RESULT_USAGE = """\
usage: result [-r] [JSON | TEXT]    (- or nothing reads it from standard input)
Makes this the snippet's value: what is JSON as that, other text as text; with -r always as text. The last one counts.
"""

_ARGUMENT = re.compile(r"(?P<key>[^=]+?)(?P<json>:?)=(?P<value>.*)", re.DOTALL)


class Answer(NamedTuple):
    """What a command prints and exits with: on standard output after 0, else on standard error."""

    status: int
    text: str


class Misuse(Exception):  # becomes an answer with the usage
    """A command line makes no sense; the message says why."""


class Commands:
    """Answers commands while it is entered. `ending` is the snippet's value so far."""

    def __init__(self, tools: Tools, value_bytes: int) -> None:
        self.ending: Completed | TooLarge = Completed(b"null", is_repr=False)
        self._tools = tools
        self._value_bytes = value_bytes
        # In no folder, where it would be in the way of the snippet's files, and gone with the last process.
        address = f"toolexec-{secrets.token_hex(8)}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"\0{address}")
        self._at_work = threading.BoundedSemaphore(MAX_AT_WORK)
        self._operations: Mapping[str, Callable[[Sequence[str], bytes], str]] = {
            "tool": self._tool,
            "result": self._result,
        }
        self.environment = {ADDRESS: address}

    def __enter__(self) -> Self:
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._listener.close()

    def install(self, folder: Path) -> None:
        """Make the folder, with the commands in it."""
        folder.mkdir(exist_ok=True)
        for name in self._operations:
            script = SCRIPT.format(python=quote(sys.executable), ask=quote(str(ASK)), name=name)
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)

    def _accept(self) -> None:
        with suppress(OSError):  # closed: the snippet has ended
            while True:
                self._at_work.acquire()
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):  # the command was killed, and nobody waits for the answer
                if _uid(connection) == os.geteuid():
                    answer = self.answer(_read(connection))
                    connection.sendall(bytes([answer.status]) + answer.text.encode(errors="backslashreplace"))
        finally:
            self._at_work.release()

    def answer(self, request: bytes) -> Answer:
        """Do what a command line asks for: how many words it has, the words, its standard input, separated by NUL."""
        if len(request) > MAX_REQUEST_BYTES:
            return Answer(FAILED, f"a command line and its input are at most {MAX_REQUEST_BYTES} bytes\n")
        count, _, rest = request.partition(b"\0")
        *words, stdin = rest.split(b"\0", int(count) if count.isdigit() else 0)
        name, *arguments = (_text(word) for word in words) if words else ("",)
        if name not in self._operations:
            return Answer(MISUSED, f"{name[:80]!r} is no command of ours\n")
        try:
            return Answer(0, self._operations[name](arguments, stdin))
        except Misuse as error:
            return Answer(MISUSED, f"{name}: {error}\n{_USAGE[name]}")
        except ToolError as error:
            return Answer(FAILED, f"{name}: {error.message} ({error.code})\n")

    def _result(self, arguments: Sequence[str], stdin: bytes) -> str:
        raw, arguments = _option_r(arguments)
        if arguments == ["--help"]:
            return RESULT_USAGE
        if len(arguments) > 1:
            raise Misuse(f"it takes one value, not {len(arguments)}; put it in quotes")
        text = _text(stdin).rstrip("\n") if arguments in ([], ["-"]) else arguments[0]
        try:
            encoded = encode_value(text if raw else _value(text), self._value_bytes)
        except ValueTooLarge as error:
            self.ending = TooLarge(error.size)
        else:
            self.ending = Completed(encoded.json, encoded.is_repr)
        return ""

    def _tool(self, arguments: Sequence[str], stdin: bytes) -> str:
        raw, arguments = _option_r(arguments)
        match arguments:
            case ["--help"]:
                return TOOL_USAGE
            case ["--search", *words]:
                value = self._tools.search_tools(" ".join(words))
            case ["--describe", tool_id]:
                value = self._tools.describe_tool(tool_id, "full")
            case ["--examples", tool_id]:
                value = self._tools.list_tool_examples(tool_id)
            case ["--namespaces"]:
                value = self._tools.list_namespaces()
            case [tool_id, *rest] if not tool_id.startswith("-"):
                value = self._call(tool_id, rest, stdin)
            case _:
                raise Misuse(f"no such use: {' '.join(arguments)[:80]!r}" if arguments else "name a tool")
        return f"{value if raw and isinstance(value, str) else json.dumps(value, ensure_ascii=False)}\n"

    def _call(self, tool_id: str, rest: Sequence[str], stdin: bytes) -> Any:
        arguments = _arguments(rest, stdin)
        try:
            return self._tools.run_tool(tool_id, arguments)
        except (TypeError, ValueError) as error:
            raise Misuse(str(error)) from None


_USAGE = {"tool": TOOL_USAGE, "result": RESULT_USAGE}


def _option_r(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    raw = arguments[:1] == ["-r"]
    return raw, list(arguments[1:] if raw else arguments)


def _arguments(words: Sequence[str], stdin: bytes) -> dict[str, Any]:
    """A tool's arguments from its command line."""
    if len(words) == 1 and words[0] == "-":
        return _object(_text(stdin))
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return _object(words[0])
    found: dict[str, Any] = {}
    for word in words:
        argument = _ARGUMENT.fullmatch(word)
        if argument is None:
            raise Misuse(f"{word[:80]!r} is not KEY=TEXT, KEY:=JSON, or one JSON object")
        if argument["key"] in found:
            raise Misuse(f"{argument['key'][:80]!r} is given twice")
        found[argument["key"]] = _json(argument["value"], word) if argument["json"] else argument["value"]
    return found


def _object(text: str) -> dict[str, Any]:
    value = _json(text, text)
    if not isinstance(value, dict):
        raise Misuse(f"the arguments of a tool are a JSON object, not {text.strip()[:80]!r}")
    return value


def _json(text: str, shown: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Misuse(f"{shown[:80]!r} is not JSON: {error}") from None


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


def _read(connection: socket.socket) -> bytes:
    """What the command says until it waits for the answer, or a little more than is allowed."""
    data = bytearray()
    while len(data) <= MAX_REQUEST_BYTES and (chunk := connection.recv(1 << 20)):
        data += chunk
    return bytes(data)


def _uid(connection: socket.socket) -> int:
    """Whose process is at the other end: without a sandbox around it, the socket is there for everybody."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid
