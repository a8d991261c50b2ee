"""Chains: one call after another."""

from typing import Any

import pytest

from gateway.base import MAX_BATCH, CallOutcome, ChainStep, JsonValue
from gateway.chain import run_chain
from gateway.errors import BudgetExceeded, ToolDenied, ToolError, ToolFailed
from gateway.grant import Grant

pytestmark = pytest.mark.anyio


class Calls:
    """Makes calls: `fail` fails, `deny` is refused, anything else returns its name and arguments."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.made: list[tuple[str, JsonValue]] = []

    async def __call__(self, tool_id: str, arguments: JsonValue, flaw: ToolError | None = None) -> JsonValue:
        if flaw is not None or tool_id == "deny":
            self.grant.release(1)
            raise flaw or ToolDenied(tool_id)
        self.made.append((tool_id, arguments))
        if tool_id == "fail":
            raise ToolFailed("ValueError: no")
        return [tool_id, arguments]


async def chain(*steps: ChainStep, **limits: Any) -> tuple[Any, tuple[CallOutcome, ...], Grant, Calls]:
    grant = Grant(**limits)
    calls = Calls(grant)
    result = await run_chain(steps, grant, calls)
    return result.value, result.steps, grant, calls


async def test_nothing_in_nothing_out() -> None:
    value, steps, grant, _ = await chain()
    assert (value, steps, grant.used_calls) == (None, (), 0)


async def test_a_step_takes_the_previous_result_only_when_it_asks() -> None:
    value, steps, _, _ = await chain(
        ChainStep("a", {"x": 1}, use_previous=True),
        ChainStep("b", {}),
        ChainStep("c", {"x": 2}, use_previous=True),
    )
    assert [step.value for step in steps] == [
        ["a", {"x": 1, "previous": None}],
        ["b", {}],
        ["c", {"x": 2, "previous": ["b", {}]}],
    ]
    assert value == steps[-1].value
    assert all(step.ok and step.duration_seconds > 0 and step.error is None for step in steps)


async def test_a_failure_skips_the_rest_and_costs_only_what_was_called() -> None:
    value, steps, grant, calls = await chain(
        ChainStep("a", {}), ChainStep("fail", {}), ChainStep("b", {}), ChainStep("c", {}), tool_calls=4
    )
    assert value is None
    assert [(step.tool_id, step.ok, step.skipped) for step in steps] == [
        ("a", True, False),
        ("fail", False, False),
        ("b", False, True),
        ("c", False, True),
    ]
    assert steps[1].error == {"code": "tool_failed", "message": "ValueError: no", "retryable": False, "details": {}}
    assert steps[2].error is None
    assert (len(calls.made), grant.used_calls) == (2, 2)


async def test_a_failure_that_does_not_stop_hands_on_nothing() -> None:
    value, steps, grant, _ = await chain(
        ChainStep("fail", {}, stop_on_error=False), ChainStep("a", {}, use_previous=True), tool_calls=2
    )
    assert value == ["a", {"previous": None}]
    assert [step.ok for step in steps] == [False, True]
    assert grant.used_calls == 2


async def test_previous_given_twice_is_a_conflict_and_calls_nothing() -> None:
    _, steps, grant, calls = await chain(ChainStep("a", {"previous": 1}, use_previous=True), tool_calls=1)
    assert steps[0].error is not None
    assert steps[0].error["code"] == "invalid_input"
    assert "leave one of them out" in steps[0].error["message"]
    assert (calls.made, grant.used_calls) == ([], 0)
    _, steps, _, _ = await chain(ChainStep("a", {"previous": 1}))
    assert steps[0].value == ["a", {"previous": 1}]


async def test_refused_steps_cost_nothing() -> None:
    _, steps, grant, _ = await chain(ChainStep("deny", {}, stop_on_error=False), ChainStep("a", {}), tool_calls=2)
    assert [step.ok for step in steps] == [False, True]
    assert grant.used_calls == 1


@pytest.mark.parametrize(
    ("count", "limits", "limit"),
    [(3, {"tool_calls": 2}, "tool_calls"), (3, {"chain_steps": 2}, "chain_steps"), (MAX_BATCH + 1, {}, "batch")],
)
async def test_a_chain_that_does_not_fit_calls_nothing(count: int, limits: dict[str, Any], limit: str) -> None:
    grant = Grant(**limits)
    calls = Calls(grant)
    with pytest.raises(BudgetExceeded) as caught:
        await run_chain([ChainStep("a", {})] * count, grant, calls)
    assert caught.value.details["limit"] == limit
    assert (calls.made, grant.used_calls) == ([], 0)


async def test_the_longest_chain_runs() -> None:
    _, steps, _, _ = await chain(*[ChainStep("a", {})] * MAX_BATCH, tool_calls=MAX_BATCH, chain_steps=MAX_BATCH)
    assert len(steps) == MAX_BATCH


async def test_the_hosts_own_failure_comes_out_and_gives_the_rest_back() -> None:
    grant = Grant(tool_calls=3)

    async def broken(tool_id: str, arguments: JsonValue, flaw: ToolError | None = None) -> JsonValue:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await run_chain([ChainStep("a", {})] * 3, grant, broken)
    assert grant.used_calls == 1
