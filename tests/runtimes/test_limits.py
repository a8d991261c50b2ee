"""Limits: nothing asked is None, and zero, negative and odd bounds are errors."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from runtimes.limits import DEFAULT_LIMITS, LIMIT_NAMES, SECONDS, SHARED, Limits


@pytest.mark.parametrize("name", LIMIT_NAMES)
@pytest.mark.parametrize("value", [0, -1, 0.0, -0.5, float("nan"), float("inf"), True, False, "1", [], b"1", 1j])
def test_a_bound_is_a_number_above_zero(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"limit {name} must be"):
        Limits(**{name: value})
    with pytest.raises(InvalidRequest, match=f"limit {name} must be"):
        Limits.of({name: value})


@pytest.mark.parametrize("name", LIMIT_NAMES)
def test_only_seconds_may_have_fractions(name: str) -> None:
    if name in SECONDS:
        assert getattr(Limits.of({name: 0.5}), name) == 0.5
    else:
        with pytest.raises(InvalidRequest, match="a whole number, not 1"):
            Limits.of({name: 1.5})
        with pytest.raises(InvalidRequest, match="a whole number, not 1"):
            Limits.of({name: 1.0})
    assert getattr(Limits.of({name: 10**30}), name) == 10**30


def test_nothing_asked_is_none() -> None:
    assert Limits.of(None) == Limits() == Limits.of({}) == Limits.of(dict.fromkeys(LIMIT_NAMES))
    assert Limits().asked() == {}


def test_an_unknown_limit_lists_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="unknown limit 3, wall; there are wall_seconds, cpu_seconds"):
        Limits.of({"wall": 1, 3: 4})  # type: ignore[dict-item]  # that is the test


BOUNDS = st.dictionaries(st.sampled_from(LIMIT_NAMES), st.none() | st.integers(1, 10**12))


@given(BOUNDS, BOUNDS)
def test_asked_limits_come_over_the_defaults_field_by_field(asked: dict[str, Any], defaults: dict[str, Any]) -> None:
    over = Limits.of(asked).over(Limits.of(defaults))
    for name in LIMIT_NAMES:
        assert getattr(over, name) == (asked.get(name) if asked.get(name) is not None else defaults.get(name))


def test_the_defaults_bound_what_every_backend_holds() -> None:
    assert set(DEFAULT_LIMITS.asked()) >= SHARED - {"chain_steps"}
    assert DEFAULT_LIMITS.memory_bytes is not None


def test_limits_are_taken_as_they_are() -> None:
    limits = Limits(wall_seconds=1)
    assert Limits.of(limits) is limits
