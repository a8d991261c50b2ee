"""Groups of our own: found where the kernel has them, made with every bound, ended with everything inside."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import SandboxLost
from runtimes import _launch
from runtimes._cgroup import UNIFIED
from runtimes._groups import Bounds, Group, Groups, find_groups, sweep
from runtimes._tree import Tree
from tests.conftest import require

RUN = f"{os.getpid()}-1-00000000"
BOUNDS = Bounds(memory_bytes=64 << 20, pids=20, cpus=0.5)


@pytest.fixture
def group() -> Iterator[Group]:
    groups = find_groups()
    if isinstance(groups, str):
        require("gvisor", groups)
    assert isinstance(groups, Groups)
    group = groups.group(RUN, "0123abcd")
    yield group
    group.stop()
    group.clear()


def launch(entrances: tuple[Path, ...], *command: str) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-I", "-S", _launch.__file__, str(os.getpid()), *map(str, entrances), "--", *command]
    return subprocess.Popen(argv)


def until(true: object, seconds: float = 10) -> None:
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_bounds_are_the_kernels_when_it_is_made(group: Group) -> None:
    group.make(BOUNDS)
    bounds = group.bounds()
    assert (bounds["memory_bytes"], bounds["pids"]) == (64 << 20, 20)
    assert bounds.get("cpu", bounds.get("cpu_quota_microseconds")) in {50_000, "50000 100000"}


def test_one_that_is_there_is_not_taken_over(group: Group) -> None:
    group.make(BOUNDS)
    with pytest.raises(SandboxLost, match="control group could not be made"):
        group.make(BOUNDS)


def test_who_is_launched_is_inside_with_everything_it_starts(group: Group) -> None:
    group.make(BOUNDS)
    process = launch(group.entrances, "/bin/sh", "-c", "sleep 60 & setsid sleep 60 & wait")
    until(lambda: len(group.pids()) == 3)
    assert process.pid in group.pids()
    assert group.stop()
    assert process.wait(5) == -9
    group.clear()
    assert group.pids() == set()
    assert not any(entrance.exists() for entrance in group.entrances)
    assert (group.counted().cpu_seconds or 0) > 0


def test_processes_are_bounded_and_their_want_is_seen(group: Group) -> None:
    group.make(BOUNDS)
    assert not group.pids_were_short()
    loop = "import os, time\nfor _ in range(40):\n    if os.fork() == 0: time.sleep(60)"
    process = launch(group.entrances, sys.executable, "-I", "-S", "-c", loop)
    assert process.wait(20) == 1
    assert group.pids_were_short()
    assert len(group.pids()) <= 20


def test_memory_is_bounded_and_its_want_is_seen(group: Group) -> None:
    group.make(BOUNDS)
    process = launch(group.entrances, sys.executable, "-I", "-S", "-c", "x = bytearray(b'x') * (200 << 20)")
    assert process.wait(20) == -9
    assert group.counted().oom_kills == 1


def test_a_launched_program_dies_with_its_host(tmp_path: Path) -> None:
    host = (
        "import os, subprocess, sys, time\n"
        "argv = [sys.executable, '-I', '-S', sys.argv[1], str(os.getpid()), '--', '/bin/sleep', '60']\n"
        "child = subprocess.Popen(argv)\n"
        "print(child.pid, flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", host, _launch.__file__], stdout=subprocess.PIPE)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not Tree(pid).pids())


def test_nobody_is_launched_for_a_host_that_is_gone() -> None:
    argv = [sys.executable, "-I", "-S", _launch.__file__, "1", "--", "/bin/echo", "launched"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "the host is gone\n")


def test_version_1_is_below_our_own_group_and_else_at_the_root(tmp_path: Path) -> None:
    for name in ("cpu", "memory", "pids"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").touch()
    (tmp_path / "memory/service").mkdir()
    own = tmp_path / "own"
    own.write_text("9:name=systemd:/\n4:memory:/service\n2:cpu,cpuacct:/unseen\n0::/\n")
    found = find_groups(tmp_path, own)
    assert isinstance(found, Groups)
    assert found.parents == {
        "cpu": tmp_path / "cpu",
        "memory": tmp_path / "memory/service",
        "pids": tmp_path / "pids",
    }


def test_version_2_is_beside_our_own_group_with_the_controllers_passed_on(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "user/session").mkdir(parents=True)
    (tmp_path / "user/cgroup.subtree_control").write_text("memory")
    own = tmp_path / "own"
    own.write_text("0::/user/session\n")
    found = find_groups(tmp_path, own)
    assert found == Groups({UNIFIED: tmp_path / "user"})
    assert (tmp_path / "user/cgroup.subtree_control").read_text() == "+cpu +pids"


def test_version_2_falls_back_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids io")
    (tmp_path / "user/session").mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/user/session\n")
    assert find_groups(tmp_path, own) == Groups({UNIFIED: tmp_path})


def test_version_2_sets_every_bound(tmp_path: Path) -> None:
    """As files: this says what is written where; the tests above say that the kernel takes it, where it has them."""
    group = Group({UNIFIED: tmp_path / "g"})
    group.make(BOUNDS)
    written = {path.name: path.read_text() for path in (tmp_path / "g").iterdir()}
    assert written == {
        "pids.max": "20",
        "memory.max": str(64 << 20),
        "memory.oom.group": "1",
        "cpu.max": "50000 100000",
    }


def test_where_there_are_none_the_reason_is_said(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/\n")
    assert "are not mounted" in str(find_groups(tmp_path, own))


def test_only_empty_groups_of_dead_hosts_are_swept(tmp_path: Path) -> None:
    dead, unlike = "toolexec-4194999-5-0123abcd-0123abcd", "toolexec-server.service"
    alive = f"toolexec-{os.getpid()}-{_started()}-0123abcd-0123abcd"
    for name in (dead, unlike, alive, f"deep/{dead}"):
        (tmp_path / name).mkdir(parents=True)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["deep", unlike, alive])
    assert list((tmp_path / "deep").iterdir()) == []


def _started() -> str:
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]


def test_a_tree_is_found_measured_and_ended() -> None:
    # No shell stays, which might still have time to say how its child ended.
    process = launch((), "/bin/sh", "-c", "sleep 60 & sleep 60 & exec sleep 60")
    tree = Tree(process.pid)
    until(lambda: len(tree.pids()) == 3)
    assert (tree.counted().memory_peak_bytes or 0) > 0
    assert tree.stop()
    assert process.wait(5) == -9
    assert tree.pids() == set()
