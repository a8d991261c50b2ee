"""Warm sandboxes: claimed once, never twice, replaced when dead, and ended when nobody wants them."""

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import anyio
import pytest
from anyio.abc import TaskGroup

from gateway.endpoint import Endpoint
from gateway.errors import BackendUnavailable, Busy, Closed, SandboxError, SandboxLost
from gateway.server import GatewayServer
from runtimes import _pace
from runtimes import pool as module
from runtimes._pace import MAX_STARTING
from runtimes.base import BackendContext, SandboxSpec
from runtimes.mock import MockBackend, MockSandbox
from runtimes.pool import Claimed, Pool, Pools
from runtimes.supervisor import end
from tests.gateway.raw import eventually

pytestmark = pytest.mark.anyio

SPEC = SandboxSpec()


class Backend(MockBackend):
    """Counts what it starts and what is still alive, and fails when told to."""

    kind: ClassVar[str] = "counted"

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self.started: list[MockSandbox] = []
        self.tried = 0
        self.error: Exception | None = None
        self.gate: anyio.Event | None = None
        self.mute = False

    @property
    def alive(self) -> int:
        return sum(not sandbox._ended.is_set() for sandbox in self.started)

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> MockSandbox:
        self.tried += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        if self.mute:
            sandbox = MockSandbox(self.script)
            sandbox._ended.set()
        else:
            sandbox = await super().start(spec, endpoint)
        self.started.append(sandbox)
        return sandbox


class Rig:
    def __init__(self, server: GatewayServer, tasks: TaskGroup, folder: Path) -> None:
        self.server, self.tasks = server, tasks
        self.backend = Backend(BackendContext(folder, tasks, 1, server.attachment))
        self.errors: list[SandboxError] = []
        self.claims: list[Claimed] = []

    def pool(self, size: int, idle_seconds: float = math.inf) -> Pool:
        return Pool(self.backend, SPEC, self.server, self.tasks, size, idle_seconds)

    async def claim(self, pool: Pool) -> None:
        try:
            self.claims.append(await pool.claim())
        except SandboxError as error:
            self.errors.append(error)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """In the end no sandbox may be alive, and no token valid, but those of the claims the test still has."""
    async with GatewayServer(tmp_path) as server, anyio.create_task_group() as tasks:
        rig = Rig(server, tasks, tmp_path)
        yield rig
        for claimed in rig.claims:
            await end(claimed.sandbox, claimed.attachment)
        await eventually(lambda: rig.backend.alive == 0)
        await eventually(lambda: len(server._attachments) == 0)
        tasks.cancel_scope.cancel()


async def test_a_claim_takes_a_warm_sandbox_and_another_is_made(rig: Rig) -> None:
    pool = rig.pool(2)
    pool.warm()
    await eventually(lambda: pool.ready == 2)
    claimed = await pool.claim()
    assert claimed.sandbox is rig.backend.started[0]
    assert claimed.attachment.hello is not None
    await eventually(lambda: pool.ready == 2)
    assert len(rig.backend.started) == 3
    rig.claims.append(claimed)
    await pool.aclose()


async def test_no_sandbox_is_claimed_twice_under_load(rig: Rig) -> None:
    pool = rig.pool(3)
    async with anyio.create_task_group() as claims:
        for _ in range(100):
            claims.start_soon(rig.claim, pool)
    assert rig.errors == []
    assert len({id(claimed.sandbox) for claimed in rig.claims}) == 100
    await eventually(lambda: pool.ready == 3)
    assert rig.backend.alive == 103
    await pool.aclose()


async def test_never_more_are_started_at_once_than_the_bound(rig: Rig) -> None:
    rig.backend.gate = anyio.Event()
    pool = rig.pool(50)
    pool.warm()
    pool.warm()
    await anyio.sleep(0.05)
    assert rig.backend.tried == MAX_STARTING
    rig.backend.gate.set()
    await eventually(lambda: pool.ready == 50)
    await pool.aclose()


async def test_nothing_is_kept_where_nothing_shall_be(rig: Rig) -> None:
    pool = rig.pool(0)
    pool.warm()
    await anyio.sleep(0.02)
    assert rig.backend.tried == 0
    rig.claims.append(await pool.claim())
    await anyio.sleep(0.02)
    assert (rig.backend.tried, pool.ready) == (1, 0)


@pytest.mark.parametrize("size", [0, 1])
async def test_a_cancelled_claim_gives_its_sandbox_back(rig: Rig, size: int) -> None:
    rig.backend.gate = anyio.Event()
    pool = rig.pool(size)
    async with anyio.create_task_group() as claims:
        claims.start_soon(rig.claim, pool)
        await anyio.sleep(0.02)
        claims.cancel_scope.cancel()
    rig.backend.gate.set()
    await anyio.sleep(0.05)
    assert rig.claims == []
    assert pool.ready == size
    assert rig.backend.alive == size
    await pool.aclose()


async def test_a_claim_cancelled_while_its_sandbox_arrives_gives_it_back(rig: Rig) -> None:
    pool = rig.pool(1)
    scope = anyio.CancelScope()
    original = pool._offer

    def offer(claimed: Claimed) -> None:
        scope.cancel()
        original(claimed)  # in the same turn of the loop, before the claimer wakes

    pool._offer = offer  # type: ignore[method-assign]  # to hit one moment
    with scope:
        rig.claims.append(await pool.claim())
    pool._offer = original  # type: ignore[method-assign]  # back again
    assert rig.claims == []
    await eventually(lambda: pool.ready == 1)
    await eventually(lambda: rig.backend.alive == 1)
    await pool.aclose()


async def test_a_sandbox_that_died_while_warm_is_skipped(rig: Rig) -> None:
    pool = rig.pool(2)
    pool.warm()
    await eventually(lambda: pool.ready == 2)
    dead = rig.backend.started[0]
    await dead.kill()
    claimed = await pool.claim()
    assert claimed.sandbox is not dead
    assert not claimed.attachment.ended
    rig.claims.append(claimed)
    await pool.aclose()


async def test_when_all_warm_ones_died_a_new_one_is_made(rig: Rig) -> None:
    pool = rig.pool(2)
    pool.warm()
    await eventually(lambda: pool.ready == 2)
    for sandbox in list(rig.backend.started):
        await sandbox.kill()
    rig.claims.append(await pool.claim())
    assert not rig.claims[0].attachment.ended
    await pool.aclose()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BackendUnavailable("counted", "on fire", "Put it out"), BackendUnavailable),
        (SandboxLost("gone"), SandboxLost),
        (OSError("no space left on device"), SandboxLost),
    ],
)
async def test_a_broken_engine_tells_every_claimer_and_is_not_hammered(
    rig: Rig, error: Exception, expected: type[SandboxError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pace, "MAX_PAUSE_SECONDS", 0.3)
    rig.backend.error = error
    pool = rig.pool(4)
    async with anyio.create_task_group() as claims:
        for _ in range(5):
            claims.start_soon(rig.claim, pool)
    assert [type(told) for told in rig.errors] == [expected] * 5
    await anyio.sleep(0.05)
    tried = rig.backend.tried
    assert tried <= 5 + 2 * MAX_STARTING
    await anyio.sleep(0.1)
    assert rig.backend.tried == tried
    rig.backend.error = None
    rig.claims.append(await pool.claim())
    await pool.aclose()


async def test_a_guest_that_never_attaches_is_given_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTACH_SECONDS", 0.05)
    rig.backend.mute = True
    pool = rig.pool(0)
    with pytest.raises(SandboxLost, match="its guest did not attach"):
        await pool.claim()


async def test_whoever_waits_too_long_is_told_to_come_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLAIM_SECONDS", 0.05)
    rig.backend.gate = anyio.Event()
    pool = rig.pool(0)
    with pytest.raises(Busy, match=r"no counted sandbox became free within 0\.05 s") as caught:
        await pool.claim()
    assert caught.value.retryable
    rig.backend.gate.set()
    await pool.aclose()


async def test_close_turns_waiters_away_and_ends_what_arrives_late(rig: Rig) -> None:
    rig.backend.gate = anyio.Event()
    pool = rig.pool(2)
    async with anyio.create_task_group() as claims:
        for _ in range(3):
            claims.start_soon(rig.claim, pool)
        await anyio.sleep(0.02)
        await pool.aclose()
        await pool.aclose()
    assert [type(error) for error in rig.errors] == [Closed] * 3
    with pytest.raises(Closed):
        await pool.claim()
    rig.backend.gate.set()
    await eventually(lambda: len(rig.backend.started) > 0)


async def test_specs_are_kept_apart_and_the_least_used_cools_down(rig: Rig) -> None:
    pools = Pools(rig.server, rig.tasks)
    specs = [SandboxSpec(memory_bytes=n + 1) for n in range(module.MAX_SPECS + 1)]
    first = pools.pool(rig.backend, specs[0], 1)
    assert pools.pool(rig.backend, SandboxSpec(memory_bytes=1), 1) is first
    first.warm()
    await eventually(lambda: first.ready == 1)
    second = pools.pool(rig.backend, specs[1], 1)
    pools.pool(rig.backend, specs[0], 1)
    for spec in specs[2:]:
        pools.pool(rig.backend, spec, 1)
    assert pools.pool(rig.backend, specs[0], 1) is first
    assert first.ready == 1
    assert pools.pool(rig.backend, specs[1], 1) is not second
    await pools.aclose()
    await pools.aclose()


async def test_a_pool_that_cooled_down_keeps_nothing_that_arrives_late(rig: Rig) -> None:
    rig.backend.gate = anyio.Event()
    pools = Pools(rig.server, rig.tasks)
    old = pools.pool(rig.backend, SPEC, 2)
    old.warm()
    rig.tasks.start_soon(rig.claim, old)
    await anyio.sleep(0.02)
    for n in range(module.MAX_SPECS):
        pools.pool(rig.backend, SandboxSpec(memory_bytes=n + 1), 1)
    await anyio.sleep(0.02)
    rig.backend.gate.set()
    await eventually(lambda: len(rig.claims) == 1)  # who waits is still served
    await eventually(lambda: rig.backend.alive == 1)
    assert old.ready == 0
    await pools.aclose()


async def test_what_nobody_wants_for_long_is_let_go_until_somebody_does(rig: Rig) -> None:
    pool = rig.pool(2, idle_seconds=0.2)
    pool.warm()
    await eventually(lambda: pool.ready == 2)
    await eventually(lambda: pool.ready == 0)
    await eventually(lambda: rig.backend.alive == 0)
    assert pool.metrics().dropped == 2
    rig.claims.append(await pool.claim())
    await eventually(lambda: pool.ready == 2)
    await eventually(lambda: pool.ready == 0)
    await pool.aclose()


async def test_a_pool_in_use_keeps_its_sandboxes(rig: Rig) -> None:
    pool = rig.pool(1, idle_seconds=0.3)
    for _ in range(8):
        rig.claims.append(await pool.claim())
        await anyio.sleep(0.05)
    assert pool.metrics().dropped == 0
    await pool.aclose()


async def test_what_arrives_when_nobody_wants_it_any_more_is_not_kept(rig: Rig) -> None:
    rig.backend.gate = anyio.Event()
    pool = rig.pool(1, idle_seconds=0.05)
    pool.warm()
    await anyio.sleep(0.1)
    rig.backend.gate.set()
    await eventually(lambda: len(rig.backend.started) == 1)
    await eventually(lambda: rig.backend.alive == 0)
    assert pool.ready == 0
    await pool.aclose()


async def test_metrics_count_claims_hits_and_starts(rig: Rig) -> None:
    pools = Pools(rig.server, rig.tasks)
    assert pools.metrics() == ()
    pool = pools.pool(rig.backend, SPEC, 2)
    (fresh,) = pools.metrics()
    assert (fresh.backend, fresh.spec, fresh.size) == ("counted", SPEC, 2)
    assert (fresh.hit_rate, fresh.refill_seconds) == (None, None)
    rig.claims.append(await pool.claim())
    await eventually(lambda: pool.ready == 2)
    for _ in range(3):
        rig.claims.append(await pool.claim())
        await eventually(lambda: pool.ready == 2)
    (metrics,) = pools.metrics()
    assert (metrics.claims, metrics.hits, metrics.hit_rate) == (4, 3, 0.75)
    assert (metrics.started, metrics.failed, metrics.dropped) == (6, 0, 0)
    assert (metrics.ready, metrics.starting, metrics.waiting) == (2, 0, 0)
    assert metrics.refill_seconds is not None
    assert 0 < metrics.refill_seconds < 5
    await pools.aclose()


async def test_an_engine_that_keeps_failing_is_asked_less_and_less_often(rig: Rig) -> None:
    rig.backend.error = SandboxLost("gone")
    pool = rig.pool(4)
    with anyio.move_on_after(1.0):
        while True:
            await rig.claim(pool)
    assert 2 <= rig.backend.tried < 20
    assert pool.metrics().failed == rig.backend.tried
    assert {type(error) for error in rig.errors} == {SandboxLost}
    rig.backend.error = None
    rig.claims.append(await pool.claim())
    await pool.aclose()
