"""CPython in WebAssembly: fresh guests in about a millisecond, in confined worker processes. No daemon, no root."""

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import anyio

from gateway.endpoint import GRPC_ENVIRONMENT, Endpoint
from gateway.errors import BackendUnavailable, Closed, SandboxLost
from runtimes._background import contained, said
from runtimes._process import ChildProcess, Lines, start
from runtimes.base import BackendContext, Capabilities, Ending, OutputSink, SandboxSpec, Usage
from runtimes.limits import LimitName
from runtimes.wasm.cache import private_cache

HERE = Path(__file__).parent
WASM = HERE / "guest.wasm"
DIGEST = HERE / "guest.sha256"

READY_SECONDS = 90.0
"""Until a worker is ready: half a second, and some more the first time, when it compiles the guest."""

OBEY_SECONDS = 0.5
"""A guest that has not ended this long after it was told to takes its worker with it."""

MAX_GUESTS = 128
"""Guests of one worker at once."""

STDERR_TAIL_BYTES = 2000
ENFORCES: frozenset[LimitName] = frozenset({"cpu_seconds", "memory_bytes", "disk_bytes", "pids"})
NOT_BUILT = "the guest component is not built"
BUILD = "Build it with `make build`, or install a released wheel, which has it inside"


class WasmSandbox:
    """One guest in a worker."""

    def __init__(self, number: int, worker: "Worker", release: Callable[[], object]) -> None:
        self.number = number
        self._worker = worker
        self._release = release
        self._ended = anyio.Event()
        self._ending = Ending()
        self._usage = Usage()

    @property
    def evidence(self) -> Mapping[str, Any]:
        return self._worker.evidence

    def listen(self, on_output: OutputSink) -> None:
        """Everything a guest writes arrives as frames; it has no file descriptors of its own."""

    async def kill(self) -> Ending:
        if not self._ended.is_set():
            self._worker.order({"op": "kill", "id": self.number})
            with anyio.move_on_after(OBEY_SECONDS):
                await self._ended.wait()
        if not self._ended.is_set():
            await self._worker.kill(f"a neighbour did not obey within {OBEY_SECONDS:g} s", culprit=self)
        return self._ending

    def usage(self) -> Usage:
        return self._usage

    def ended(self, ending: Ending, usage: Usage = Usage()) -> None:  # noqa: B008 - frozen
        """Said by the worker, once."""
        self._ending, self._usage = ending, usage
        self._ended.set()
        self._release()


class Worker:
    """A worker process and the guests in it. Invariant: a sandbox is in `guests` until its end was reported."""

    def __init__(self, process: ChildProcess, folder: Path, core: int) -> None:
        self.process = process
        self.core = core
        self.folder = folder
        self.evidence: Mapping[str, Any] = {}
        self.guests: dict[int, WasmSandbox] = {}
        self.ready = anyio.Event()
        self.dead = False
        self._stderr = b""

    def order(self, facts: Mapping[str, Any]) -> bool:
        """Send one order; False when the worker is gone."""
        return not self.dead and self.process.tell(json.dumps(facts).encode())

    async def run(self) -> None:
        """Read reports until the worker ends, then tell everyone who was in it. Raises what it could not understand."""
        try:
            await self.process.read(Lines(self._heard), self._complain)
        except Exception as error:
            self.bury(f"its worker process was not understood: {said(error)}")
            raise
        finally:
            await self.process.close()
            self.bury("its worker process died" + self.last_words())

    async def kill(self, reason: str, culprit: WasmSandbox | None = None) -> None:
        """End the process. The culprit was ended; its neighbours are lost, and their callers may try again."""
        self.dead = True
        if culprit is not None and self.guests.pop(culprit.number, None) is not None:
            culprit.ended(Ending())
        self.bury(reason)
        await self.process.close()

    def bury(self, reason: str) -> None:
        self.dead = True
        self.ready.set()
        while self.guests:
            self.guests.popitem()[1].ended(Ending(lost=reason))

    def _heard(self, line: bytes) -> None:
        facts = json.loads(line)
        if "ready" in facts:
            self.evidence = {name: fact for name, fact in facts.items() if name != "ready"}
            self.ready.set()
        elif (guest := self.guests.get(facts["id"])) is not None:
            ending, usage = Ending(**facts["ended"]), Usage(cpu_seconds=facts["cpu_seconds"])
            del self.guests[guest.number]
            guest.ended(ending, usage)

    def _complain(self, chunk: bytes) -> None:
        self._stderr = (self._stderr + chunk)[-STDERR_TAIL_BYTES:]

    def last_words(self) -> str:
        """The end of what it wrote to stderr, for an error message."""
        last = self._stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return f" ({last})" if last else ""


class WasmBackend:
    """Keeps a few workers and spreads guests over them."""

    kind: ClassVar[str] = "wasm"
    warm_size: ClassVar[int] = 16

    def __init__(self, context: BackendContext) -> None:
        self._context = context
        self._workers: list[Worker] = []
        self._free = anyio.Semaphore(MAX_GUESTS * context.workers, fast_acquire=True)
        self._numbers = itertools.count(1)
        self._closed = False

    async def probe(self) -> Capabilities:
        reason, fix = _obstacle()
        if reason:
            return Capabilities(self.kind, usable=False, reason=reason, fix=fix)
        try:
            worker = await self._worker()
        except (BackendUnavailable, SandboxLost) as error:
            return Capabilities(self.kind, usable=False, reason=str(error), fix="See `toolexec doctor` for details")
        confined = not worker.evidence.get("missing")
        return Capabilities(
            self.kind,
            usable=True,
            boundaries=2 if confined else 1,
            languages=frozenset({"python"}),
            enforces=ENFORCES,
            version=f"wasmtime {version('wasmtime')}, CPython 3.14",
            replays_exactly=True,
            details={**worker.evidence, "guest": DIGEST.read_text().strip()},
        )

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> WasmSandbox:
        await self._free.acquire()
        try:
            worker = await self._worker()
        except BaseException:
            self._free.release()
            raise
        sandbox = WasmSandbox(next(self._numbers), worker, self._free.release)
        worker.guests[sandbox.number] = sandbox
        order = {
            "id": sandbox.number,
            "address": endpoint.address,
            "token": endpoint.token,
            "memory_bytes": spec.memory_bytes,
            "cpu_seconds": spec.cpu_seconds,
            "disk_bytes": spec.disk_bytes,
        }
        if not worker.order({"op": "start", "guest": order}):
            worker.bury("its worker process died")
        return sandbox

    async def aclose(self) -> None:
        self._closed = True
        workers, self._workers = self._workers, []
        for worker in workers:
            await worker.kill("the backend was closed")

    async def _worker(self) -> Worker:
        """The worker with the fewest guests, started and ready. Raise BackendUnavailable or SandboxLost."""
        if self._closed:
            raise Closed("backend")
        self._workers = [worker for worker in self._workers if not worker.dead]
        while len(self._workers) < self._context.workers:
            self._workers.append(self._spawn(self._idle_core()))
        worker = min(self._workers, key=lambda worker: (not worker.ready.is_set(), len(worker.guests)))
        if not worker.ready.is_set():
            with anyio.move_on_after(READY_SECONDS):
                await worker.ready.wait()
        if worker.dead or not worker.ready.is_set():
            await worker.kill("it did not start")
            raise SandboxLost(f"a WASM worker did not start{worker.last_words()}")
        return worker

    def _idle_core(self) -> int:
        """The core with the fewest workers."""
        taken = [worker.core for worker in self._workers]
        return min(sorted(os.sched_getaffinity(0)), key=taken.count)

    def _spawn(self, core: int) -> Worker:
        reason, fix = _obstacle()
        if reason:
            raise BackendUnavailable(self.kind, reason, fix)
        folder = Path(tempfile.mkdtemp(prefix="wasm-", dir=self._context.folder))
        argv = (sys.executable, "-I", "-m", "runtimes.wasm.worker")
        process = start(argv, folder=folder, env={**GRPC_ENVIRONMENT, "LC_ALL": "C.UTF-8"})
        config = {
            "parent_pid": os.getpid(),
            "folder": str(folder),
            "wasm": str(WASM),
            "digest": DIGEST.read_text().strip(),
            "wasmtime": version("wasmtime"),
            "cache": str(private_cache()),
            "max_guests": MAX_GUESTS,
            "core": core,
        }
        worker = Worker(process, folder, core)
        worker.order(config)
        self._context.tasks.start_soon(contained, "a WASM worker in the background", lambda _error: None, worker.run)
        return worker


def _obstacle() -> tuple[str, str]:
    """What keeps WASM from working here, and the fix; both empty if nothing does."""
    if not sys.platform.startswith("linux"):
        return f"there is no WASM worker for {sys.platform} yet", "Use Linux"
    try:
        version("wasmtime")
    except PackageNotFoundError:
        return "wasmtime is not installed", "Run `pip install wasmtime`"
    if not (WASM.exists() and DIGEST.exists()):
        return NOT_BUILT, BUILD
    try:
        private_cache()
    except OSError as error:
        return str(error), "Set XDG_CACHE_HOME to a folder of your own"
    return "", ""
