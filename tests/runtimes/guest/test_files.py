"""Files go into the working folder and come out of it, and nothing else does."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from runtimes.guest import files
from runtimes.guest.files import collect_files, snapshot, write_files


def collected(root: Path, before: files.Snapshot | None = None) -> tuple[dict[str, bytes], list[str]]:
    reports: list[str] = []
    found = dict(collect_files(root, before or {}, reports.append))
    return found, reports


def test_files_are_written_where_they_belong(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.txt": b"1", "b/c/d.bin": b"\0"})

    assert collected(tmp_path) == ({"a.txt": b"1", "b/c/d.bin": b"\0"}, [])


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "", ".", "a//b", "a/./b", "a/", "a\0b", "a\\b"])
def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="no path of a file inside"):
        write_files(tmp_path, {"good": b"", path: b""})

    assert collected(tmp_path) == ({}, [])


def test_only_what_appeared_or_changed_is_collected(tmp_path: Path) -> None:
    write_files(tmp_path, {"same": b"1", "grown": b"1", "touched": b"1", "replaced": b"1", "gone": b"1"})
    before = snapshot(tmp_path)
    (tmp_path / "grown").write_bytes(b"12")
    os.utime(tmp_path / "touched", ns=(1, 1))
    facts = (tmp_path / "replaced").stat()
    (tmp_path / "other").write_bytes(b"2")
    os.utime(tmp_path / "other", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    (tmp_path / "other").rename(tmp_path / "replaced")
    (tmp_path / "gone").unlink()
    write_files(tmp_path, {"new/b": b"3", "new/a": b"4"})

    found, reports = collected(tmp_path, before)

    assert list(found.items()) == [
        ("grown", b"12"),
        ("new/a", b"4"),
        ("new/b", b"3"),
        ("replaced", b"2"),
        ("touched", b"1"),
    ]
    assert reports == []


def test_links_pipes_and_folders_are_not_collected(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    (root / "broken").symlink_to("nowhere")
    os.mkfifo(root / "pipe")

    assert collected(root) == ({}, [])


@pytest.mark.parametrize("made", ["link", "pipe", "nothing"])
def test_a_file_that_is_no_file_any_more_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1")
    listed = snapshot(tmp_path)
    monkeypatch.setattr(files, "snapshot", lambda _root: listed)
    path.unlink()
    if made == "link":
        path.symlink_to("/etc/passwd")
    if made == "pipe":
        os.mkfifo(path)

    found, reports = collected(tmp_path)

    assert found == {}
    assert reports[0].startswith("toolexec: 1 file not kept, the first being 'x'")


def test_names_outside_utf8_are_left_out(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_bytes(b"1")
    (tmp_path / "good").write_bytes(b"2")

    found, reports = collected(tmp_path)

    assert found == {"good": b"2"}
    assert reports == [
        "toolexec: 1 file not kept, the first being '\\udcff': at most 100 readable files and 16 MiB in total are"
    ]


def test_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    write_files(tmp_path, {f"{number:03}": b"" for number in range(103)})

    found, reports = collected(tmp_path)

    assert list(found) == [f"{number:03}" for number in range(100)]
    assert reports[0].startswith("toolexec: 3 files not kept, the first being '100'")


def test_the_size_is_bounded(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": b"1" * (files.MAX_BYTES - 1), "b": b"2", "d": b"4"})
    with (tmp_path / "c").open("wb") as sparse:
        sparse.truncate(1 << 40)

    found, reports = collected(tmp_path)

    assert list(found) == ["a", "b"]
    assert reports[0].startswith("toolexec: 2 files not kept, the first being 'c'")


def test_without_a_reporter_stderr_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    write_files(tmp_path, {str(number): b"" for number in range(101)})

    assert len(list(collect_files(tmp_path, {}))) == 100
    assert capsys.readouterr().err.startswith("toolexec: 1 file not kept")

    monkeypatch.setattr(sys, "stderr", None)
    assert len(list(collect_files(tmp_path, {}))) == 100
