"""Containers of a Docker daemon, hardened, with the network off. Needs the Docker SDK (`toolexec[docker]`).

A container runs one guest. It is started ahead of need; the guest's agent attaches through a socket that only this
guest can use, and waits. On this host a guest ends by a signal to its first process, which takes the kernel a few
milliseconds; the daemon forgets the container afterwards, in the background.
"""

import itertools
import logging
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import anyio

from gateway.endpoint import Endpoint
from gateway.errors import BackendUnavailable, SandboxError
from runtimes import _docker_reaper as reaper
from runtimes._container import FIRST_UID, SOCKET_FOLDER, UIDS, container_for
from runtimes._docker_config import OWNER_LABEL, PLAIN_RUNTIMES, DockerWay, create_config, load_seccomp
from runtimes._docker_daemon import Daemon, check_network, daemon_of, languages_of
from runtimes._docker_engine import Engine
from runtimes._docker_options import KIND, DockerOptions
from runtimes._docker_sandbox import DockerSandbox, Link
from runtimes.base import BackendContext, Capabilities, SandboxSpec
from runtimes.image.agent import agent_digest

_log = logging.getLogger(__name__)

ARGV = ("python3", "-I", "-u", "-X", "utf8", "/opt/toolexec/start.py")
SECCOMP = Path(__file__).parent / "image" / "seccomp.json"
COMMON_UID = 65_532
"""For daemons that map users: inside they know no others than the first 65,536."""

CLOSE_SECONDS = 10.0
ASK_KERNEL = """
import ctypes
log = ctypes.create_string_buffer(1 << 16)
ctypes.CDLL(None).klogctl(3, log, len(log))
print("gVisor" if b"gVisor" in log.raw else "")
"""
"""gVisor has a kernel log of its own, which says so; that of Linux is denied to guests."""


class DockerBackend:
    """Starts guests in containers of one daemon."""

    kind: ClassVar[str] = KIND
    warm_size: ClassVar[int] = 2

    def __init__(self, context: BackendContext) -> None:
        self._context = context
        self._options = DockerOptions.of(context.options)
        self._engine = Engine(self._options)
        self._owner = reaper.owner_of(context.folder.parent)
        self._port = self._options.gateway_port()
        self._way = DockerWay(
            image=self._options.image,
            seccomp=load_seccomp(SECCOMP.read_text(), ip=self._port is not None),
            labels={OWNER_LABEL: self._owner},
            runtime=self._options.runtime,
            network=self._options.network,
        )
        self._guests = itertools.count(secrets.randbelow(UIDS))
        self._daemon: Daemon | None = None
        self._starting = anyio.Lock()

    async def probe(self) -> Capabilities:
        try:
            daemon = await self._ask_daemon()
            languages = languages_of(await self._engine.image(self._options.image), self._options, agent_digest())
            kernel = None if daemon.runtime in PLAIN_RUNTIMES else await self._kernel_of_its_own(daemon)
        except BackendUnavailable as error:
            return Capabilities(self.kind, usable=False, reason=error.reason, fix=error.fix)
        except SandboxError as error:
            return Capabilities(self.kind, usable=False, reason=str(error), fix="Look at the daemon's log; try again")
        return Capabilities(
            self.kind,
            usable=True,
            boundaries=1 if kernel is None else 2,
            languages=languages,
            enforces=daemon.enforces,
            version=f"Docker {daemon.version}, {daemon.runtime}",
            details={
                "image": self._options.image,
                "apparmor": daemon.apparmor,
                "maps_users": daemon.maps_users,
                "kernel": kernel or "the host's",
            },
        )

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> DockerSandbox:
        daemon = await self._known_daemon()
        uid = self._new_uid(daemon)
        owner = None if daemon.maps_users or os.geteuid() != 0 else uid
        folder = _make_folder(self._context.folder)
        argv = (*ARGV, SOCKET_FOLDER) if daemon.shares_kernel else ARGV
        config = self._config(spec, daemon, argv, uid, folder)
        sandbox = DockerSandbox(self._engine, self._context.tasks_of(endpoint), spec, folder, _new_name())
        try:
            await sandbox.open(self._context, endpoint, Link(owner, daemon.shares_kernel, self._port), config)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await sandbox.kill()
            raise
        return sandbox

    async def _kernel_of_its_own(self, daemon: Daemon) -> str | None:
        """What runs the guests' system calls in the host's place, found out in a container; None for the host."""
        folder = _make_folder(self._context.folder)
        config = self._config(SandboxSpec(), daemon, ("python3", "-I", "-c", ASK_KERNEL), self._new_uid(daemon), folder)
        name = _new_name()
        try:
            await self._engine.create(name, config)
            await self._engine.start(name)
            await self._engine.wait(name)
            said = await self._engine.last_words(name)
        finally:
            with anyio.CancelScope(shield=True), suppress(SandboxError):  # it may not have come to be
                await self._engine.remove(name)
            folder.rmdir()
        return "gVisor" if said == "gVisor" else None

    def _new_uid(self, daemon: Daemon) -> int:
        """A user that no other guest of this host has, nor most likely one of another host."""
        return COMMON_UID if daemon.maps_users else FIRST_UID + next(self._guests) % UIDS

    def _config(
        self, spec: SandboxSpec, daemon: Daemon, argv: tuple[str, ...], uid: int, folder: Path
    ) -> dict[str, Any]:
        container = container_for(spec, argv=argv, uid=uid, gid=uid, socket_folder=folder)
        return create_config(container, self._way, apparmor=daemon.apparmor)

    async def aclose(self) -> None:
        """Remove what the daemon has not forgotten yet. Idempotent; a daemon that is down keeps it for the next start,
        which finds it by the label of its owner."""
        if self._daemon is not None:
            try:
                with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_SECONDS):
                    await reaper.remove_all(self._engine, self._owner)
            except SandboxError as error:
                _log.warning("containers may be left until the next start: %s", error)
        self._daemon = None
        await self._engine.aclose()

    async def _ask_daemon(self) -> Daemon:
        """Raises BackendUnavailable for a daemon or a network that cannot hold guests."""
        daemon = daemon_of(await self._engine.info(), self._options)
        if self._options.network is not None:
            check_network(await self._engine.network(self._options.network))
        return daemon

    async def _known_daemon(self) -> Daemon:
        """The daemon's facts; whoever asks first also removes what dead hosts left."""
        async with self._starting:
            if self._daemon is None:
                self._daemon = await self._ask_daemon()
                await reaper.reap(self._engine)
        return self._daemon


def _new_name() -> str:
    return f"toolexec-{secrets.token_hex(8)}"


def _make_folder(parent: Path) -> Path:
    """A guest's folder: its user must get at the socket in it, and nobody else can enter `parent`."""
    folder = Path(tempfile.mkdtemp(prefix="", dir=parent))
    folder.chmod(0o711)
    return folder
