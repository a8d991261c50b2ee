"""Workers are lost without harm: to the host, to other guests' callers, and to the next execution."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.errors import SandboxLost
from runtimes.base import Backend
from runtimes.wasm import backend as module
from runtimes.wasm.backend import WasmBackend, Worker
from sandbox import AsyncExec, BackendUnavailable, ExecutionResult, Outcome
from tests.conftest import require
from tests.gateway.raw import eventually

pytestmark = pytest.mark.anyio

DEAF = "import threading\nlock = threading.Lock()\nlock.acquire()\ntools.begun()\nlock.acquire()"
POLLS = "import select\ntools.begun()\nselect.select([], [], [], 30)"


class Rig:
    """An Exec with one worker, and a tool by which guests say that they run."""

    def __init__(self, exec: AsyncExec) -> None:  # noqa: A002 - the project's name for it
        self.exec = exec
        self.begun = 0
        self.results: list[ExecutionResult] = []
        self.lost: list[SandboxLost] = []
        exec.tool(name="begun")(self.begun_)

    async def begun_(self) -> None:
        """Say that the guest runs."""
        self.begun += 1

    @property
    def backend(self) -> WasmBackend:
        found: Backend = self.exec._runtime._backends["wasm"]
        assert isinstance(found, WasmBackend)
        return found

    @property
    def worker(self) -> Worker:
        (worker,) = [worker for worker in self.backend._workers if not worker.dead]
        return worker

    async def run(self, code: str, **arguments: Any) -> None:
        try:
            self.results.append(await self.exec.execute_code(code, backend="wasm", **arguments))
        except SandboxLost as error:
            self.lost.append(error)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with AsyncExec(workers=1, pool_size=2) as exec:
        found = (await exec.probe())["wasm"]
        if not found.usable:
            require("wasm", found.reason)
        yield Rig(exec)


async def test_a_worker_killed_in_the_middle_is_a_lost_sandbox_and_the_next_execution_works(rig: Rig) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(rig.run, "tools.begun()\nwhile True: pass")
        await eventually(lambda: rig.begun == 3)
        os.kill(rig.worker.process.pid, signal.SIGKILL)
    assert rig.results == []
    assert len(rig.lost) == 3
    assert all(error.retryable and "worker process died" in str(error) for error in rig.lost)
    assert (await rig.exec.execute_code("1 + 1")).value == 2


async def test_warm_guests_of_a_dead_worker_are_not_handed_out(rig: Rig) -> None:
    await rig.run("1")
    first = rig.worker
    await eventually(lambda: len(first.guests) >= 2)
    os.kill(first.process.pid, signal.SIGKILL)
    with anyio.fail_after(10):
        await first.process.wait()
    await eventually(lambda: first.dead)
    for _ in range(4):
        await rig.run("2")
    assert rig.lost == []
    assert [result.value for result in rig.results] == [1, 2, 2, 2, 2]
    assert rig.worker is not first


async def test_a_guest_that_does_not_obey_takes_its_worker_with_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OBEY_SECONDS", 0.0)
    limits = {"wall_seconds": 1.0}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: rig.run("tools.begun()\nimport time\ntime.sleep(50)", limits={"wall_seconds": 60}))
        tasks.start_soon(lambda: rig.run("tools.begun()\nwhile True: pass", limits=limits))
        await eventually(lambda: rig.begun == 2)
    (stopped,) = rig.results
    assert stopped.outcome is Outcome.TIMED_OUT
    (neighbour,) = rig.lost
    assert "a neighbour did not obey" in str(neighbour)
    monkeypatch.undo()
    await rig.run("3")
    assert rig.results[-1].value == 3


@pytest.mark.parametrize("code", [DEAF, POLLS], ids=["lock", "select"])
async def test_a_guest_that_blocks_is_stopped_in_time(rig: Rig, code: str) -> None:
    with anyio.fail_after(15):
        await rig.run(code, limits={"wall_seconds": 1.0})
    assert rig.lost == []
    assert [result.outcome for result in rig.results] in ([Outcome.TIMED_OUT], [Outcome.RAISED])
    await rig.run("1 + 1")
    assert rig.results[-1].value == 2


async def test_a_worker_leaves_no_process(rig: Rig) -> None:
    await rig.run("1")
    pid = rig.worker.process.pid
    await rig.exec.aclose()
    assert not Path(f"/proc/{pid}").exists()  # noqa: ASYNC240 - procfs does not block


async def test_a_guest_that_was_not_built_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "WASM", tmp_path / "missing.wasm")
    async with AsyncExec(workers=1) as exec:
        found = (await exec.probe())["wasm"]
        assert (found.usable, found.reason, found.fix) == (False, module.NOT_BUILT, module.BUILD)
        with pytest.raises(BackendUnavailable, match="make build"):
            await exec.execute_code("1", backend="wasm")


async def test_a_worker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    digest = tmp_path / "digest"
    digest.write_text("of nothing")
    wasm = tmp_path / "guest.wasm"
    wasm.write_bytes(b"not wasm")
    monkeypatch.setattr(module, "WASM", wasm)
    monkeypatch.setattr(module, "DIGEST", digest)
    async with AsyncExec(workers=1) as exec:
        found = (await exec.probe())["wasm"]
        assert not found.usable
        assert "a WASM worker did not start" in found.reason
