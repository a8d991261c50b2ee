"""The host's folder: private, and what dead hosts left is gone at the next start."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimes import folder as module
from runtimes.folder import MARK, make_folder, marked, reap, remove_folder

DEAD = "1999999-123-abcd"
"""No process has such an id: Linux allows 4194304 only where it was raised, and this one never started at 123."""


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield Path(runtime, "toolexec")


def sleeper(mark: str | None) -> "subprocess.Popen[bytes]":
    env = {} if mark is None else {MARK: mark}
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(100)"], env=env)


def test_it_is_private_and_named_for_its_host(base: Path) -> None:
    first, second = make_folder(), make_folder()
    assert first != second
    for path in (first, base):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert first.parent == base
    assert first.name.split("-")[0] == str(os.getpid())
    remove_folder(first)
    remove_folder(first)
    assert not first.exists()
    assert second.exists()


def test_a_dead_hosts_folder_and_processes_are_removed(base: Path) -> None:
    alive = make_folder()
    dead = base / DEAD
    (dead / "deep" / "er").mkdir(parents=True)
    (dead / "deep" / "file").write_text("left")
    with sleeper(DEAD) as orphan, sleeper(alive.name) as guest, sleeper(None) as stranger:
        fresh = make_folder()
        assert orphan.wait(10) == -9
        assert not dead.exists()
        assert (alive.exists(), fresh.exists()) == (True, True)
        assert (guest.poll(), stranger.poll()) == (None, None)
        guest.kill()
        stranger.kill()


def test_a_host_whose_process_id_was_given_away_is_dead(base: Path) -> None:
    ours = make_folder()
    pid, started, _ = ours.name.split("-")
    reused = base / f"{pid}-{int(started) - 1}-abcd"
    reused.mkdir()
    reap(base)
    assert not reused.exists()
    assert ours.exists()


@pytest.mark.parametrize("name", ["not-a-host", "12", "--", "1e3-5-x", "٣-1-x"])
def test_a_folder_that_names_no_host_is_removed(base: Path, name: str) -> None:
    make_folder()
    (base / name).mkdir()
    reap(base)
    assert not (base / name).exists()


def test_links_lead_nowhere(base: Path, tmp_path: Path) -> None:
    make_folder()
    (tmp_path / "precious").write_text("kept")
    (base / DEAD).mkdir()
    (base / DEAD / "link").symlink_to(tmp_path)
    (base / "1999998-1-x").symlink_to(tmp_path)
    reap(base)
    assert (tmp_path / "precious").read_text() == "kept"


def test_only_its_own_mark_finds_a_process(base: Path) -> None:
    with sleeper("a-1-x") as one, sleeper("a-1-xy") as other:
        assert set(marked({"a-1-x"})) == {one.pid}
        assert set(marked({"nobody"})) == set()
        one.kill()
        other.kill()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_can_enter_is_refused(base: Path, mode: int) -> None:
    base.mkdir()
    base.chmod(mode)
    with pytest.raises(PermissionError, match=r"remove it, or set XDG_RUNTIME_DIR"):
        make_folder()


def test_a_folder_of_somebody_else_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(base, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match="is not a private folder of ours"):
        make_folder()


def test_a_link_in_its_place_is_refused(base: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    base.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="is not a private folder of ours"):
        make_folder()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_its_place_is_refused(base: Path) -> None:
    base.touch(mode=0o600)
    with pytest.raises(OSError, match="toolexec"):
        make_folder()


def test_a_name_too_long_for_a_socket_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 90)))
    made = make_folder()
    try:
        assert len(str(made / "gateway.sock")) <= module.MAX_SOCKET_PATH
    finally:
        remove_folder(made)
