"""What one execution may do: never more than it was given."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BudgetExceeded, DeadlineExceeded, InvalidRequest, ToolDenied
from gateway.grant import Grant


@given(st.integers(1, 20), st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=60))
def test_the_budget_is_never_exceeded(budget: int, steps: list[tuple[bool, int]]) -> None:
    grant = Grant(tool_calls=budget)
    used = 0
    for give_back, calls in steps:
        if give_back:
            grant.release(min(calls, used))
            used -= min(calls, used)
            continue
        try:
            grant.reserve(calls)
            used += calls
        except BudgetExceeded:
            assert used + calls > budget
        assert grant.used_calls == used <= budget


@given(st.integers(1, 50), st.integers(0, 100))
def test_a_chain_fits_or_not(bound: int, steps: int) -> None:
    grant = Grant(chain_steps=bound)
    if steps <= bound:
        grant.check_chain(steps)
    else:
        with pytest.raises(BudgetExceeded, match="chain_steps"):
            grant.check_chain(steps)


def test_no_bound_is_no_bound() -> None:
    grant = Grant()
    grant.reserve(10**9)
    grant.check_chain(10**9)
    assert grant.remaining_seconds() is None
    assert grant.permits("anything")


@pytest.mark.parametrize("bound", [0, -1])
@pytest.mark.parametrize("name", ["tool_calls", "chain_steps"])
def test_a_bound_is_at_least_one(name: str, bound: int) -> None:
    arguments: dict[str, Any] = {name: bound}
    with pytest.raises(InvalidRequest, match=f"{name} must be at least 1 or None"):
        Grant(**arguments)


@pytest.mark.parametrize(
    ("allowed", "tool_id", "permitted"),
    [
        ({"math:add"}, "math:add", True),
        ({"math:add"}, "math:sub", False),
        ({"math:add"}, "math:add:1.0.0", False),
        ({"math:*"}, "math:add", True),
        ({"math:*"}, "math:add:1.0.0", True),
        ({"math:*"}, "math", False),
        ({"math:*"}, "maths:add", False),
        ({"math:*"}, "xmath:add", False),
        ({"math"}, "math:add", False),
        ({"*"}, "math:add", False),
        ({":*"}, "echo", False),
        ({"add"}, "add", True),
        (set(), "add", False),
    ],
)
def test_what_is_permitted(allowed: set[str], tool_id: str, permitted: bool) -> None:
    grant = Grant(allowed_tools=frozenset(allowed))
    assert grant.permits(tool_id) is permitted
    if permitted:
        grant.check(tool_id)
    else:
        with pytest.raises(ToolDenied):
            grant.check(tool_id)


def test_time_is_up_at_the_deadline_and_stays_so() -> None:
    now = [10.0]
    grant = Grant(deadline=11.0, clock=lambda: now[0])
    grant.check("any")
    assert grant.remaining_seconds() == 1.0
    for later in (11.0, 12.0):
        now[0] = later
        assert grant.remaining_seconds() == 0.0
        with pytest.raises(DeadlineExceeded):
            grant.check("any")


def test_a_closed_grant_permits_nothing() -> None:
    grant = Grant(allowed_tools=frozenset())
    grant.closed = True
    with pytest.raises(DeadlineExceeded):
        grant.check("any")
