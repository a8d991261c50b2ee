"""Warm sandboxes of one backend: started, attached, never used. One is claimed by one execution and then destroyed."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from gateway.attachment import Attachment
from gateway.errors import Busy, Closed, ProtocolError, SandboxError, SandboxLost
from gateway.server import GatewayServer
from runtimes.base import Backend, Sandbox, SandboxSpec
from runtimes.supervisor import end

ATTACH_SECONDS = 30.0
"""A sandbox whose guest has not attached by then is given up."""

CLAIM_SECONDS = 60.0
"""How long a claim waits for a sandbox before the caller is told to come back later."""

MAX_STARTING = 8
"""Sandboxes of one spec being started at once: more only slows the engine down."""

REFILL_SECONDS = 0.01
"""While half are warm a new one waits this long: starting it would slow down the execution that took one."""

MAX_SPECS = 8
"""Specs kept warm. The caller chooses limits and so specs; past this the least recently used one cools down."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A sandbox whose guest is attached and waits for its snippet."""

    sandbox: Sandbox
    attachment: Attachment


@dataclass(slots=True)
class _Waiter:
    arrived: anyio.Event = field(default_factory=anyio.Event)
    claimed: Claimed | None = None
    error: SandboxError | None = None


class Pool:
    """Sandboxes of one spec. Invariant: `ready` is empty while anybody waits."""

    def __init__(self, backend: Backend, spec: SandboxSpec, server: GatewayServer, tasks: TaskGroup, size: int) -> None:
        self._backend = backend
        self._spec = spec
        self._server = server
        self._tasks = tasks
        self._size = size
        self._ready: deque[Claimed] = deque()
        self._waiting: deque[_Waiter] = deque()
        self._starting = 0
        self._closed = False

    @property
    def ready(self) -> int:
        return len(self._ready)

    def warm(self) -> None:
        """Start what is missing, in the background."""
        while not self._closed and self._starting < MAX_STARTING and self._missing() > 0:
            self._starting += 1
            self._tasks.start_soon(self._start_one)

    async def claim(self) -> Claimed:
        """A warm sandbox, or a new one. Raises Busy, Closed, BackendUnavailable or SandboxLost."""
        if self._closed:
            raise Closed("pool")
        while self._ready:
            claimed = self._ready.popleft()
            if not claimed.attachment.ended:
                self.warm()
                return claimed
            self._tasks.start_soon(end, claimed.sandbox, claimed.attachment)
        return await self._wait()

    async def aclose(self) -> None:
        """End the warm sandboxes and turn away who waits. Idempotent."""
        self._closed = True
        for waiter in self._waiting:
            waiter.error = Closed("pool")
            waiter.arrived.set()
        await self.retire()

    async def retire(self) -> None:
        """Keep nothing warm any more; who waits is still served."""
        self._size = 0
        async with anyio.create_task_group() as ending:
            while self._ready:
                claimed = self._ready.popleft()
                ending.start_soon(end, claimed.sandbox, claimed.attachment)

    def _missing(self) -> int:
        return self._size + len(self._waiting) - len(self._ready) - self._starting

    async def _wait(self) -> Claimed:
        waiter = _Waiter()
        self._waiting.append(waiter)
        self.warm()
        try:
            with anyio.move_on_after(CLAIM_SECONDS):
                await waiter.arrived.wait()
        except anyio.get_cancelled_exc_class():
            if waiter.claimed is not None:
                self._offer(waiter.claimed)  # it arrived while we were being cancelled
            raise
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
        if waiter.error is not None:
            raise waiter.error
        if waiter.claimed is None:
            raise Busy(self._backend.kind, CLAIM_SECONDS)
        return waiter.claimed

    async def _start_one(self) -> None:
        if len(self._ready) * 2 >= self._size > 0:
            await anyio.sleep(REFILL_SECONDS)
        try:
            claimed = await self._start()
        except SandboxError as error:
            self._starting -= 1
            self._refuse(error)
        else:
            self._starting -= 1
            self._offer(claimed)
            self.warm()

    async def _start(self) -> Claimed:
        attachment = self._server.expect()
        try:
            sandbox = await self._backend.start(self._spec, attachment.endpoint)
        except OSError as error:
            attachment.hang_up()
            raise SandboxLost(f"the host could not make it: {error}") from error
        except BaseException:
            attachment.hang_up()  # nobody will come with its token
            raise
        attached = False
        try:
            with anyio.move_on_after(ATTACH_SECONDS):
                await attachment.wait_attached()
                attached = True
        except ProtocolError:
            pass  # it ended before it said hello
        finally:
            if not attached:
                ending = await end(sandbox, attachment)
        if not attached:
            raise SandboxLost(ending.lost or "its guest did not attach")
        return Claimed(sandbox, attachment)

    def _offer(self, claimed: Claimed) -> None:
        if self._waiting and not self._closed:
            waiter = self._waiting.popleft()
            waiter.claimed = claimed
            waiter.arrived.set()
        elif self._closed or len(self._ready) >= self._size:
            self._tasks.start_soon(end, claimed.sandbox, claimed.attachment)
        else:
            self._ready.append(claimed)

    def _refuse(self, error: SandboxError) -> None:
        """Tell one who waits; with nobody waiting the next claim tries again, so a broken engine is not hammered."""
        if self._waiting:
            waiter = self._waiting.popleft()
            waiter.error = error
            waiter.arrived.set()
            self.warm()


class Pools:
    """The pools of one host, by backend and spec; at most `MAX_SPECS` are kept warm."""

    def __init__(self, server: GatewayServer, tasks: TaskGroup) -> None:
        self._server = server
        self._tasks = tasks
        self._pools: OrderedDict[tuple[str, SandboxSpec], Pool] = OrderedDict()

    def pool(self, backend: Backend, spec: SandboxSpec, size: int) -> Pool:
        """The pool of `spec`, made on first use with `size` to keep warm."""
        key = (backend.kind, spec)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(backend, spec, self._server, self._tasks, size)
            self._cool()
        self._pools.move_to_end(key)
        return pool

    async def aclose(self) -> None:
        """End every warm sandbox. Idempotent."""
        async with anyio.create_task_group() as closing:
            while self._pools:
                closing.start_soon(self._pools.popitem()[1].aclose)

    def _cool(self) -> None:
        while len(self._pools) > MAX_SPECS:
            self._tasks.start_soon(self._pools.popitem(last=False)[1].retire)
