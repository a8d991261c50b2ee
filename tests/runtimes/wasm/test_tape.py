"""What a guest is told of time: recorded, played again, and left when the guest does something else."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.wasm import tape as module
from runtimes.wasm.tape import Kind, Tape
from runtimes.wasm.wasi import Chance


def now() -> int:
    return time.time_ns() // 1000


ASKED = st.lists(st.sampled_from(["monotonic", "wall", 0, 1, 300, 2**40]))


@given(st.lists(ASKED, min_size=1, max_size=4))
def test_what_was_recorded_in_any_number_of_runs_is_played_again(runs: list[list[str | int]]) -> None:
    began, recorded = now() - 5_000_000, b""
    asked: list[str | int] = []
    told: list[int | None] = []
    for new in runs:
        tape = Tape(recorded, began)
        assert [_ask(tape, one) for one in asked] == told
        told += [_ask(tape, one) for one in new]
        asked += new
        recorded += tape.take()
    again = Tape(recorded, began)
    assert [_ask(again, one) for one in asked] == told
    assert not again.departed
    assert not again.playing
    assert again.take() == b""


def _ask(tape: Tape, what: str | int) -> int | None:
    if isinstance(what, str):
        return tape.monotonic() if what == "monotonic" else tape.wall()
    found = tape.wait()
    if found is None:
        tape.waited(what)
    return what if found is None else found


def test_it_goes_on_live_where_the_recording_ends() -> None:
    began = now() - 3_600_000_000
    first = Tape(b"", began)
    first._paused = 3_600_000_000
    readings = [first.monotonic() for _ in range(3)]
    second = Tape(first.take(), began)
    assert [second.monotonic() for _ in range(3)] == readings
    assert not second.playing
    later = second.monotonic()
    assert readings[-1] <= later < 60_000_000  # the hour that nothing ran is not counted
    assert abs(second.wall() - now()) < 60_000_000  # the calendar went on
    third = Tape(first.take() + second.take(), began)
    assert not third.departed


def test_a_guest_that_asks_for_something_else_is_told_the_time_as_it_is() -> None:
    first = Tape(b"", now())
    first.monotonic()
    again = Tape(first.take(), now())
    assert again.wait() is None
    assert again.departed
    assert again.monotonic() >= 0


def test_what_is_left_over_is_seen() -> None:
    first = Tape(b"", now())
    first.monotonic()
    assert Tape(first.take(), now()).playing


def test_a_tape_is_cut_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TAPE_BYTES", 50)
    first = Tape(b"", now())
    for _ in range(1000):
        first.waited(5)
    recorded = first.take()
    assert len(recorded) <= 51
    assert recorded[-1] == Kind.CUT
    again = Tape(recorded, now())
    played = sum(again.wait() == 5 for _ in range(1000))
    assert 30 < played < 50
    again.waited(5)
    assert again.take() == b""  # a cut tape stays cut


def test_a_tape_that_nobody_recorded_is_refused() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        Tape(b"\xff" * 20, 0)


def test_chance_is_its_seed() -> None:
    one, same, other = Chance(b"seed"), Chance(b"seed"), Chance(b"tree")
    assert [one.take(16), one.take(3)] == [same.take(16), same.take(3)]
    assert one.take(16) != same.take(8)
    assert other.take(16) != Chance(b"seed").take(16)
