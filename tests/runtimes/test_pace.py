"""How fast a pool starts sandboxes, by what became of those before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes._pace import MAX_PAUSE_SECONDS, MAX_STARTING, Pace


def test_while_the_engine_is_as_fast_as_ever_nothing_holds_back() -> None:
    pace = Pace()
    for at in range(20):
        pace.succeeded(at, at + 1.0)
    assert (pace.allowed, pace.pause_seconds(21.0)) == (MAX_STARTING, 0.0)


def test_a_slow_engine_gets_fewer_at_once_and_all_of_them_when_it_recovers() -> None:
    pace = Pace()
    pace.succeeded(0.0, 0.3)
    for at in (1.0, 11.0, 21.0):
        pace.succeeded(at, at + 10.0)
    assert pace.allowed == MAX_STARTING // 8
    for at in (40.0, 41.0, 42.0):
        pace.succeeded(at, at + 0.3)
    assert pace.allowed == MAX_STARTING


def test_starts_that_were_slow_together_count_once() -> None:
    pace = Pace()
    pace.succeeded(0.0, 0.3)
    for _ in range(MAX_STARTING):
        pace.succeeded(1.0, 9.0)
    assert pace.allowed == MAX_STARTING // 2


def test_starts_of_a_few_milliseconds_are_never_slow() -> None:
    pace = Pace()
    pace.succeeded(0.0, 0.001)
    pace.succeeded(1.0, 1.1)
    assert pace.allowed == MAX_STARTING


def test_what_stays_slow_is_the_usual_in_the_end() -> None:
    pace = Pace()
    pace.succeeded(0.0, 0.3)
    for at in range(10, 400, 10):
        pace.succeeded(at, at + 3.0)
    assert pace.allowed == MAX_STARTING


def test_failures_in_a_row_are_ever_further_apart_and_one_by_one() -> None:
    pace = Pace()
    now, pauses = 0.0, []
    for _ in range(12):
        pace.failed(now, now)
        pauses.append(pace.pause_seconds(now))
        now += pauses[-1]
    assert pace.allowed == 1
    assert pauses == pytest.approx(sorted(pauses))
    assert (pauses[0], pauses[1], pauses[-1]) == pytest.approx((0.05, 0.1, MAX_PAUSE_SECONDS))
    pace.succeeded(now, now + 1)
    pace.failed(now + 2, now + 2)
    assert pace.pause_seconds(now + 2) == pytest.approx(pauses[0])


def test_a_batch_that_fails_together_counts_once() -> None:
    pace = Pace()
    for _ in range(MAX_STARTING):
        pace.failed(1.0, 1.5)
    assert pace.failures == 1
    assert pace.pause_seconds(1.5) == pytest.approx(0.05)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=200))
def test_there_is_always_one_allowed_and_never_more_than_the_most(starts: list[tuple[bool, float]]) -> None:
    pace, now = Pace(), 0.0
    for works, seconds in starts:
        (pace.succeeded if works else pace.failed)(now, now + seconds)
        now += seconds
        assert 1 <= pace.allowed <= MAX_STARTING
        assert 0 <= pace.pause_seconds(now) <= MAX_PAUSE_SECONDS + 1e-6
