"""What goes wrong in a backend's background ends the sandbox or the backend that it belongs to, and nothing else."""

import logging
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from gateway.endpoint import Endpoint
from gateway.errors import BackendUnavailable, SandboxLost
from runtimes._docker_sandbox import DockerSandbox
from runtimes.base import Backend, Capabilities, SandboxSpec
from runtimes.gvisor import GvisorSandbox
from runtimes.mock import MockBackend, MockGuest, MockSandbox
from runtimes.unsafe import UnsafeSandbox
from runtimes.wasm import backend as wasm
from sandbox import AsyncExec, Outcome

pytestmark = pytest.mark.anyio


async def script(guest: MockGuest) -> str:
    """Waits as long as its code says."""
    await anyio.sleep(float(guest.code))
    return "done"


class Watched(MockBackend):
    """The watcher of the first sandbox fails after a while."""

    script = staticmethod(script)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.started = 0

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> MockSandbox:
        sandbox = await super().start(spec, endpoint)
        self.started += 1
        if self.started == 1:
            self._context.tasks_of(endpoint).start_soon(self.watch)
        return sandbox

    async def watch(self) -> None:
        await anyio.sleep(0.1)
        raise KeyError("cpu.stat")


def exec_of(kind: str = "mock", pool_size: int = 0, **backends: type[Backend]) -> AsyncExec:
    return AsyncExec(profile="dev", pool_size=pool_size, backends=backends or {kind: Watched})


async def test_a_sandbox_whose_watcher_fails_is_lost_and_its_neighbour_is_not(caplog: pytest.LogCaptureFixture) -> None:
    seen: dict[str, Any] = {}

    async with exec_of() as host:

        async def run(code: str) -> None:
            try:
                seen[code] = (await host.execute_code(code)).value
            except SandboxLost as error:
                seen[code] = error

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, "20")
                await anyio.sleep(0.05)
                tasks.start_soon(run, "0.5")
        assert seen["0.5"] == "done"
        assert (await host.execute_code("0")).value == "done"
    assert "KeyError: 'cpu.stat'" in str(seen["20"])
    assert isinstance(seen["20"].__cause__, KeyError)
    assert seen["20"].retryable
    assert "cpu.stat" in caplog.text


async def test_a_warm_sandbox_that_was_lost_is_not_handed_out() -> None:
    async with exec_of(pool_size=2) as exec:
        await exec.execute_code("0")
        await anyio.sleep(0.3)
        assert [(await exec.execute_code("0")).value for _ in range(2)] == ["done", "done"]


class Failing(MockBackend):
    """What the whole backend does in the background fails as soon as it is used."""

    kind = "failing"

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> MockSandbox:
        self._context.tasks.start_soon(self.fail)
        await anyio.sleep_forever()
        raise AssertionError

    async def fail(self) -> None:
        raise ValueError("no more")


async def test_a_backend_whose_own_task_fails_is_used_no_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    async with exec_of(failing=Failing, mock=Watched) as exec:
        for _ in range(2):  # who waits for it, and who comes later
            with anyio.fail_after(5), pytest.raises(BackendUnavailable, match="ValueError: no more") as caught:
                await exec.execute_code("1", backend="failing")
        assert caught.value.fix == "Make another Exec"
        found = await exec.probe()
        assert (found["failing"].usable, found["failing"].reason) == (False, caught.value.reason)
        await exec.execute_code("0", backend="mock")
    assert "backend failing" in caplog.text
    async with exec_of(failing=Failing) as another:
        assert (await another.probe())["failing"].usable


class Clumsy(MockBackend):
    """Its first start raises what a backend should not."""

    clumsy = True

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> MockSandbox:
        if self.clumsy:
            self.clumsy = False
            raise LookupError("State")
        return await super().start(spec, endpoint)


@pytest.mark.parametrize("pool_size", [0, 1])
async def test_a_start_that_fails_unexpectedly_is_a_lost_sandbox(pool_size: int) -> None:
    async with exec_of("mock", pool_size, mock=Clumsy) as exec:
        with pytest.raises(SandboxLost, match="LookupError: State") as caught:
            await exec.execute_code("1")
        assert isinstance(caught.value.__cause__, LookupError)
        assert (await exec.execute_code("1")).value == "1"


class Immortal(MockBackend):
    """Its sandboxes cannot be ended: they raise."""

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> MockSandbox:
        sandbox = await super().start(spec, endpoint)
        end = sandbox.kill

        async def kill() -> Any:
            await end()
            raise LookupError("State")

        sandbox.kill = kill  # type: ignore[method-assign]  # that is the test
        return sandbox


async def test_a_sandbox_that_cannot_be_ended_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async with exec_of("mock", 1, mock=Immortal) as exec:
        for _ in range(3):
            assert (await exec.execute_code("1")).value == "1"
    assert "LookupError: State" in caplog.text


BROKEN: Mapping[str, tuple[object, str, str]] = {
    "unsafe": (UnsafeSandbox, "_output", "print('x')\nimport time; time.sleep(20)"),
    "docker": (DockerSandbox, "_watch_cpu", "import time; time.sleep(20)"),
    "gvisor": (GvisorSandbox, "watch", "import time; time.sleep(20)"),
    "wasm": (wasm, "Usage", "import os; os.abort()"),
}
"""Of each backend what its background calls, and a snippet that has it called."""


async def test_a_real_backend_loses_a_sandbox_and_goes_on(
    backend: str, capabilities: Mapping[str, Capabilities], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, method, code = BROKEN[backend]
    limits = {"cpu_seconds": 5.0, "wall_seconds": 25}
    async with AsyncExec(profile="dev", allow_unsafe=True, pool_size=0) as exec:
        assert (await exec.execute_code("1", backend=backend, limits=limits)).outcome is Outcome.COMPLETED

        def fail(*args: Any, **_: Any) -> Any:
            raise LookupError("no such file")

        with monkeypatch.context() as broken:
            broken.setattr(owner, method, fail)
            with anyio.fail_after(15), pytest.raises(SandboxLost, match="LookupError: no such file") as caught:
                await exec.execute_code(code, backend=backend, limits=limits)
            assert caught.value.retryable
        assert (await exec.execute_code("2", backend=backend, limits=limits)).value == 2
