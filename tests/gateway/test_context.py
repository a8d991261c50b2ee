"""What a provider is told: all of it may be missing, and none of it changes under a call."""

import copy
import dataclasses
import time

import anyio
import pytest

from gateway.context import ANYBODY, Caller, Progress, ToolContext
from gateway.direct import DirectGateway
from gateway.errors import ToolFailed
from gateway.grant import Grant
from gateway.journal.memory import MemoryJournal
from gateway.pipeline import Pipeline
from gateway.providers.function import function_tool
from gateway.runner import Runner
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch

pytestmark = pytest.mark.anyio


def test_everything_may_be_left_out() -> None:
    context = ToolContext()
    assert context.caller == ANYBODY == Caller()
    assert (context.tool_id, context.execution_id, context.call_index) == ("", "", 0)
    assert context.remaining_seconds() is None
    context.report("nobody watches", progress=1)


def test_time_runs_out_and_not_below_nothing() -> None:
    left = ToolContext(deadline=time.monotonic() + 60).remaining_seconds()
    assert left is not None
    assert 59 < left <= 60
    assert ToolContext(deadline=time.monotonic() - 60).remaining_seconds() == 0


def test_whoever_watches_is_told_how_far_it_is() -> None:
    heard: list[Progress] = []
    context = ToolContext(on_progress=heard.append)
    context.report()
    context.report("half", progress=1, total=2)
    assert heard == [Progress(), Progress("half", 1, 2)]


@pytest.mark.parametrize("kind", [ToolContext, Caller])
def test_it_is_frozen(kind: type[ToolContext] | type[Caller]) -> None:
    made = kind()
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, "other")


async def test_calls_at_once_have_a_context_each_and_leave_the_caller_as_it_was() -> None:
    seen: dict[str, list[ToolContext]] = {}

    async def look(name: str, context: ToolContext) -> None:
        seen[name] = [context, copy.deepcopy(context)]
        await anyio.sleep(0.01)

    async def vandal(context: ToolContext) -> None:
        context.tool_id = "other"  # type: ignore[misc]  # what a careless tool may try

    caller = Caller(user_id="ada", role="sdr", extras={"plan": {"seats": 5}})
    before = copy.deepcopy(caller)
    registry = ToolRegistry([function_tool(look), function_tool(vandal)])
    grant = Grant(execution_id="e", caller=caller)
    gateway = DirectGateway(grant, Pipeline(Runner(registry)), registry, ToolSearch(registry), MemoryJournal())
    async with anyio.create_task_group() as calls:
        for name in "abc":
            calls.start_soon(gateway.run_tool, "look", {"name": name})
    with pytest.raises(ToolFailed, match="FrozenInstanceError"):
        await gateway.run_tool("vandal", {})
    assert sorted(context.call_index for context, _ in seen.values()) == [0, 1, 2]
    assert all(context == then for context, then in seen.values())
    assert {context.caller.user_id for context, _ in seen.values()} == {"ada"}
    assert grant.caller == before
