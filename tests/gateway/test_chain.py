"""Chains: one call after another."""

from typing import Any

import anyio
import pytest

from gateway.base import MAX_BATCH, CallOutcome, ChainStep, JsonValue
from gateway.chain import Time, Took, pointed, run_chain
from gateway.errors import BudgetExceeded, InvalidInput, ToolDenied, ToolError, ToolFailed
from gateway.grant import Grant

pytestmark = pytest.mark.anyio


class Calls:
    """Makes calls: `fail` fails, `deny` is refused, anything else returns its name and arguments."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.made: list[tuple[str, JsonValue]] = []
        self.bounds: list[float | None] = []

    async def __call__(
        self,
        tool_id: str,
        arguments: JsonValue,
        *,
        position: int,
        took: Took,
        flaw: ToolError | None = None,
        timeout_seconds: float | None = None,
    ) -> JsonValue:
        took.seconds = 0.001
        if flaw is not None or tool_id == "deny":
            self.grant.release(1)
            raise flaw or ToolDenied(tool_id)
        self.made.append((tool_id, arguments))
        self.bounds.append(timeout_seconds)
        if tool_id == "fail":
            raise ToolFailed("ValueError: no")
        return [tool_id, arguments]


async def chain(*steps: ChainStep, **limits: Any) -> tuple[Any, tuple[CallOutcome, ...], Grant, Calls]:
    grant = Grant(**limits)
    calls = Calls(grant)
    result = await run_chain(steps, grant, calls, Time(None))
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
        await run_chain([ChainStep("a", {})] * count, grant, calls, Time(None))
    assert caught.value.details["limit"] == limit
    assert (calls.made, grant.used_calls) == ([], 0)


async def test_the_longest_chain_runs() -> None:
    _, steps, _, _ = await chain(*[ChainStep("a", {})] * MAX_BATCH, tool_calls=MAX_BATCH, chain_steps=MAX_BATCH)
    assert len(steps) == MAX_BATCH


async def test_the_hosts_own_failure_comes_out_and_gives_the_rest_back() -> None:
    grant = Grant(tool_calls=3)

    async def broken(
        tool_id: str,
        arguments: JsonValue,
        *,
        position: int,
        took: Took,
        flaw: ToolError | None = None,
        timeout_seconds: float | None = None,
    ) -> JsonValue:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await run_chain([ChainStep("a", {})] * 3, grant, broken, Time(None))
    assert grant.used_calls == 1


async def test_arguments_come_from_any_earlier_result() -> None:
    _, steps, _, calls = await chain(
        ChainStep("a", {"x": 1}),
        ChainStep("b", {"y": 2}, mapping={"x": "/previous/1/x", "all": "/steps/0"}),
        ChainStep("c", {}, mapping={"first": "/steps/0/0", "last": "/steps/1/1/y"}),
    )
    assert [arguments for _, arguments in calls.made] == [
        {"x": 1},
        {"y": 2, "x": 1, "all": ["a", {"x": 1}]},
        {"first": "a", "last": 2},
    ]
    assert all(step.ok for step in steps)


@pytest.mark.parametrize("pointer", ["/previous/9", "/steps/1", "/steps/-1", "/nothing", "previous", "/previous/0/a"])
async def test_a_pointer_to_nothing_refuses_its_step(pointer: str) -> None:
    _, steps, grant, calls = await chain(ChainStep("a", {}), ChainStep("b", {}, mapping={"x": pointer}))
    assert steps[1].error is not None
    assert steps[1].error["code"] == "invalid_input"
    assert pointer in str(steps[1].error["message"])
    assert (len(calls.made), grant.used_calls) == (1, 1)


async def test_an_argument_has_one_source() -> None:
    for step in (
        ChainStep("b", {"x": 1}, mapping={"x": "/previous"}),
        ChainStep("b", {"previous": 1}, use_previous=True),
    ):
        _, steps, _, calls = await chain(ChainStep("a", {}), step)
        assert steps[1].error is not None
        assert "leave one of them out" in str(steps[1].error["message"])
        assert len(calls.made) == 1


def test_pointers_are_those_of_rfc_6901() -> None:
    document = {"a/b": 1, "m~n": 2, "": 3, "list": [{"x": None}], "0": "text"}
    assert pointed(document, "") == document
    assert pointed(document, "/a~1b") == 1
    assert pointed(document, "/m~0n") == 2
    assert pointed(document, "/") == 3
    assert pointed(document, "/list/0/x") is None
    assert pointed(document, "/0") == "text"
    for wrong in ("/list/00x", "/list/²", "/list/1", "/text/0"):
        with pytest.raises(InvalidInput):
            pointed(document, wrong)


async def test_bounds_of_a_step_and_of_the_chain_reach_the_call() -> None:
    grant = Grant()
    calls = Calls(grant)
    steps = [ChainStep("a", {}), ChainStep("b", {}, timeout_seconds=2.5), ChainStep("c", {}, timeout_seconds=99.0)]
    await run_chain(steps, grant, calls, Time(None))
    assert calls.bounds == [None, 2.5, 99.0]
    calls.bounds.clear()
    await run_chain(steps, grant, calls, Time(50.0))
    assert calls.bounds[1] == 2.5
    assert all(bound is not None and 49 < bound <= 50 for bound in (calls.bounds[0], calls.bounds[2]))


async def test_a_chain_whose_time_is_up_refuses_one_step_and_skips_the_rest() -> None:
    grant = Grant()
    calls = Calls(grant)
    bounds = Time(0.01)
    await anyio.sleep(0.02)
    steps = [ChainStep(name, {}, stop_on_error=False) for name in "abc"]
    result = await run_chain(steps, grant, calls, bounds)
    assert [step.skipped for step in result.steps] == [False, True, True]
    assert result.steps[0].error is not None
    assert result.steps[0].error["code"] == "timeout"
    assert (calls.made, grant.used_calls) == ([], 0)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
async def test_a_bound_is_above_zero(seconds: float) -> None:
    with pytest.raises(InvalidInput, match="above 0"):
        Time(seconds)
    with pytest.raises(InvalidInput, match="above 0"):
        await chain(ChainStep("a", {}), ChainStep("b", {}, timeout_seconds=seconds))


async def test_every_step_has_a_duration_of_its_own() -> None:
    async def sleeping(
        tool_id: str,
        arguments: JsonValue,
        *,
        position: int,
        took: Took,
        flaw: ToolError | None = None,
        timeout_seconds: float | None = None,
    ) -> JsonValue:
        took.seconds = arguments["seconds"]
        if tool_id == "fail":
            raise ToolFailed("ValueError: no")
        return None

    asked = [("a", 0.2), ("b", 0), ("fail", 0.2), ("c", 0)]
    result = await run_chain([ChainStep(name, {"seconds": s}) for name, s in asked], Grant(), sleeping, Time(None))
    assert [step.duration_seconds for step in result.steps] == [0.2, 0, 0.2, 0]
