"""The standard streams of a guest in a container: by named pipes past the daemon, or through it."""

import asyncio
import os
import ssl
import struct
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import anyio

from gateway.errors import SandboxLost
from gateway.frames import StreamName
from runtimes._docker_options import DockerOptions
from runtimes._output import Output
from runtimes.base import OutputSink

CHUNK_BYTES = 64 << 10
OUTPUTS: tuple[StreamName, ...] = ("stdout", "stderr")
DRAIN_SECONDS = 2.0
"""How long a daemon may take to pass on what a dead guest had written."""

ATTACH_SECONDS = 10.0
HEADER = struct.Struct(">BxxxI")
"""Of each chunk of a daemon's stream: which output it is, and how long."""


class Stdio(Protocol):
    """A guest's standard streams, as its sandbox uses them."""

    def tell(self, line: bytes) -> None:
        """Write a line to its standard input."""
        ...

    def listen(self, on_output: OutputSink) -> None:
        """Pass on what it writes, from the beginning."""
        ...

    async def finish(self) -> None:
        """Deliver what the guest, which is dead, had written, and close. Idempotent."""
        ...


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
        os.write(self._stdin, line)  # waits in the pipe, which holds more than any line of ours

    def listen(self, on_output: OutputSink) -> None:
        self._output.listen(on_output)

    async def finish(self) -> None:
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


class Attached:
    """The stream that a daemon gives for a container's: ours in, the guest's out. Made by `attach`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._output = Output()
        self._pumping = asyncio.create_task(self._pump())

    def tell(self, line: bytes) -> None:
        self._writer.write(line)

    def listen(self, on_output: OutputSink) -> None:
        self._output.listen(on_output)

    async def finish(self) -> None:
        await asyncio.wait([self._pumping], timeout=DRAIN_SECONDS)
        self._pumping.cancel()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _pump(self) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):  # the daemon ended it; it also knows how the guest ended
            while True:
                kind, size = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                while size and (data := await self._reader.read(min(size, CHUNK_BYTES))):
                    size -= len(data)
                    self._output("stdout" if kind == 1 else "stderr", data)


async def attach(options: DockerOptions, api_version: str, container: str) -> Attached:
    """Attach to a container that was not started yet. Raises SandboxLost."""
    try:
        with anyio.fail_after(ATTACH_SECONDS):
            reader, writer = await _connect(options)
            path = f"/v{api_version}/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1"
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
            )
            answer = await reader.readuntil(b"\r\n\r\n")
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise SandboxLost(f"the daemon gave no streams for it: {error}") from error
    if b" 101 " not in answer.partition(b"\r\n")[0]:
        writer.close()
        raise SandboxLost(f"the daemon gave no streams for it: {answer[:100].decode(errors='replace')}")
    return Attached(reader, writer)


async def _connect(options: DockerOptions) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = urlsplit(options.daemon)
    if url.scheme == "unix":
        return await asyncio.open_unix_connection(url.path)
    return await asyncio.open_connection(url.hostname, url.port, ssl=_tls(options.daemon_tls))


def _tls(folder: Path | None) -> ssl.SSLContext | None:
    if folder is None:
        return None
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
