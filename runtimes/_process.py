"""Child processes: started without a shell, read with bounds, ended with their whole group.

asyncio's own subprocesses fork under uvloop, which copies the page tables of a large host and disturbs gRPC's threads;
`subprocess` uses vfork and does neither. Its pipes and a pidfd are then watched by the loop.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio

from gateway.errors import SandboxLost

MAX_LINE_BYTES = 1 << 20


class ChildProcess:
    """A child that leads its own process group. Made by `start`; belongs to the running event loop.

    `returncode` is None while it runs, then its exit code, or minus the signal that ended it.
    """

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self._ended = anyio.Event()
        self._pidfd = os.pidfd_open(popen.pid)
        self._loop.add_reader(self._pidfd, self._reap)
        assert popen.stdin is not None
        os.set_blocking(popen.stdin.fileno(), False)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        return self._popen.returncode

    async def wait(self) -> None:
        await self._ended.wait()

    def tell(self, line: bytes) -> bool:
        """Write one line to its standard input; False when it does not listen, or reads too slowly to be healthy."""
        assert self._popen.stdin is not None
        data = line + b"\n"
        try:
            return os.write(self._popen.stdin.fileno(), data) == len(data)
        except (OSError, ValueError):
            return False

    async def read(self, on_stdout: Callable[[bytes], None], on_stderr: Callable[[bytes], None]) -> None:
        """Pass on what it writes until both pipes end."""
        async with anyio.create_task_group() as readers:
            readers.start_soon(self._read, self._popen.stdout, on_stdout)
            readers.start_soon(self._read, self._popen.stderr, on_stderr)

    async def _read(self, pipe: object, on_chunk: Callable[[bytes], None]) -> None:
        transport, chunks = await self._loop.connect_read_pipe(lambda: _Chunks(on_chunk), pipe)
        try:
            await chunks.ended
        finally:
            transport.close()

    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            self._popen.terminate()

    def kill_group(self) -> None:
        """SIGKILL the child and every process that stayed in its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Kill the group and wait for the child. Its pipes end with it. Safe under cancellation; idempotent."""
        with anyio.CancelScope(shield=True):
            self.kill_group()
            await self.wait()
            if self._popen.stdin is not None:
                self._popen.stdin.close()

    def _reap(self) -> None:
        if self._popen.poll() is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._ended.set()


class _Chunks(asyncio.Protocol):
    """Passes on what a pipe gives in the turn in which it comes. `ended` is when it ends, or raises what was raised."""

    def __init__(self, on_chunk: Callable[[bytes], None]) -> None:
        self._on_chunk = on_chunk
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        try:
            if not self.ended.done():
                self._on_chunk(data)
        except Exception as error:  # noqa: BLE001 - belongs to whoever reads
            self.ended.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.ended.done():
            return
        if exc is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(exc)


def start(argv: Sequence[str], *, folder: Path, env: Mapping[str, str]) -> ChildProcess:
    """Start `argv` in `folder` with pipes for all three standard streams; the child gets `env` and nothing of ours.

    Blocks for about a millisecond. It must not move to another thread: a child that asked to die with its parent dies
    with the thread that started it. Raises SandboxLost when the host has no process to give.
    """
    pipe = subprocess.PIPE
    try:
        popen = subprocess.Popen(
            argv, cwd=folder, env=dict(env), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
        )
    except OSError as error:
        raise SandboxLost(f"a process could not be started: {error}") from error
    return ChildProcess(popen)


class Lines:
    """Cuts chunks into lines and passes each on. A line over 1 MiB is cut short: our children write none."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def __call__(self, chunk: bytes) -> None:
        *whole, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[:MAX_LINE_BYTES]
        for line in whole:
            self._on_line(line)
