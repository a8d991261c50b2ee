"""gVisor: a container whose system calls are answered by a kernel in user space, which the host's kernel confines.

`runsc` is driven directly, no daemon is needed. A guest that breaks out of its interpreter faces gVisor's kernel; one
that breaks out of that is in a process without privileges, files or network. The root file system is the host's own
Python, read-only, or an unpacked image.
"""

import os
import secrets
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import anyio

from gateway.attachment import Attachment
from gateway.endpoint import Endpoint
from gateway.errors import BackendUnavailable
from runtimes._background import SandboxTasks
from runtimes._container import FIRST_UID, INSIDE_ADDRESS, SOCKET_NAME, UIDS, agent_config, container_for, ending_of
from runtimes._gvisor_options import GvisorOptions
from runtimes._gvisor_site import FIX, Site, find_site
from runtimes._sentry import FAILED, Running
from runtimes.base import BackendContext, Capabilities, Ending, OutputSink, SandboxSpec, Usage
from runtimes.guest.init import KILLED
from runtimes.limits import LimitName

EXIT_SECONDS = 2.0
"""How long `runsc` may take to notice that its guest has left."""

CHECK_SECONDS = 0.05
"""Between two looks at what a guest uses."""


class GvisorSandbox:
    """One container and the folder, socket and groups that were made for it."""

    def __init__(
        self,
        running: Running,
        spec: SandboxSpec,
        attachment: Attachment | None,
        close: Callable[[], Awaitable[None]],
        facts: Mapping[str, Any],
        *,
        init_is_safe: bool,
    ) -> None:
        self._running = running
        self._spec = spec
        self._attachment = attachment
        self._close = close
        self._evidence = dict(facts)
        self._init_is_safe = init_is_safe
        self._used_before = 0.0
        self._limit: LimitName | None = None
        self._ending: Ending | None = None
        self._killing = anyio.Lock()

    @property
    def evidence(self) -> Mapping[str, Any]:
        return self._evidence

    def listen(self, on_output: OutputSink) -> None:
        self._running.output.listen(on_output)
        self._evidence |= {"confinement": self._running.confinement(), "cgroup": dict(self._running.held.bounds())}
        self._used_before = self._running.held.counted().cpu_seconds or 0.0

    async def kill(self) -> Ending:
        async with self._killing:
            if self._ending is None:
                told = not await self._left()
                gone = await self._running.end()
                self._ending = self._judge(told=told) if gone else Ending(lost="its processes could not be ended")
                await self._close()
        return self._ending

    def usage(self) -> Usage:
        counted = self._running.held.counted()
        used = None if counted.cpu_seconds is None else max(0.0, counted.cpu_seconds - self._used_before)
        return Usage(used, counted.memory_peak_bytes)

    async def watch(self, *, hold_memory_bytes: int | None) -> None:
        """End it at the limits that nobody else holds: processor time of all its processes together and, where there
        is no control group, memory."""
        while self._running.exit_code is None and self._ending is None:
            counted = self._running.held.counted()
            used = (counted.cpu_seconds or 0.0) - self._used_before
            if self._spec.cpu_seconds is not None and self._used_before and used > self._spec.cpu_seconds:
                self._limit = "cpu_seconds"
            elif counted.oom_kills or (hold_memory_bytes and (counted.memory_peak_bytes or 0) > hold_memory_bytes):
                self._limit = "memory_bytes"
            if self._limit is not None:
                await anyio.to_thread.run_sync(self._running.held.stop)
                return
            await anyio.sleep(CHECK_SECONDS)

    async def _left(self) -> bool:
        """Whether the guest has gone by itself. One that hung up without a last word is given time to end."""
        if self._attachment is not None and self._attachment.ended and self._attachment.finished is None:
            with anyio.move_on_after(EXIT_SECONDS):
                await self._running.wait()
        return self._running.exit_code is not None

    def _judge(self, *, told: bool) -> Ending:
        counted, code = self._running.held.counted(), self._running.exit_code
        if self._limit is not None:
            return Ending(limit=self._limit)
        if counted.oom_kills:
            return Ending(limit="memory_bytes")
        if told or code is None:
            return Ending()
        if self._running.held.pids_were_short():
            return Ending(limit="pids")
        if (panic := self._running.panic()) or code < 0 or code == FAILED:
            return Ending(lost=panic or f"`runsc run` ended with {code}")
        if code == KILLED and not self._init_is_safe:
            return Ending(signal=signal.SIGKILL)  # by its guest, as far as can be told
        return ending_of(
            code,
            out_of_memory=False,
            cpu_seconds=self.usage().cpu_seconds,
            allowed_cpu_seconds=self._spec.cpu_seconds,
        )


class GvisorBackend:
    """Runs containers by `runsc`."""

    kind: ClassVar[str] = "gvisor"
    warm_size: ClassVar[int] = 2

    def __init__(self, context: BackendContext) -> None:
        self._context = context
        self._options = GvisorOptions.of(context.options)
        self._site: Site | None = None
        self._finding = anyio.Lock()
        self._clearing = 0
        self._cleared = anyio.Event()

    async def probe(self) -> Capabilities:
        async with self._finding:
            try:
                self._site = await find_site(self._context, self._options)
            except BackendUnavailable as error:
                return Capabilities(self.kind, usable=False, reason=error.reason, fix=error.fix)
        site = self._site
        return Capabilities(
            self.kind,
            usable=True,
            boundaries=site.boundaries,
            languages=site.languages,
            enforces=site.enforces,
            version=f"runsc {site.runsc.version}",
            details=site.details,
        )

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> GvisorSandbox:
        site = self._site
        if site is None:
            raise BackendUnavailable(self.kind, "it was not probed", FIX)
        made = AsyncExitStack()
        try:
            return await self._start(site, spec, endpoint, made)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await made.aclose()
            raise

    async def _start(self, site: Site, spec: SandboxSpec, endpoint: Endpoint, made: AsyncExitStack) -> GvisorSandbox:
        """`made` undoes it. Nothing is waited for once the container runs, so that one is never left to itself."""
        folder = self._context.folder / secrets.token_hex(4)
        made.push_async_callback(_remove, folder)
        uid = FIRST_UID + secrets.randbelow(UIDS)
        owner = uid if os.geteuid() == 0 else None
        socket_folder = _socket_folder(folder, owner)
        listener = await self._context.listen(endpoint, socket_folder / SOCKET_NAME, owner)
        made.push_async_callback(listener.aclose)
        container = container_for(spec, argv=site.root.argv, uid=uid, gid=uid, socket_folder=socket_folder)
        running = site.run(container, folder)
        made.callback(self._clear_later, running)
        tasks = self._context.tasks_of(endpoint)
        tasks.start_soon(running.pump)
        # Its processor time is held from outside: gVisor counts by the clock, so that a busy host counts as well.
        told = replace(spec, cpu_seconds=None)
        running.tell(agent_config(told, Endpoint(INSIDE_ADDRESS, endpoint.token)).removesuffix(b"\n"))
        sandbox = GvisorSandbox(
            running,
            spec,
            self._context.attachment(endpoint),
            made.aclose,
            {**site.facts, "user": uid, "network": "none"},
            init_is_safe=site.runsc.protects_init,
        )
        hold = None if site.groups is not None else container.memory_bytes
        tasks.start_soon(lambda: sandbox.watch(hold_memory_bytes=hold))
        return sandbox

    async def aclose(self) -> None:
        """Every sandbox belongs to a pool or an execution, which ends it; what held them may still be there."""
        while self._clearing:
            await self._cleared.wait()

    def _clear_later(self, running: Running) -> None:
        self._clearing += 1
        # Of no sandbox any more: what cannot be cleared, the next start sweeps.
        SandboxTasks(self._context.tasks, None).start_soon(self._clear, running)

    async def _clear(self, running: Running) -> None:
        try:
            with anyio.CancelScope(shield=True):
                await running.clear()
        finally:
            self._clearing -= 1
            self._cleared.set()
            self._cleared = anyio.Event()


async def _remove(folder: Path) -> None:
    await anyio.to_thread.run_sync(shutil.rmtree, folder, True)  # noqa: FBT003 - ignore_errors


def _socket_folder(folder: Path, owner: int | None) -> Path:
    """A folder that only the guest's user may look into, or, where we cannot give it away, whoever is shown it."""
    made = folder / "s"
    made.mkdir(parents=True)
    if owner is not None:
        os.chown(made, owner, -1)
    made.chmod(0o755 if owner is None else 0o500)
    return made
