"""Folders are handed on only by guests that did nothing to them."""

import time
from pathlib import Path

import pytest

from runtimes.wasm.place import Place, Places

TICK_SECONDS = 0.02
"""Dates of a file system may be as coarse as a tick of the kernel, which is at most half of this."""


def left_by(places: Places, guest: str) -> bool:
    """Whether the next guest gets what this one had."""
    place = places.take()
    match guest:
        case "nothing":
            pass
        case "a file":
            Path(place.root, "work", "a.txt").write_text("a")
        case "a file in the root":
            Path(place.root, "json.py").touch()
        case "a file, gone again":
            path = Path(place.root, "tmp", "a.txt")
            path.touch()
            path.unlink()
        case "a folder less":
            Path(place.root, "work").rmdir()
        case "another folder":
            Path(place.root, "work").rmdir()
            Path(place.root, "work").mkdir()
    places.give_back(place)
    return places.take() is place


LEFT = ("a file", "a file in the root", "a file, gone again", "a folder less", "another folder")


@pytest.mark.parametrize("guest", LEFT)
def test_what_a_guest_did_something_to_is_nobody_elses(tmp_path: Path, guest: str) -> None:
    places = Places(tmp_path)
    places.give_back(places.take())
    time.sleep(TICK_SECONDS)
    assert not left_by(places, guest)
    assert all([path.name for path in sorted(root.iterdir())] == ["tmp", "work"] for root in tmp_path.iterdir())


@pytest.mark.parametrize("guest", ["a file", "a file in the root", "a folder less"])
def test_dates_need_not_tell(tmp_path: Path, guest: str) -> None:
    assert not left_by(Places(tmp_path), guest)


def test_what_a_guest_left_alone_is_handed_on(tmp_path: Path) -> None:
    assert left_by(Places(tmp_path), "nothing")


def test_two_guests_never_have_the_same(tmp_path: Path) -> None:
    places = Places(tmp_path)
    first, second = places.take(), places.take()
    assert first.root != second.root
    places.give_back(first)
    assert places.take() is first
    assert isinstance(places.take(), Place)
    assert len([*tmp_path.iterdir()]) == 3
