"""The commands `tool` and `result` of bash snippets, as the agent answers them.

Each process that runs one (`ask.py`) passes its command line on over a socket of the sandbox, so that token and gRPC
stay in the agent. What is said here is said to the guest by the guest: nothing of it needs to be believed.
"""

import secrets
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Self

from runtimes.guest.languages.asker import MAX_REQUEST_BYTES, Asker
from runtimes.guest.languages.command_line import STDIN, Misuse, strict_json
from runtimes.guest.languages.tool_command import FAILED, ToolCommand
from runtimes.guest.languages.tool_line import USAGE
from runtimes.guest.outcome import Completed, TooLarge
from runtimes.guest.tools import ToolError, Transport
from runtimes.guest.values import ValueTooLarge, encode_value

ASK = Path(__file__).parent / "ask.py"
SCRIPT = """#!/bin/sh
exec {python} -I -S {ask} {name} "$@"
"""
MAX_AT_WORK = 64
"""Commands answered at once; others wait."""

ADDRESS = "TOOLEXEC_AGENT"
"""Environment variable with the name of the socket."""

MISUSED = 2
"""Exit code for a command line without sense."""

RESULT_USAGE = """\
usage: result [-r] [JSON | TEXT]    (- or nothing reads it from standard input)
Makes this the snippet's value: what is JSON as that, other text as text; with -r always as text. The last one counts.
"""
_USAGES = {"tool": USAGE, "result": RESULT_USAGE}


class Commands:
    """Answers commands while it is entered. `ending` is the snippet's value so far."""

    def __init__(self, transport: Transport, value_bytes: int) -> None:
        self.ending: Completed | TooLarge = Completed(b"null", is_repr=False)
        self._value_bytes = value_bytes
        # In no folder, where it would be in the way of the snippet's files, and gone with the last process.
        address = f"toolexec-{secrets.token_hex(8)}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"\0{address}")
        self._at_work = threading.BoundedSemaphore(MAX_AT_WORK)
        self._commands: Mapping[str, Callable[[Sequence[str], str, Asker], int]] = {
            "tool": ToolCommand(transport).run,
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
        for name in self._commands:
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
            asker = Asker(connection)
            with connection, suppress(OSError):  # the command was killed, and nobody waits for the answer
                if asker.is_ours:
                    asker.exit(self._answer(asker))
        finally:
            self._at_work.release()

    def _answer(self, asker: Asker) -> int:
        """Do what it asks for; its exit code."""
        request = asker.request()
        if request is None:
            asker.complain(f"a command line and its input are at most {MAX_REQUEST_BYTES} bytes\n")
            return FAILED
        name = request.name
        if name not in self._commands:
            asker.complain(f"{name[:80]!r} is no command of ours\n")
            return MISUSED
        try:
            return self._commands[name](request.arguments, request.stdin, asker)
        except Misuse as error:
            asker.complain(f"{name}: {error}\n{_USAGES[name]}")
            return MISUSED
        except ToolError as error:
            asker.complain(f"{name}: {error.message} ({error.code})\n")
            return FAILED

    def _result(self, arguments: Sequence[str], stdin: str, asker: Asker) -> int:
        raw = arguments[:1] == ["-r"]
        words = list(arguments[1:] if raw else arguments)
        if words == ["--help"]:
            asker.print(RESULT_USAGE)
            return 0
        if len(words) > 1:
            raise Misuse(f"it takes one value, not {len(words)}; put it in quotes")
        text = stdin.rstrip("\n") if words in ([], [STDIN]) else words[0]
        try:
            encoded = encode_value(text if raw else _value(text), self._value_bytes)
        except ValueTooLarge as error:
            self.ending = TooLarge(error.size)
        else:
            self.ending = Completed(encoded.json, encoded.is_repr)
        return 0


def _value(text: str) -> object:
    try:
        return strict_json(text)
    except ValueError:
        return text
