"""Warm sandboxes of one backend: started, attached, never used. One is claimed by one execution and then destroyed."""

import asyncio
import logging
import math
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from gateway.attachment import Attachment
from gateway.errors import Busy, Closed, ProtocolError, SandboxError, SandboxLost
from runtimes._background import said
from runtimes._pace import Pace
from runtimes.base import Backend, Sandbox, SandboxSpec
from runtimes.supervisor import end

if TYPE_CHECKING:
    from gateway.server import GatewayServer  # whoever has one has loaded gRPC

_log = logging.getLogger(__name__)

ATTACH_SECONDS = 30.0
"""A sandbox whose guest has not attached by then is given up."""

CLAIM_SECONDS = 60.0
"""How long a claim waits for a sandbox before the caller is told to come back later."""

REFILL_SECONDS = 0.01
"""While half are warm a new one waits this long: starting it would slow down the execution that took one."""

MAX_SPECS = 8
"""Specs kept warm. The caller chooses limits and so specs; past this the least recently used one cools down."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A sandbox whose guest is attached and waits for its snippet."""

    sandbox: Sandbox
    attachment: Attachment


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """One pool since it was made.

    size, ready, starting, waiting   how many it keeps, has, is making, and claims that wait for one
    claims, hits                     sandboxes asked for, and those that were ready when they were
    started, failed, dropped         sandboxes that became ready, those that did not, and those let go unused
    refill_seconds                   from the beginning of a start until its guest was attached, on average; None
                                     before the first
    """

    backend: str
    spec: SandboxSpec
    size: int
    ready: int
    starting: int
    waiting: int
    claims: int
    hits: int
    started: int
    failed: int
    dropped: int
    refill_seconds: float | None

    @property
    def hit_rate(self) -> float | None:
        """The part of the claims that did not wait; None before the first."""
        return self.hits / self.claims if self.claims else None


@dataclass(slots=True)
class _Counts:
    claims: int = 0
    hits: int = 0
    started: int = 0
    failed: int = 0
    dropped: int = 0
    start_seconds: float = 0.0


@dataclass(slots=True)
class _Waiter:
    arrived: anyio.Event = field(default_factory=anyio.Event)
    claimed: Claimed | None = None
    error: SandboxError | None = None


class Pool:
    """Sandboxes of one spec; `size` are kept warm, until nobody has claimed one for `idle_seconds`.

    Invariant: `ready` is empty while anybody waits.
    """

    def __init__(
        self,
        backend: Backend,
        spec: SandboxSpec,
        server: "GatewayServer",
        tasks: TaskGroup,
        size: int,
        idle_seconds: float = math.inf,
    ) -> None:
        self._backend = backend
        self._spec = spec
        self._server = server
        self._tasks = tasks
        self._size = size
        self._idle_seconds = idle_seconds
        self._wanted_at = time.monotonic()
        self._watching: anyio.CancelScope | None = None
        self._ready: deque[Claimed] = deque()
        self._waiting: deque[_Waiter] = deque()
        self._starting = 0
        self._pace = Pace()
        self._counts = _Counts()
        self._closed = False

    @property
    def ready(self) -> int:
        return len(self._ready)

    def metrics(self) -> PoolMetrics:
        counts = self._counts
        return PoolMetrics(
            backend=self._backend.kind,
            spec=self._spec,
            size=self._size,
            ready=self.ready,
            starting=self._starting,
            waiting=len(self._waiting),
            claims=counts.claims,
            hits=counts.hits,
            started=counts.started,
            failed=counts.failed,
            dropped=counts.dropped,
            refill_seconds=counts.start_seconds / counts.started if counts.started else None,
        )

    def warm(self) -> None:
        """Start what is missing, in the background."""
        self._wanted_at = time.monotonic()
        if self._size > 0 and self._watching is None and not math.isinf(self._idle_seconds):
            self._watching = anyio.CancelScope()
            self._tasks.start_soon(self._watch, self._watching)
        self._refill()

    async def claim(self) -> Claimed:
        """A warm sandbox, or a new one. Raises Busy, Closed, BackendUnavailable or SandboxLost."""
        if self._closed:
            raise Closed("pool")
        self._counts.claims += 1
        while self._ready:
            claimed = self._ready.popleft()
            if not claimed.attachment.ended:
                self._counts.hits += 1
                self._wanted_at = time.monotonic()
                asyncio.get_running_loop().call_soon(self.warm)  # once the claimed one has what it was claimed for
                return claimed
            self._drop(claimed)
        return await self._wait()

    async def aclose(self) -> None:
        """End the warm sandboxes and turn away who waits. Idempotent."""
        self._closed = True
        self._refuse_all(Closed("pool"))
        await self.retire()

    async def retire(self) -> None:
        """Keep nothing warm any more; who waits is still served."""
        self._size = 0
        if self._watching is not None:
            self._watching.cancel()
        await self._let_go()

    def give_up(self, error: SandboxError) -> None:
        """Refuse who waits, and start nothing more: the backend is broken."""
        self._size = 0
        self._refuse_all(error)

    async def _let_go(self) -> None:
        self._counts.dropped += len(self._ready)
        async with anyio.create_task_group() as ending:
            while self._ready:
                claimed = self._ready.popleft()
                ending.start_soon(end, claimed.sandbox, claimed.attachment)

    async def _watch(self, scope: anyio.CancelScope) -> None:
        """Let the warm sandboxes go when nobody has wanted one for long; the next claim makes new ones."""
        with scope:
            left = self._idle_seconds
            while left > 0:
                await anyio.sleep(left)
                left = self._wanted_at + self._idle_seconds - time.monotonic()
            self._watching = None
            await self._let_go()

    def _refill(self) -> None:
        while not self._closed and self._starting < self._pace.allowed and self._missing() > 0:
            self._starting += 1
            self._tasks.start_soon(self._start_one)

    def _missing(self) -> int:
        return self._target() + len(self._waiting) - len(self._ready) - self._starting

    def _target(self) -> int:
        idle = time.monotonic() - self._wanted_at >= self._idle_seconds
        return 0 if idle else self._size

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
        if pause := self._pace.pause_seconds(time.monotonic()):
            await anyio.sleep(pause)
        began = time.monotonic()
        try:
            claimed = await self._start()
        except SandboxError as error:
            self._starting -= 1
            self._counts.failed += 1
            self._pace.failed(began, time.monotonic())
            self._refuse(error)
        else:
            self._starting -= 1
            self._counts.started += 1
            self._counts.start_seconds += time.monotonic() - began
            self._pace.succeeded(began, time.monotonic())
            self._offer(claimed)
            self._refill()

    async def _start(self) -> Claimed:
        attachment = self._server.expect()
        try:
            sandbox = await self._backend.start(self._spec, attachment.endpoint)
        except BaseException as error:
            attachment.hang_up()  # nobody will come with its token
            if isinstance(error, SandboxError) or not isinstance(error, Exception):
                raise
            if not isinstance(error, OSError):
                _log.error("backend %s failed to start a sandbox", self._backend.kind, exc_info=error)
            raise SandboxLost(f"the host could not make it: {said(error)}") from error
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
            raise attachment.failure or SandboxLost(ending.lost or "its guest did not attach")
        return Claimed(sandbox, attachment)

    def _offer(self, claimed: Claimed) -> None:
        if self._waiting and not self._closed:
            waiter = self._waiting.popleft()
            waiter.claimed = claimed
            waiter.arrived.set()
        elif self._closed or len(self._ready) >= self._target():
            self._drop(claimed)
        else:
            self._ready.append(claimed)

    def _drop(self, claimed: Claimed) -> None:
        self._counts.dropped += 1
        self._tasks.start_soon(end, claimed.sandbox, claimed.attachment)

    def _refuse(self, error: SandboxError) -> None:
        """Tell one who waits, and all of them when it is not the first failure in a row. With nobody waiting the next
        claim tries again: a broken engine is not hammered."""
        if self._pace.failures > 1:
            self._refuse_all(error)
        elif self._waiting:
            waiter = self._waiting.popleft()
            waiter.error = error
            waiter.arrived.set()
            self._refill()

    def _refuse_all(self, error: SandboxError) -> None:
        for waiter in self._waiting:
            waiter.error = error
            waiter.arrived.set()
        self._waiting.clear()


class Pools:
    """The pools of one host, by backend and spec; at most `MAX_SPECS` are kept warm, each for `idle_seconds` unused."""

    def __init__(self, server: "GatewayServer", tasks: TaskGroup, idle_seconds: float = math.inf) -> None:
        self._server = server
        self._tasks = tasks
        self._idle_seconds = idle_seconds
        self._pools: OrderedDict[tuple[str, SandboxSpec], Pool] = OrderedDict()

    def pool(self, backend: Backend, spec: SandboxSpec, size: int) -> Pool:
        """The pool of `spec`, made on first use with `size` to keep warm."""
        key = (backend.kind, spec)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(backend, spec, self._server, self._tasks, size, self._idle_seconds)
            self._cool()
        self._pools.move_to_end(key)
        return pool

    def metrics(self) -> tuple[PoolMetrics, ...]:
        """Of each pool that is kept, the most recently used last."""
        return tuple(pool.metrics() for pool in self._pools.values())

    def give_up(self, kind: str, error: SandboxError) -> None:
        """Refuse who waits for a sandbox of this backend."""
        for (backend, _), pool in self._pools.items():
            if backend == kind:
                pool.give_up(error)

    async def aclose(self) -> None:
        """End every warm sandbox. Idempotent."""
        async with anyio.create_task_group() as closing:
            while self._pools:
                closing.start_soon(self._pools.popitem()[1].aclose)

    def _cool(self) -> None:
        while len(self._pools) > MAX_SPECS:
            self._tasks.start_soon(self._pools.popitem(last=False)[1].retire)
