"""A real daemon that restarts, crashes and runs out of disk. It is one of our own, with its data in memory, so that
nobody else's containers are in the way. Needs root and `dockerd`."""

import gc
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from gateway.errors import BackendUnavailable, SandboxLost
from runtimes._docker_options import DEFAULT_IMAGE
from runtimes.docker import DockerBackend
from sandbox import AsyncExec, Outcome
from tests.conftest import require

pytestmark = [
    pytest.mark.alone,
    pytest.mark.anyio,
    pytest.mark.timeout(120),
    # Docker's library forgets the sockets with which it reaches nobody; they close with the exception.
    pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning"),
]

DATA_BYTES = 700 << 20
"""For the guest's image and little more."""

ANSWER_SECONDS = 40.0


class PrivateDaemon:
    """A `dockerd` with a socket, a containerd and data of its own, and without any network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.url = f"unix://{folder}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Call it in the main thread: the daemon dies with the thread that started it."""
        assert threading.current_thread() is threading.main_thread()
        folders = [f"--{name}={self.folder / path}" for name, path in FOLDERS.items()]
        argv = ["setpriv", "--pdeathsig=TERM", "dockerd", f"--host={self.url}", *folders, *ALONE]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        given_up = time.monotonic() + ANSWER_SECONDS
        while self.docker("info", check=False).returncode != 0:
            if time.monotonic() > given_up or self._process.poll() is not None:
                raise RuntimeError(f"dockerd did not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None
        if number is signal.SIGKILL:
            # Its containerd died with it; where nobody waits for orphans that one still looks alive.
            for left in ("pid", "exec/containerd/containerd.pid"):
                (self.folder / left).unlink(missing_ok=True)

    def bury(self) -> None:
        """End what a daemon that crashed left running beside its containers."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if str(self.folder).encode() in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def docker(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(["docker", "--host", self.url, *arguments], capture_output=True, check=check)

    def load(self, image: str) -> None:
        """From the daemon that everybody uses."""
        saving = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)
        with saving:
            subprocess.run(["docker", "--host", self.url, "load"], stdin=saving.stdout, capture_output=True, check=True)


FOLDERS = {"data-root": "data", "exec-root": "exec", "pidfile": "pid", "config-file": "none.json"}
ALONE = ("--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--storage-driver=overlay2")


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivateDaemon]:
    if os.geteuid() != 0:
        pytest.skip("a private daemon needs root")
    if shutil.which("dockerd") is None or _has_no_image():
        require("docker", f"there is no dockerd, or no image {DEFAULT_IMAGE}")
    folder = Path(tempfile.mkdtemp(prefix="toolexec-dockerd-"))
    made = PrivateDaemon(folder)
    made.data.mkdir()
    (folder / "none.json").write_text("{}")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DATA_BYTES}", "tmpfs", made.data], check=True)
    try:
        made.start()
        made.load(DEFAULT_IMAGE)
        yield made
    finally:
        gc.collect()  # those sockets: found later, they would fail another file's test
        made.end()
        made.bury()
        subprocess.run(["umount", "--lazy", made.data], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def _has_no_image() -> bool:
    return subprocess.run(["docker", "image", "inspect", DEFAULT_IMAGE], capture_output=True).returncode != 0


@asynccontextmanager
async def guests_of(daemon: PrivateDaemon, pool_size: int = 0) -> AsyncIterator[AsyncExec]:
    options = {"docker": {"host": daemon.url}}
    backends = {"docker": DockerBackend}
    async with AsyncExec(profile="standard", backends=backends, backend_options=options, pool_size=pool_size) as host:
        assert (await host.execute_code("1")).value == 1
        yield host


async def test_a_daemon_that_is_restarted_loses_what_runs_and_the_next_is_well(daemon: PrivateDaemon) -> None:
    async with guests_of(daemon, pool_size=1) as host:
        began = anyio.Event()

        @host.tool
        async def begun() -> None:
            """Say that the guest runs."""
            began.set()

        async def end() -> None:
            await began.wait()
            daemon.end()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
            with (
                anyio.fail_after(60),
                pytest.raises(
                    SandboxLost, match=r"its daemon cannot say how|something other than its guest killed it"
                ) as lost,
            ):
                await host.execute_code("tools.begun()\nimport time\ntime.sleep(60)", limits={"wall_seconds": 70})
        assert lost.value.retryable
        for _ in range(2):  # whatever was warm went with it
            with anyio.fail_after(30), pytest.raises(BackendUnavailable, match="no daemon answers") as gone:
                await host.execute_code("1")
            assert "systemctl start docker" in gone.value.fix
            assert not gone.value.retryable
        daemon.start()
        assert [(await host.execute_code("2")).value for _ in range(2)] == [2, 2]


async def test_a_daemon_that_crashes_does_not_take_the_snippet_with_it(daemon: PrivateDaemon) -> None:
    """It is a process of its own, and speaks with us past the daemon."""
    async with guests_of(daemon) as host:

        @host.tool
        async def crash() -> None:
            """Kill the daemon."""
            daemon.end(signal.SIGKILL)

        with anyio.fail_after(60):
            result = await host.execute_code("tools.crash()\nprint('still here')\n5")
        assert (result.outcome, result.value, result.stdout) == (Outcome.COMPLETED, 5, "still here\n")
        daemon.start()
        assert (await host.execute_code("1")).value == 1


async def test_a_full_disk_is_said_with_what_to_do(daemon: PrivateDaemon) -> None:
    async with guests_of(daemon) as host:
        filler = daemon.data / "filler"
        try:
            with filler.open("wb") as file, suppress(OSError):
                file.writelines(itertools.repeat(bytes(1 << 20)))
            with anyio.fail_after(60), pytest.raises(BackendUnavailable, match="disk is full") as full:
                await host.execute_code("1")
        finally:
            filler.unlink(missing_ok=True)
        assert "docker system prune" in full.value.fix
        assert not full.value.retryable
        assert (await host.execute_code("1")).value == 1
