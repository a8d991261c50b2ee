"""Backends whose guests share a place: for tests of what a guest does in it, and not of the place itself.

Most cases of the contract ask how a snippet is read, run and answered. For those a container each is minutes of
starting containers and proves nothing more: what they need is an agent of their own in a container of the real kind,
with the engine's kernel, Python and file system. So here one container is started for all, by the real backend, and
`house.py` in it starts an agent for each guest. Everything on the host's side of the guest is the real thing too. It is
the same with plain processes, where importing what an agent needs is most of what it costs.

A guest that asks for bounds of its own, which its place holds, has a place of its own.
"""

import base64
import contextvars
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import anyio

from gateway.attachment import Attachment
from gateway.endpoint import GRPC_ENVIRONMENT, Endpoint, Listener
from gateway.frames import StreamName
from runtimes._container import GUEST_FOLDER, SOCKET_FOLDER, agent_config, ending_of
from runtimes._docker_sandbox import DockerSandbox
from runtimes._gvisor_site import Site
from runtimes._output import Output
from runtimes._process import Lines, start
from runtimes.base import BackendContext, Ending, OutputSink, Sandbox, SandboxSpec, Usage
from runtimes.docker import ARGV, DockerBackend
from runtimes.folder import MARK
from runtimes.gvisor import GvisorBackend, GvisorSandbox
from runtimes.limits import DEFAULT_LIMITS
from runtimes.unsafe import UnsafeBackend, UnsafeSandbox

HOUSE = (Path(__file__).parent / "house.py").read_text()
END_SECONDS = 10.0
LEAVE_SECONDS = 2.0
"""How long a guest that hung up may take to be gone, and so to have ended by itself."""

MAX_MEMORY_BYTES = 1 << 30
SHARED = SandboxSpec(memory_bytes=2 << 30, disk_bytes=256 << 20, pids=1000)
"""The container of all. Each agent holds its own snippet to its memory, as it does everywhere; tests in which the place
has to hold it are marked `own_container`."""

Tell: TypeAlias = Callable[[bytes], bool | None]
_building: contextvars.ContextVar[bool] = contextvars.ContextVar("building", default=False)


@contextmanager
def building() -> Iterator[None]:
    token = _building.set(True)
    try:
        yield
    finally:
        _building.reset(token)


class Guest:
    """One of the guests of a house."""

    def __init__(self, house: "House", number: int, listener: Listener | None, attachment: Attachment | None) -> None:
        self.output = Output()
        self.exit_code: int | None = None
        self.gone = anyio.Event()
        self._house = house
        self._number = number
        self._listener = listener
        self._attachment = attachment
        self._ending: Ending | None = None
        self._killing = anyio.Lock()

    @property
    def evidence(self) -> Mapping[str, Any]:
        return {}

    def listen(self, on_output: OutputSink) -> None:
        self.output.listen(on_output)

    def usage(self) -> Usage:
        return Usage()

    async def kill(self) -> Ending:
        async with self._killing:
            if self._ending is None:
                self._ending = await self._end()
                if self._listener is not None:
                    await self._listener.aclose()
        return self._ending

    async def _end(self) -> Ending:
        if self._attachment is not None and self._attachment.ended and self._attachment.finished is None:
            with anyio.move_on_after(LEAVE_SECONDS):
                await self.gone.wait()
        told = not self.gone.is_set()
        self._house.tell(end=self._number)
        with anyio.move_on_after(END_SECONDS):
            await self.gone.wait()
        if self.exit_code is None:
            self._house.lost = True
            return Ending(lost=f"its house did not end it: {self._house.said.decode(errors='replace')[-500:]}")
        return Ending() if told else ending_of(self.exit_code, out_of_memory=False)


@dataclass
class House:
    """A place and its guests, by number. `lost` says that it is not to be used any more.

    `rooms` is where guests have their folders, as seen from inside. `door` is the folder for their sockets and who may
    use them; None where they use the host's own.
    """

    sandbox: Sandbox
    line: Tell
    rooms: str
    door: tuple[Path, int | None] | None
    lost: bool = False

    def __post_init__(self) -> None:
        self.guests: list[Guest] = []
        self.said = b""
        self._lines = Lines(self._hear)
        self.sandbox.listen(self._on_output)

    def tell(self, **words: Any) -> None:
        self.line(json.dumps(words).encode())

    async def let_in(self, context: BackendContext, spec: SandboxSpec, endpoint: Endpoint) -> Guest:
        number, listener, inside = len(self.guests), None, endpoint
        if self.door is not None:
            folder, owner = self.door
            name = f"{number}.sock"
            listener = await context.listen(endpoint, folder / name, owner)
            inside = Endpoint(f"unix:{SOCKET_FOLDER}/{name}", endpoint.token)
        guest = Guest(self, number, listener, context.attachment(endpoint))
        self.guests.append(guest)
        config = json.loads(agent_config(spec, inside))
        self.tell(start=number, config={**config, "work": f"{self.rooms}/{number}/work"})
        return guest

    def _on_output(self, stream: StreamName, data: bytes) -> None:
        if stream == "stdout":
            self._lines(data)
        else:
            self.said += data  # by the house itself, as it breaks

    def _hear(self, line: bytes) -> None:
        said = json.loads(line)
        guest = self.guests[said["guest"]]
        if "data" in said:
            guest.output(said["stream"], base64.b64decode(said["data"]))
        else:
            guest.exit_code = said["exit"]
            guest.gone.set()


class Street:
    """The one house that is lived in, made when it is first needed and again when it was lost."""

    def __init__(self, context: BackendContext) -> None:
        self._context = context
        self._house: House | None = None
        self._building = anyio.Lock()
        self._door: tuple[Path, int | None] | None = None

    @property
    def context(self) -> BackendContext:
        """What the real backend works with: it says where the sockets of the house's container are."""
        return replace(self._context, listen=self._listen)

    async def _listen(self, endpoint: Endpoint, socket: Path, owner: int | None) -> Listener:
        if _building.get():
            self._door = (socket.parent, owner)
        return await self._context.listen(endpoint, socket, owner)

    async def start(
        self,
        spec: SandboxSpec,
        endpoint: Endpoint,
        build: Callable[[], Awaitable[tuple[Sandbox, Tell]]],
        rooms: str = GUEST_FOLDER,
    ) -> Guest:
        async with self._building:
            if self._house is None or self._house.lost:
                await self.aclose()
                with building():
                    sandbox, tell = await build()
                self._house = House(sandbox, tell, rooms, self._door)
            return await self._house.let_in(self._context, spec, endpoint)

    async def aclose(self) -> None:
        if self._house is not None:
            with anyio.CancelScope(shield=True):
                await self._house.sandbox.kill()


def may_share(spec: SandboxSpec) -> bool:
    """Whether it asks for nothing that its place would have to hold it to."""
    usual = spec.disk_bytes in {None, DEFAULT_LIMITS.disk_bytes} and (spec.memory_bytes or 0) <= MAX_MEMORY_BYTES
    return usual and spec.cpu_seconds is None and spec.pids is None


class HousedDocker(DockerBackend):
    """Docker, with its guests in one container."""

    def __init__(self, context: BackendContext) -> None:
        self._street = Street(context)
        super().__init__(self._street.context)

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> Any:
        if not may_share(spec):
            return await super().start(spec, endpoint)
        return await self._street.start(spec, endpoint, self._build)

    async def _build(self) -> tuple[Sandbox, Tell]:
        sandbox: DockerSandbox = await super().start(SHARED, Endpoint("unix:/nobody", "nobody"))
        stdio = sandbox._stdio
        assert stdio is not None
        return sandbox, lambda line: stdio.tell(line + b"\n")

    def _config(self, spec: SandboxSpec, daemon: Any, argv: tuple[str, ...], uid: int, folder: Path) -> dict[str, Any]:
        if _building.get():
            argv = (*ARGV[:-1], "-c", HOUSE, *argv[len(ARGV) :])
        return super()._config(spec, daemon, argv, uid, folder)

    async def aclose(self) -> None:
        await self._street.aclose()
        await super().aclose()


class HousedGvisor(GvisorBackend):
    """gVisor, with its guests in one container."""

    def __init__(self, context: BackendContext) -> None:
        self._street = Street(context)
        super().__init__(self._street.context)

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> Any:
        if not may_share(spec):
            return await super().start(spec, endpoint)
        return await self._street.start(spec, endpoint, self._build)

    async def _build(self) -> tuple[Sandbox, Tell]:
        sandbox: GvisorSandbox = await super().start(SHARED, Endpoint("unix:/nobody", "nobody"))
        return sandbox, sandbox._running.tell

    async def _start(self, site: Site, *rest: Any) -> GvisorSandbox:
        if _building.get():
            site = replace(site, root=replace(site.root, start=("-c", HOUSE)))
        return await super()._start(site, *rest)

    async def aclose(self) -> None:
        await self._street.aclose()
        await super().aclose()


class HousedUnsafe(UnsafeBackend):
    """Plain processes, with one that starts them all in the nanny's place."""

    def __init__(self, context: BackendContext) -> None:
        self._street = Street(context)
        self._rooms = tempfile.mkdtemp(prefix="rooms-", dir=context.folder)
        super().__init__(context)

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> Any:
        if not may_share(spec):
            return await super().start(spec, endpoint)
        return await self._street.start(spec, endpoint, self._build, self._rooms)

    async def _build(self) -> tuple[Sandbox, Tell]:
        folder = Path(tempfile.mkdtemp(prefix="house-", dir=self._context.folder))
        env = {**GRPC_ENVIRONMENT, "MALLOC_ARENA_MAX": "1", MARK: self._context.folder.parent.name}
        process = start((sys.executable, "-I", "-u", "-X", "utf8", "-c", HOUSE), folder=folder, env=env)
        sandbox = UnsafeSandbox(process, folder)
        self._context.tasks.start_soon(sandbox.pump)
        return sandbox, process.tell

    async def aclose(self) -> None:
        await self._street.aclose()
        await super().aclose()
