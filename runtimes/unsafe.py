"""A plain child process on the host: no isolation at all. For code you wrote, on a machine you own.

Off unless the operator allows it. It holds wall clock, output and tool calls like every backend, memory and CPU time
through the kernel for each process, and leaves no process behind; it does not keep a guest from the host's files,
network or other processes.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import anyio

from gateway.endpoint import GRPC_ENVIRONMENT, Endpoint
from gateway.frames import StreamName
from runtimes._process import ChildProcess, start
from runtimes.base import BackendContext, Capabilities, Ending, OutputSink, SandboxSpec, Usage
from runtimes.folder import MARK
from runtimes.guest.languages.available import available
from runtimes.limits import LimitName

ENFORCES: frozenset[LimitName] = frozenset({"memory_bytes", "cpu_seconds"})
OBEY_SECONDS = 8.0
"""A nanny ends its guest's tree well within this."""


class UnsafeSandbox:
    """A process group under a nanny that ends whatever leaves it."""

    def __init__(self, process: ChildProcess, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._told = False
        self._killing = anyio.Lock()
        self._read_out = anyio.Event()
        self._unheard: list[tuple[StreamName, bytes]] = []
        self._on_output: OutputSink = lambda stream, data: self._unheard.append((stream, data))
        self._usage = Usage()

    @property
    def evidence(self) -> Mapping[str, Any]:
        return {"isolation": "none", "user": os.geteuid(), "pid": self._process.pid}

    def listen(self, on_output: OutputSink) -> None:
        for stream, data in self._unheard:
            on_output(stream, data)
        self._unheard.clear()
        self._on_output = on_output

    async def kill(self) -> Ending:
        async with self._killing:
            if self._process.returncode is None:
                self._told = True
                self._process.terminate()
                with anyio.move_on_after(OBEY_SECONDS):
                    await self._process.wait()
            await self._process.close()
            with anyio.move_on_after(1):
                await self._read_out.wait()
            await anyio.to_thread.run_sync(shutil.rmtree, self._folder, True)  # noqa: FBT003 - ignore_errors
        return self._ending()

    def usage(self) -> Usage:
        return self._usage

    async def pump(self) -> None:
        """Pass the guest's output on until its pipes end."""
        try:
            await self._process.read(partial(self._output, "stdout"), partial(self._output, "stderr"))
        finally:
            self._read_out.set()

    def _output(self, stream: StreamName, data: bytes) -> None:
        self._on_output(stream, data)

    def _ending(self) -> Ending:
        code = self._process.returncode
        if code is None or (self._told and code == -signal.SIGTERM):
            return Ending()
        if code == -signal.SIGXCPU:
            return Ending(limit="cpu_seconds")
        return Ending(signal=-code) if code < 0 else Ending(exit_code=code)


class UnsafeBackend:
    """Starts agents as children of this process."""

    kind: ClassVar[str] = "unsafe"
    warm_size: ClassVar[int] = 2

    def __init__(self, context: BackendContext) -> None:
        self._context = context

    async def probe(self) -> Capabilities:
        if not sys.platform.startswith("linux"):
            return Capabilities(
                self.kind, usable=False, reason=f"it needs Linux's process control, not {sys.platform}", fix="Use Linux"
            )
        programs = await anyio.to_thread.run_sync(available)
        return Capabilities(
            self.kind,
            usable=True,
            boundaries=0,
            languages=frozenset(programs),
            enforces=ENFORCES,
            version=", ".join(programs.values()),
            details={"limits": "memory is the address space of each process; CPU time is that of each process"},
        )

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> UnsafeSandbox:
        folder = Path(tempfile.mkdtemp(prefix="guest-", dir=self._context.folder))
        for name in ("work", "tmp"):
            (folder / name).mkdir()
        argv = (sys.executable, "-I", "-u", "-X", "utf8", "-m", "runtimes._nanny", str(os.getpid()))
        # Without the bound each of the agent's threads reserves 64 MiB of the address space that limits count.
        env = {**GRPC_ENVIRONMENT, "MALLOC_ARENA_MAX": "1", MARK: self._context.folder.parent.name}
        process = start(argv, folder=folder, env=env)
        sandbox = UnsafeSandbox(process, folder)
        self._context.tasks_of(endpoint).start_soon(sandbox.pump)
        config = {
            "address": endpoint.address,
            "token": endpoint.token,
            "language": spec.language,
            "work": str(folder / "work"),
            "memory_bytes": spec.memory_bytes,
            "cpu_seconds": spec.cpu_seconds,
        }
        process.tell(json.dumps(config).encode())
        return sandbox

    async def aclose(self) -> None:
        """Every sandbox belongs to a pool or an execution, which ends it; nothing else is held."""
