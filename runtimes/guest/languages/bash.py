"""Bash snippets: a child process that has two commands of ours on its PATH, `tool` and `result`."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtimes.guest.faults import TRACEBACK_BYTES, Fault
from runtimes.guest.languages import child
from runtimes.guest.languages.commands import Commands
from runtimes.guest.outcome import Ending, Raised, Request
from runtimes.guest.source import read_source
from runtimes.guest.text import cut
from runtimes.guest.tools import Transport

NAME = "snippet"
"""What the snippet is called in the shell's own messages: `snippet: line 3: ...`."""

LOCALE = "C.UTF-8"
_COMPLAINT = re.compile(r"line (\d+): (.*)")


class Bash:
    """Runs one bash snippet. Its value is what it gave to `result`; a status other than 0 is how it exited."""

    def __init__(self, transport: Transport, work: Path) -> None:
        self._transport = transport
        self._work = work

    def run(self, request: Request) -> Ending:
        with (
            _script(read_source(request.code).text) as script,
            Commands(self._transport, request.value_bytes) as commands,
        ):
            fault = _syntax_fault(script)
            if fault is not None:
                return Raised(fault)
            # As a file the snippet would be called by its path, and an argument cannot be as long as a snippet.
            argv = ["bash", "-c", f'eval "$(<{_path(script)})"', NAME]
            programs = self._work.parent / "bin"
            commands.install(programs)
            path = f"{programs}:{os.environ['PATH']}"
            env = {"LANG": LOCALE, **os.environ, **commands.environment, "PATH": path}
            status = child.start(argv, self._work, env, [script]).wait()
            return child.ended(status) if status else commands.ending


@contextmanager
def _script(text: str) -> Iterator[int]:
    """A descriptor of a file in memory with the snippet."""
    descriptor = os.memfd_create(NAME)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text.encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _syntax_fault(script: int) -> Fault | None:
    """What is wrong with the code, found before any of it runs: bash itself would run the lines before the error."""
    if b"\0" in os.pread(script, os.fstat(script).st_size, 0):
        return Fault("SyntaxError", "source code cannot contain a null character", 0, 0, "")
    # The snippet may turn extglob on in one line and use its patterns in the next.
    argv = ["bash", "-O", "extglob", "-n", _path(script)]
    env = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
    checked = subprocess.run(
        argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=[script], env=env
    )
    if checked.returncode == 0:
        return None
    text = checked.stderr.decode(errors="replace").replace(_path(script), NAME)
    found = _COMPLAINT.search(text)
    line, message = (int(found[1]), found[2]) if found else (0, text.strip())
    return Fault("SyntaxError", message, line, 0, cut(text, TRACEBACK_BYTES))
