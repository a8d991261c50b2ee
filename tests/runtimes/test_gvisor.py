"""gVisor itself: what its probe finds, what its evidence says, how its sandboxes end when something else ends them."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.errors import InvalidRequest, SandboxLost
from runtimes._runsc import PLATFORMS
from runtimes.base import BackendContext, Capabilities
from runtimes.gvisor import GvisorBackend
from sandbox import AsyncExec, Outcome
from tests.conftest import require


@asynccontextmanager
async def backend(folder: Path, **options: Any) -> AsyncIterator[GvisorBackend]:
    """One in a run's folder of its own."""
    own = folder / f"{os.getpid()}-1-0123abcd" / "gvisor"
    own.mkdir(parents=True)
    async with anyio.create_task_group() as tasks:
        made = GvisorBackend(BackendContext(own, tasks, 1, options=options))
        yield made
        await made.aclose()
        tasks.cancel_scope.cancel()


async def probed(folder: Path, **options: Any) -> Capabilities:
    async with backend(folder, **options) as made:
        return await made.probe()


async def needed(folder: Path) -> Capabilities:
    found = _needed.get("found") or await probed(folder)
    if not found.usable:
        require("gvisor", found.reason)
    return _needed.setdefault("found", found)


_needed: dict[str, Capabilities] = {}
"""What was found first: a probe starts guests, and takes a second or two."""


@asynccontextmanager
async def gvisor(tmp_path: Path, **settings: Any) -> AsyncIterator[AsyncExec]:
    await needed(tmp_path)
    async with AsyncExec(backends={"gvisor": GvisorBackend}, profile="hardened", pool_size=0, **settings) as exec:
        yield exec


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image": "x"}, "unknown option 'image' of backend gvisor; there are runsc, root, platform"),
        ({"platform": "xen"}, "must be one of systrap, kvm, ptrace"),
        ({"root": 5}, "option root of backend gvisor must be text, not 5"),
        ({"runsc": ""}, "option runsc"),
    ],
)
async def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    async with anyio.create_task_group() as tasks:
        with pytest.raises(InvalidRequest, match=says):
            GvisorBackend(BackendContext(tmp_path, tasks, 1, options=options))


@pytest.mark.parametrize(
    ("options", "reason", "fix"),
    [
        ({"runsc": "/nowhere/runsc"}, "there is no `/nowhere/runsc`", "apt-get install runsc"),
        ({"runsc": "/bin/false"}, "`/bin/false --version` failed", "apt-get install runsc"),
        ({"root": "/nowhere"}, "/nowhere is no guest image", "toolexec image build"),
    ],
)
async def test_what_is_missing_is_said_with_its_fix(
    tmp_path: Path, options: dict[str, Any], reason: str, fix: str
) -> None:
    if "runsc" not in options:
        await needed(tmp_path / "first")
    found = await probed(tmp_path, **options)
    assert not found.usable
    assert reason in found.reason
    assert fix in found.fix


async def test_the_probe_finds_what_works_here_and_leaves_nothing(tmp_path: Path) -> None:
    await needed(tmp_path / "first")
    found = await probed(tmp_path / "second")
    assert found.boundaries == 2
    assert "python" in found.languages
    assert {"memory_bytes", "cpu_seconds", "disk_bytes"} <= found.enforces
    assert found.details["platform"] in PLATFORMS
    assert found.details["kernel"] != f"Linux {os.uname().release}"
    assert _names(tmp_path / "second", "*/gvisor/*") == ["root"]
    assert _processes(str(tmp_path)) == []


async def test_a_program_that_only_looks_like_runsc_is_not_used(tmp_path: Path) -> None:
    fake = tmp_path / "runsc"
    fake.write_text("#!/bin/sh\necho '  -platform string'\nprintf '\\tptrace\\n'\n")
    fake.chmod(0o755)
    found = await probed(tmp_path / "run", runsc=str(fake))
    assert not found.usable
    assert "platform ptrace does not work" in found.reason


async def test_evidence_is_read_back(tmp_path: Path) -> None:
    async with gvisor(tmp_path) as exec:
        result = await exec.execute_code("1", limits={"memory_bytes": 100 << 20})
        enforces = (await exec.probe())["gvisor"].enforces
    evidence = result.evidence
    assert (evidence["isolation"], evidence["network"], evidence["root"]) == ("gvisor", "none", "host")
    assert evidence["confinement"]["seccomp"] == "filter"
    assert evidence["confinement"]["no_new_privileges"] is True
    assert {"net", "mnt"} <= {*evidence["confinement"]["namespaces"]}
    assert int(evidence["guest"]["CapEff"], 16) == 0
    if "pids" in enforces:
        assert 100 << 20 < evidence["cgroup"]["memory_bytes"] < 400 << 20
    assert result.usage.memory_peak_bytes


async def test_each_sandbox_has_a_user_of_its_own(tmp_path: Path) -> None:
    async with gvisor(tmp_path) as exec:
        users = {(await exec.execute_code("import os\nos.getuid()")).value for _ in range(3)}
    assert len(users) == 3
    assert min(users) > 1 << 30


@pytest.mark.parametrize("program", ["runsc-sandbox", "runsc-gofer", "runsc"])
async def test_an_engine_that_is_killed_is_no_good_ending(tmp_path: Path, runs: Path, program: str) -> None:
    """Releases that let a guest kill its own init do not tell that from their own death."""
    async with gvisor(tmp_path) as exec, anyio.create_task_group() as tasks:
        await exec.probe()

        async def kill() -> None:
            await anyio.sleep(3)  # as good as any moment: while it starts, or while its snippet sleeps
            for pid in _processes(f"{runs}/", program):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        tasks.start_soon(kill)
        with anyio.fail_after(30), suppress(SandboxLost):
            result = await exec.execute_code("import time\ntime.sleep(20)")
            assert (result.outcome, result.value) == (Outcome.KILLED, None)


async def test_a_root_that_guests_may_not_enter_is_refused(tmp_path: Path) -> None:
    await needed(tmp_path / "first")
    _make_root(tmp_path)
    found = await probed(tmp_path / "run", root=str(tmp_path))
    assert (found.usable, found.fix) == (False, f"chmod 755 {tmp_path}")


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path, runs: Path) -> None:
    async with gvisor(tmp_path) as exec:
        await exec.probe()
        for seconds in (0.005, 0.05, 0.3):
            with anyio.move_on_after(seconds):
                await exec.execute_code("import time\ntime.sleep(20)")
    assert _processes(f"{runs}/") == []


def _make_root(folder: Path) -> None:
    for name in ("opt/toolexec/start.py", "usr/bin/python3"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    folder.chmod(0o700)


def _names(folder: Path, pattern: str) -> list[str]:
    return [path.name for path in folder.glob(pattern)]


def _processes(said: str, program: str = "runsc") -> list[int]:
    """Processes of `program` that have `said` among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            first, _, rest = path.read_bytes().partition(b"\0")
            name = Path(os.fsdecode(first)).name
            if said in os.fsdecode(rest) and (name == program or (program == "runsc" and name.startswith("runsc"))):
                found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with this Python and its libraries, as an unpacked guest image has them."""
    root = tmp_path_factory.mktemp("image")
    root.chmod(0o755)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    skip = shutil.ignore_patterns("site-packages", "dist-packages", "test", "__pycache__", "idlelib", "tkinter")
    shutil.copytree(sysconfig.get_path("stdlib"), root / "usr/lib" / version, ignore=skip, symlinks=True)
    site = root / "opt/toolexec"
    for package in ("gateway", "runtimes"):
        spec_folder = Path(sys.modules[package].__file__ or "").parent
        shutil.copytree(spec_folder, site / package, ignore=shutil.ignore_patterns("wasm", "__pycache__"))
    shutil.copy(site / "runtimes/image/start.py", site / "start.py")
    for name in ("grpc", "google", "typing_extensions.py"):
        source = Path(sysconfig.get_path("purelib"), name)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, site / name)
    (root / "usr/bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), root / "usr/bin/python3")
    modules = [*root.glob("usr/lib/*/lib-dynload/*.so"), *site.glob("grpc/**/*.so")]
    for program in (Path(sys.executable).resolve(), *modules):
        _copy_libraries(program, root)
    return root


def _copy_libraries(program: Path, root: Path) -> None:
    for line in subprocess.run(["ldd", program], capture_output=True, text=True).stdout.splitlines():
        path = next((word for word in line.split() if word.startswith("/")), None)
        if path is not None and not (root / path.lstrip("/")).exists():
            (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / path.lstrip("/"))


async def test_an_unpacked_image_can_be_the_root(tmp_path: Path, image: Path) -> None:
    found = await needed(tmp_path / "first")
    found = await probed(tmp_path, root=str(image))
    assert (found.usable, found.reason) == (True, "")
    assert found.details["root"] == str(image)
    assert found.languages == {"python"}  # the others are not in it, though they may be on the host
