"""What the kernel counts, from the files of either version, and nothing from files that are not there."""

import os
from pathlib import Path

import pytest

from runtimes import _cgroup
from runtimes._cgroup import UNIFIED, Cgroup, Counted

VERSION_1 = """9:name=systemd:/docker/abc
8:pids:/docker/abc
4:memory:/docker/abc
2:cpu,cpuacct:/docker/abc
0::/
"""
VERSION_2 = "0::/system.slice/docker-abc.scope\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_version_1(tmp_path: Path) -> None:
    memory = {
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        "memory.max_usage_in_bytes": "4096\n",
        "memory.limit_in_bytes": "8192\n",
        "memory.memsw.limit_in_bytes": "8192\n",
    }
    group = Cgroup(
        {
            "memory": write(tmp_path / "memory", memory),
            "cpuacct": write(tmp_path / "cpuacct", {"cpuacct.usage": "1500000000\n"}),
            "cpu": write(tmp_path / "cpu", {"cpu.cfs_quota_us": "100000\n", "cpu.cfs_period_us": "100000\n"}),
            "pids": write(tmp_path / "pids", {"pids.max": "max\n", "pids.events": "max 3\n"}),
        }
    )
    assert group.counted() == Counted(oom_kills=2, cpu_seconds=1.5, memory_peak_bytes=4096, pids_refused=3)
    assert group.bounds() == {
        "memory_bytes": 8192,
        "memory_and_swap_bytes": 8192,
        "cpu_quota_microseconds": 100_000,
        "cpu_period_microseconds": 100_000,
        "pids": "max",
    }


def test_version_2(tmp_path: Path) -> None:
    files = {
        "memory.events": "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n",
        "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
        "memory.peak": "4096\n",
        "memory.max": "8192\n",
        "memory.swap.max": "0\n",
        "pids.max": "30\n",
        "pids.events": "max 0\n",
        "cpu.max": "100000 100000\n",
    }
    group = Cgroup({UNIFIED: write(tmp_path / "all", files)})
    assert group.counted() == Counted(oom_kills=1, cpu_seconds=2.5, memory_peak_bytes=4096, pids_refused=0)
    assert group.bounds() == {"memory_bytes": 8192, "swap_bytes": 0, "pids": 30, "cpu": "100000 100000"}


@pytest.mark.parametrize("controller", ["memory", UNIFIED])
def test_a_group_that_is_gone_counts_nothing(tmp_path: Path, controller: str) -> None:
    group = Cgroup({controller: tmp_path / "gone"})
    assert (group.counted(), group.bounds()) == (Counted(), {})


def test_version_1_is_used_where_both_are_mounted() -> None:
    found = dict(_cgroup._folders(VERSION_1.splitlines()))
    assert found == {name: Path(f"/sys/fs/cgroup/{name}/docker/abc") for name in ("pids", "memory", "cpu", "cpuacct")}
    assert dict(_cgroup._folders(VERSION_2.splitlines())) == {
        UNIFIED: Path("/sys/fs/cgroup/system.slice/docker-abc.scope")
    }


def test_another_processs_groups_are_not_taken_for_a_containers() -> None:
    assert Cgroup.of(os.getpid(), "0123456789abcdef") is None
    assert Cgroup.of(2**22 + 1, "") is None
