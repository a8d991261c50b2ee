"""JavaScript snippets: a Node process, started ahead of the snippet, whose calls the agent passes on."""

import json
import os
import re
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from runtimes.guest.faults import MESSAGE_BYTES, Fault
from runtimes.guest.languages import NODE, PATH, child
from runtimes.guest.outcome import Completed, Ending, Exited, Raised, Request, TooLarge
from runtimes.guest.source import read_source
from runtimes.guest.text import cut, plain_int
from runtimes.guest.tools import MAX_ARGUMENTS_BYTES, GatewayRefusal

MAIN = Path(__file__).parent / "node" / "main.js"
REPORT = ".node-report.json"
MAX_LINE_BYTES = 64 << 20
"""Of a frame: a value of 4 MiB, escaped twice."""

MAX_SAFE_INTEGER = 2**53 - 1
"""JavaScript's name for the largest integer that is exact there."""

MAX_INT32 = 2**31 - 1
INTEGER = "\0integer"
"""Key of the objects that stand for integers which are not; `values.js` has it too."""

OUT_OF_BUFFERS = ("RangeError", "Array buffer allocation failed")
"""Type and message of the error for memory outside the heap; Python would call it a MemoryError."""

_LONG_INTEGER = re.compile(r"\d{16}")

Ask: TypeAlias = Callable[[str, str], Future[str]]
"""Asks the gateway: an operation and its arguments as JSON give the result as JSON, or GatewayRefusal."""


class JavaScript:
    """Runs one JavaScript snippet. Node waits for it from the beginning, in `work`.

    `memory_bytes` is for the kernel to hold Node to; None where somebody holds the whole guest.
    """

    def __init__(self, ask: Ask, work: Path, memory_bytes: int | None) -> None:
        self._ask = ask
        self._reports = work.parent / "tmp"
        ours, theirs = socket.socketpair()
        self._channel, self._lines = ours, ours.makefile("rb")
        self._writing = threading.Lock()
        with theirs:
            argv = [*NODE, *self._flags(memory_bytes), str(MAIN), str(theirs.fileno())]
            self._node = child.start(argv, work, {"PATH": PATH}, [theirs.fileno()])
        if not self._read():
            raise ChildProcessError(f"node did not start; it ended with {self._node.wait()}")
        if memory_bytes is not None:
            self._hold(memory_bytes)

    def run(self, request: Request) -> Ending:
        source = read_source(request.code)
        self._send(
            {
                "execute": {
                    "code": source.text,
                    "removed_indent": source.removed_indent,
                    "env": dict(os.environ),
                    "value_bytes": request.value_bytes,
                }
            }
        )
        for frame in self._frames():
            if "finished" in frame:
                self._node.kill()
                return _ending(frame["finished"])
            call = frame["call"]
            self._call(call["id"], call["operation"], call["arguments"])
        return self._ended(self._node.wait())

    def _flags(self, memory_bytes: int | None) -> Iterator[str]:
        if memory_bytes is not None:
            # So far below the bound that V8 gives up with a report first. On its own it goes by the machine's memory.
            yield f"--max-old-space-size={max(16, (memory_bytes >> 20) * 3 // 4)}"
            # Three of these come on top. With the usual 16 MiB each they alone can reach a small bound: a crash.
            yield f"--max-semi-space-size={max(1, min(16, memory_bytes >> 25))}"
        yield from ("--report-on-fatalerror", "--report-compact")
        yield from (f"--report-directory={self._reports}", f"--report-filename={REPORT}")

    def _hold(self, memory_bytes: int) -> None:
        """Bound what it may write to, on top of what it has taken: of address space V8 reserves gigabytes."""
        status = Path(f"/proc/{self._node.pid}/status").read_text()
        taken = int(status.partition("VmData:")[2].split()[0]) << 10
        resource.prlimit(self._node.pid, resource.RLIMIT_DATA, (taken + memory_bytes,) * 2)

    def _call(self, number: int, operation: str, arguments: str) -> None:
        if len(arguments) > MAX_ARGUMENTS_BYTES:
            message = f"arguments of {len(arguments)} bytes are over the limit of {MAX_ARGUMENTS_BYTES}"
            self._reply(number, "error", json.dumps({"code": "too_large", "message": message}))
            return
        self._ask(operation, arguments).add_done_callback(lambda future: self._answer(number, future))

    def _answer(self, number: int, future: Future[str]) -> None:
        try:
            self._reply(number, "value", future.result())
        except GatewayRefusal as refusal:
            self._reply(number, "error", refusal.error_json)

    def _reply(self, number: int, outcome: str, text: str) -> None:
        self._send_text(f'{{"reply":{{"id":{number:d},"{outcome}":{_exact(text)}}}}}')

    def _send(self, frame: dict[str, Any]) -> None:
        self._send_text(json.dumps(frame))

    def _send_text(self, text: str) -> None:
        with self._writing, suppress(OSError):  # it has ended; how, the one who waits for it will see
            self._channel.sendall(text.encode() + b"\n")

    def _frames(self) -> Iterator[dict[str, Any]]:
        while line := self._read():
            yield json.loads(line)

    def _read(self) -> bytes:
        """The next line, empty at the end."""
        try:
            return self._lines.readline(MAX_LINE_BYTES)
        except OSError:
            return b""

    def _ended(self, status: int) -> Ending:
        """It ended without a word: it exited, or something ended it; V8 itself, where its heap was full."""
        if status < 0:
            with suppress(OSError, ValueError, LookupError, TypeError):  # no report, or none of Node's
                header = json.loads((self._reports / REPORT).read_bytes())["header"]
                if header["trigger"] == "OOMError":
                    return Raised(Fault("MemoryError", cut(str(header["event"]), MESSAGE_BYTES), 0, 0, ""))
        return child.ended(status)


def _exact(text: str) -> str:
    """JSON in which every integer survives JavaScript."""
    if not _LONG_INTEGER.search(text):
        return text
    return json.dumps(_marked(json.loads(text)))


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _marked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item) for item in value]
    return {INTEGER: str(value)} if isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER else value


def _ending(facts: dict[str, Any]) -> Ending:
    match facts["kind"]:
        case "completed":
            return Completed(facts["value"].encode(), facts["is_repr"])
        case "exited":
            return Exited(plain_int(facts["exit_code"], low=-MAX_INT32 - 1, high=MAX_INT32))
        case "too_large":
            return TooLarge(facts["size"])
        case _:
            error = facts["error"]
            if (error["type"], error["message"]) == OUT_OF_BUFFERS:
                error["type"] = "MemoryError"
            return Raised(Fault(**error))
