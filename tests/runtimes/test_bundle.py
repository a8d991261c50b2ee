"""What `runsc` is told, and what of this host it is shown."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BackendUnavailable
from runtimes._bundle import RootFs, _outermost, host_root, image_root, oci_config
from runtimes._container import Bind, container_for
from runtimes.base import SandboxSpec

SPEC = SandboxSpec(memory_bytes=100 << 20, disk_bytes=8 << 20, pids=20)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def make(root: RootFs | None = None) -> dict[str, Any]:
        container = container_for(SPEC, argv=("python", "-m", "init"), uid=70_000, gid=70_001, socket_folder=tmp_path)
        return oci_config(container, root or RootFs(tmp_path, "python", ()))

    return make


def mounts(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["destination"]: mount for mount in config["mounts"]}


def test_nothing_privileged_is_asked_for(config: Callable[..., dict[str, Any]]) -> None:
    process = config()["process"]
    assert process["user"] == {"uid": 70_000, "gid": 70_001}
    assert process["noNewPrivileges"] is True
    assert set(process["capabilities"]) == {"bounding", "effective", "inheritable", "permitted", "ambient"}
    assert not any(process["capabilities"].values())
    assert "terminal" not in process


def test_the_root_is_read_only_and_the_network_its_own(config: Callable[..., dict[str, Any]]) -> None:
    made = config()
    assert made["root"]["readonly"] is True
    assert {"type": "network"} in made["linux"]["namespaces"]
    assert not [namespace for namespace in made["linux"]["namespaces"] if "path" in namespace]


def test_processes_and_threads_are_bounded_inside_too(config: Callable[..., dict[str, Any]]) -> None:
    limits = {limit["type"]: (limit["soft"], limit["hard"]) for limit in config()["process"]["rlimits"]}
    soft, hard = limits["RLIMIT_NPROC"]
    assert 20 < soft == hard < 100
    assert limits["RLIMIT_CORE"] == (0, 0)


def test_only_the_guests_own_folders_are_writable(config: Callable[..., dict[str, Any]]) -> None:
    found = mounts(config(RootFs(Path("/root"), "python", (), binds=(Bind(Path("/usr"), "/usr"),))))
    writable = {target for target, mount in found.items() if "ro" not in mount.get("options", ())} - {"/proc"}
    assert writable == {"/guest", "/dev/shm"}
    assert "size=8388608" in found["/guest"]["options"]
    assert all("nosuid" in mount["options"] for mount in found.values() if mount["type"] == "bind")


def test_a_folder_for_everybody_is_not_left_to_be_invented(config: Callable[..., dict[str, Any]]) -> None:
    assert "ro" in mounts(config())["/tmp"]["options"]
    below = RootFs(Path("/root"), "python", (), binds=(Bind(Path("/tmp/site"), "/tmp/site"),))
    assert "/tmp" not in mounts(config(below))


def test_the_hosts_python_is_seen_without_what_is_beside_it(tmp_path: Path) -> None:
    root = host_root(tmp_path)
    targets = [bind.target for bind in root.binds]
    assert "/usr" in targets
    assert not {"/", "/etc", "/home", "/root", "/var", "/tmp", sys.prefix} & {*targets}
    assert sorted(path.name for path in (tmp_path / "etc").iterdir()) == sorted(
        name for name in ("alternatives", "ld.so.cache") if Path("/etc", name).exists()
    )
    assert (tmp_path / sys.executable.lstrip("/")).is_symlink() or sys.prefix == sys.base_prefix


def test_folders_on_the_way_show_nothing(tmp_path: Path) -> None:
    root = host_root(tmp_path)
    import runtimes  # noqa: PLC0415 - where it is decides what is listed

    listed = {Path(path).parent.parent for path in [runtimes.__file__]}
    for bind in root.binds:
        for parent in [*Path(bind.target).parents][:-1]:
            mode = (tmp_path / str(parent).lstrip("/")).stat().st_mode & 0o777
            assert mode == 0o711 or parent in listed, parent


def test_a_folder_that_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="toolexec image build"):
        image_root(tmp_path)
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3").touch()
    with pytest.raises(BackendUnavailable, match=r"no guest image with Python and /opt/toolexec/start\.py"):
        image_root(tmp_path)


def test_an_image_is_known_by_its_agent(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    tmp_path.chmod(0o755)
    (tmp_path / "usr/bin/python3").symlink_to("/usr/bin/python3.99")  # leads nowhere on this host
    (tmp_path / "opt/toolexec").mkdir(parents=True)
    (tmp_path / "opt/toolexec/start.py").touch()
    root = image_root(tmp_path)
    assert (root.binds, root.argv[0], root.argv[-1]) == ((), "/usr/bin/python3", "/opt/toolexec/start.py")


@given(st.lists(st.lists(st.sampled_from(["usr", "bin", "lib", "share"]), max_size=3), min_size=1))
def test_the_outermost_folders_hold_all_others_and_none_of_each_other(parts: list[list[str]]) -> None:
    paths = [Path("/", *part) for part in parts if Path("/", *part).is_dir()]
    kept = _outermost(iter(paths))
    assert all(any(path == other or other in path.parents for other in kept) for path in paths)
    assert not [path for path in kept for other in kept if other in path.parents]
    assert os.sep not in {*map(str, kept)} or kept == [Path("/")]
