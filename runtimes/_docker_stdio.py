"""The standard streams of a guest in a container: by named pipes, past the daemon."""

import asyncio
import os
from pathlib import Path

from gateway.frames import StreamName
from runtimes._output import Output
from runtimes.base import OutputSink

CHUNK_BYTES = 64 << 10
OUTPUTS: tuple[StreamName, ...] = ("stdout", "stderr")


class Pipes:
    """Named pipes in the guest's folder. Through the daemon, output ends 40 ms after the guest; here, with it.

    We hold both ends of each, so a pipe never ends; it is empty for good once every process of the guest is dead.
    """

    def __init__(self, folder: Path, owner: int | None) -> None:
        """Make them for `owner` alone, or for whoever sees the folder. Belongs to the running event loop."""
        self._output = Output()
        self._loop = asyncio.get_running_loop()
        self._stdin = _make(folder / "stdin", owner, 0o444)
        self._outputs: dict[StreamName, int] = {name: _make(folder / name, owner, 0o222) for name in OUTPUTS}
        for name, pipe in self._outputs.items():
            self._loop.add_reader(pipe, self._read, name, pipe)

    def tell(self, line: bytes) -> None:
        """Write a line to its standard input. It waits there; a pipe holds more than any line of ours."""
        os.write(self._stdin, line)

    def listen(self, on_output: OutputSink) -> None:
        self._output.listen(on_output)

    def finish(self) -> None:
        """Deliver what the guest, which is dead, had written, and close. Idempotent."""
        for name, pipe in self._outputs.items():
            while self._read(name, pipe):
                pass
            self._loop.remove_reader(pipe)
            os.close(pipe)
        if self._outputs:
            os.close(self._stdin)
        self._outputs.clear()

    def _read(self, name: StreamName, pipe: int) -> bool:
        try:
            data = os.read(pipe, CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._output(name, data)
        return True


def _make(path: Path, owner: int | None, mode: int) -> int:
    os.mkfifo(path, 0o600)
    if owner is not None:
        os.chown(path, owner, -1)
    path.chmod(mode if owner is None else mode & 0o700)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)
