"""One container of a Docker daemon, from before it is made until the daemon is told to forget it."""

import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from gateway.endpoint import Endpoint, Listener, TlsPort
from gateway.errors import BackendUnavailable, SandboxError
from runtimes._background import Tasks
from runtimes._cgroup import Cgroup, Counted
from runtimes._container import INSIDE_ADDRESS, SOCKET_NAME, agent_config, ending_of
from runtimes._docker_config import PLAIN_RUNTIMES, evidence_of, unheld
from runtimes._docker_engine import Engine
from runtimes._docker_options import KIND
from runtimes._docker_stdio import Pipes, Stdio
from runtimes._pidfd import HeldProcess, first_child, is_leaving
from runtimes.base import BackendContext, Ending, OutputSink, SandboxSpec, Usage

END_SECONDS = 8.0
"""The kernel and the daemon end a container well within this."""

CPU_CHECK_SECONDS = 0.05
LEAVE_SECONDS = 0.1
"""How long a guest may take to be gone after its last word, where we cannot see its processes."""


@dataclass(frozen=True, slots=True)
class Link:
    """How a guest and this host reach each other.

    `owner` is the guest's user where its socket can be given to it. `pipes` says whether its kernel is ours, so that
    named pipes work. `port` is for a guest on another machine, None for a socket on this one.
    """

    owner: int | None
    pipes: bool
    port: TlsPort | None


class DockerSandbox:
    """Made by its backend; `open` starts it. `kill` is safe at any moment, before and during `open` too."""

    def __init__(self, engine: Engine, tasks: Tasks, spec: SandboxSpec, folder: Path, name: str) -> None:
        self._engine = engine
        self._tasks = tasks
        self._spec = spec
        self._folder = folder
        self._name = name
        self._listener: Listener | None = None
        self._stdio: Stdio | None = None
        self._cgroup: Cgroup | None = None
        self._init: HeldProcess | None = None
        self._agent: int | None = None
        self._started = self._heard = self._over_cpu = False
        self._killing = anyio.Lock()
        self._ending: Ending | None = None
        self._counted = Counted()
        self._cpu_before = 0.0
        self._evidence: Mapping[str, Any] = {}

    @property
    def evidence(self) -> Mapping[str, Any]:
        return self._evidence

    async def open(self, context: BackendContext, endpoint: Endpoint, link: Link, config: Mapping[str, Any]) -> None:
        """Make the container and start it; its agent attaches in its own time. Raises what a backend's `start` does."""
        if link.port is None:
            self._listener = await context.listen(endpoint, self._folder / SOCKET_NAME, link.owner)
            line = agent_config(self._spec, Endpoint(INSIDE_ADDRESS, endpoint.token))
        else:
            self._listener = await context.listen_tls(endpoint, link.port)
            inside = Endpoint(self._listener.address, endpoint.token)
            line = agent_config(self._spec, inside, link.port.authority)
        self._started = True
        container = await self._engine.create(self._name, config)
        self._stdio = Pipes(self._folder, link.owner) if link.pipes else await self._engine.attach(container)
        await self._engine.start(container)
        self._stdio.tell(line)
        found = await self._engine.inspect(container)
        if wrong := ", ".join(unheld(config, found)):
            raise BackendUnavailable(
                KIND, f"the daemon did not apply {wrong}", "Use a Docker daemon without such a plugin"
            )
        pid = found["State"]["Pid"]
        self._cgroup = Cgroup.of(pid, container)
        if self._cgroup is not None:
            with suppress(ProcessLookupError):  # it ended already; the daemon knows how
                self._init = HeldProcess(pid, self._count)
        self._evidence = evidence_of(found) | ({"cgroup": self._cgroup.bounds()} if self._cgroup is not None else {})

    def listen(self, on_output: OutputSink) -> None:
        assert self._stdio is not None
        self._stdio.listen(on_output)
        self._heard = True
        if self._init is not None and self._evidence["runtime"] in PLAIN_RUNTIMES:
            self._agent = first_child(self._init.pid)
        self._count()
        self._cpu_before = self._counted.cpu_seconds or 0.0
        if self._spec.cpu_seconds is not None and self._init is not None:
            self._tasks.start_soon(self._watch_cpu, self._init, self._spec.cpu_seconds)

    async def kill(self) -> Ending:
        leaving = self._leaving()  # asked first: the guest hears in a moment that we hung up, and then leaves too
        async with self._killing:
            if self._ending is None:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._take_away)
                    self._ending = await self._end(leaving=leaving) if self._started else Ending()
                await self._release()
        assert self._ending is not None
        return self._ending

    def usage(self) -> Usage:
        cpu_seconds = None if self._counted.cpu_seconds is None else self._counted.cpu_seconds - self._cpu_before
        return Usage(cpu_seconds, self._counted.memory_peak_bytes)

    async def _end(self, *, leaving: bool | None) -> Ending:
        """End it, or say how it ended. Raises nothing: a daemon that fails has lost the sandbox."""
        try:
            with anyio.fail_after(END_SECONDS):
                if await self._is_gone() if leaving is None else leaving:
                    return await self._how_it_ended()
                self._count()
                await self._strike()
                return Ending(limit="memory_bytes" if self._counted.oom_kills else None)
        except TimeoutError:
            return Ending(lost=f"its container did not end within {END_SECONDS:g} s")
        except SandboxError as error:
            return Ending(lost=f"it ended, and its daemon cannot say how: {error}")

    def _leaving(self) -> bool | None:
        """Whether it is ending by itself, None where its processes cannot be seen. Init follows its agent at once."""
        if self._init is None:
            return None
        if self._init.ended.is_set():
            return True
        if self._agent is None:
            return None if self._heard else False
        return is_leaving(self._agent)

    async def _is_gone(self) -> bool:
        if self._init is None:
            await anyio.sleep(LEAVE_SECONDS)
            return not (await self._engine.inspect(self._name))["State"]["Running"]
        with anyio.move_on_after(LEAVE_SECONDS):
            await self._init.ended.wait()
        return self._init.ended.is_set()

    async def _strike(self) -> None:
        """Its first process takes every other with it, and is gone when they are."""
        if self._init is not None:
            with suppress(PermissionError):  # a daemon of root's, and a host that is not
                self._init.kill()
                await self._init.ended.wait()
                return
        await self._engine.kill(self._name)
        await self._engine.wait(self._name)

    async def _how_it_ended(self) -> Ending:
        if self._over_cpu:
            return Ending(limit="cpu_seconds")
        await self._engine.wait(self._name)
        state = (await self._engine.inspect(self._name))["State"]
        ending = ending_of(
            state["ExitCode"],
            out_of_memory=bool(state["OOMKilled"] or self._counted.oom_kills),
            cpu_seconds=self.usage().cpu_seconds,
            allowed_cpu_seconds=self._spec.cpu_seconds,
        )
        if ending.signal == signal.SIGABRT and self._counted.pids_refused:
            return Ending(limit="pids")  # gRPC gives up where it cannot have a thread
        if self._heard or ending.exit_code is None:
            return ending
        said = await self._engine.last_words(self._name)
        return Ending(lost=f"its agent left with code {ending.exit_code} before it had anything to do: {said}")

    async def _take_away(self) -> None:
        """Close its socket and remove its folder, while it dies: what it has open it keeps until then."""
        if self._listener is not None:
            await self._listener.aclose()
        await anyio.to_thread.run_sync(shutil.rmtree, self._folder, True)  # noqa: FBT003 - ignore_errors

    async def _release(self) -> None:
        """Let go of it; the daemon removes the container in the background."""
        if self._init is not None:
            self._init.close()
        if self._stdio is not None:
            await self._stdio.finish()
        if self._started:
            self._tasks.start_soon(self._forget)

    async def _forget(self) -> None:
        with suppress(SandboxError):  # the reaper finds what a daemon in trouble keeps
            await self._engine.remove(self._name)

    async def _watch_cpu(self, init: HeldProcess, allowed_seconds: float) -> None:
        """The kernel bounds the processor time of each process; this bounds that of all of them together."""
        while not init.ended.is_set():
            self._count()
            if (self.usage().cpu_seconds or 0.0) > allowed_seconds:
                self._over_cpu = True
                with suppress(PermissionError):
                    init.kill()
            with anyio.move_on_after(CPU_CHECK_SECONDS):
                await init.ended.wait()

    def _count(self) -> None:
        """Keep what the kernel counted so far; once the container is gone, what it counted last."""
        if self._cgroup is not None and (counted := self._cgroup.counted()).cpu_seconds is not None:
            self._counted = counted
