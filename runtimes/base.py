"""The backend interface: what makes sandboxes of one kind. Everything else about an execution is shared code.

A new backend implements `Backend` and `Sandbox`, names itself in the entry-point group `toolexec.backends`, and passes
`tests/contract` unchanged. See docs/writing-a-backend.md.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

from anyio.abc import TaskGroup

from gateway.attachment import Attachment
from gateway.endpoint import Endpoint, Listener, TlsPort
from gateway.errors import Closed
from gateway.frames import StreamName
from runtimes._background import BackendTasks, SandboxTasks
from runtimes.limits import LimitName

OutputSink: TypeAlias = Callable[[StreamName, bytes], None]


class Outcome(StrEnum):
    """How an execution ended."""

    COMPLETED = "completed"
    RAISED = "raised"
    EXITED = "exited"
    TIMED_OUT = "timed_out"
    LIMIT_EXCEEDED = "limit_exceeded"
    KILLED = "killed"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do on this host, found by its probe.

    `boundaries` counts the independent boundaries a guest must break to reach the host: 0 for a plain process, 1 for
    a container or a WASM runtime, 2 where one stands behind the other. `enforces` names the limits it can hold beside
    those that every backend holds. `replays_exactly`: the host owns clock and chance of its guests, so that the same
    snippet run again on the same `version` ends the same to the last byte. `reason` and `fix` say why it is not
    usable; both are empty when it is.
    """

    kind: str
    usable: bool
    boundaries: int = 0
    languages: frozenset[str] = frozenset()
    enforces: frozenset[LimitName] = frozenset()
    version: str = ""
    replays_exactly: bool = False
    reason: str = ""
    fix: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a sandbox must be when it starts. Two equal specs make interchangeable sandboxes, so pools are kept by it.

    Holds only the limits that are set when a sandbox is made; the supervisor and the gateway hold the others.
    """

    language: str = "python"
    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    disk_bytes: int | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a guest used, None where the backend cannot tell."""

    cpu_seconds: float | None = None
    memory_peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sandbox ended, seen from outside.

    At most one of these says why: `exit_code` (it left by itself), `signal` (a signal or its like ended it), `limit`
    (the backend stopped it at that limit), `lost` (it died through no fault of its guest: the reason). All None: it
    was killed because we said so.
    """

    exit_code: int | None = None
    signal: int | None = None
    limit: LimitName | None = None
    lost: str | None = None


class Sandbox(Protocol):
    """One isolated place where one guest runs once."""

    @property
    def evidence(self) -> Mapping[str, Any]:
        """What isolation is in force, read back where the host allows it. JSON values."""
        ...

    def listen(self, on_output: OutputSink) -> None:
        """Deliver, from its beginning, what the guest's processes write to their own file descriptors.

        A backend whose guests have none never calls `on_output`.
        """
        ...

    async def kill(self) -> Ending:
        """End the guest and everything it started, and return how it ended; if it had ended by itself, how.

        When this returns nothing of the guest is running, its output was delivered and its folders are gone.
        Idempotent; bounded in time; safe to call while the guest runs, ends, or never started.
        """
        ...

    def usage(self) -> Usage:
        """What the guest used so far; final after `kill`."""
        ...


async def _nobody_listens(*_where: object) -> Listener:
    raise Closed("gateway server")


@dataclass(frozen=True, slots=True)
class BackendContext:
    """What a backend is built with: a private folder (mode 0700, removed at close or by the next start), `tasks`, where
    tasks are started that live no longer than the backend, and `workers`, how many worker processes it may keep.

    A task that raises makes the whole backend unusable; what belongs to one sandbox is started in `tasks_of` its
    endpoint, and loses that sandbox alone.

    `attachment` finds the host's end of an endpoint, None when it was given up: for a guest inside the host's process,
    which needs no gRPC. `listen` opens a socket for the guest of one endpoint alone, for a guest that is shown its own
    socket and nobody else's; `listen_tls` does so for a guest on another machine; both are those of `GatewayServer`.
    `options` are the operator's for this backend, unchecked."""

    folder: Path
    tasks: TaskGroup | BackendTasks
    workers: int
    attachment: Callable[[Endpoint], Attachment | None] = lambda _endpoint: None
    listen: Callable[[Endpoint, Path, int | None], Awaitable[Listener]] = _nobody_listens
    listen_tls: Callable[[Endpoint, TlsPort], Awaitable[Listener]] = _nobody_listens
    options: Mapping[str, Any] = field(default_factory=dict)

    def tasks_of(self, endpoint: Endpoint) -> SandboxTasks:
        """Where the background tasks of the sandbox with this endpoint are started."""
        return SandboxTasks(self.tasks, self.attachment(endpoint))


class Backend(Protocol):
    """Makes sandboxes of one kind; knows nothing of tools, profiles or records."""

    kind: ClassVar[str]
    warm_size: ClassVar[int]
    """How many sandboxes to keep warm unless the host says otherwise."""

    def __init__(self, context: BackendContext) -> None:
        """Raises InvalidRequest when an option is unknown or wrong."""
        ...

    async def probe(self) -> Capabilities:
        """Find out whether sandboxes can be made here and what they hold. No side effects that outlast it, no
        exceptions for a missing engine: that is `usable=False` with a reason and a fix."""
        ...

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> Sandbox:
        """Start one sandbox whose guest attaches to `endpoint`; return without waiting for that.

        Raises BackendUnavailable when the engine cannot, SandboxLost when trying again may work.
        """
        ...

    async def aclose(self) -> None:
        """Kill what is left and release everything. Idempotent."""
        ...
