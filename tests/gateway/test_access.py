"""What a tool says of itself decides who may call it, and what a batch may do at the same time."""

import dataclasses
from typing import Any

import anyio
import pytest

from gateway.base import JsonValue, ParallelCall
from gateway.context import Caller, ToolContext
from gateway.direct import DirectGateway
from gateway.errors import ToolDenied
from gateway.grant import Grant
from gateway.journal.memory import MemoryJournal
from gateway.parallel import Access
from gateway.pipeline import Pipeline
from gateway.runner import Runner
from gateway.tools.access import access_of
from gateway.tools.model import Tool, ToolId
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch

pytestmark = pytest.mark.anyio


class Diary:
    """A provider that writes down when its calls begin and end; one may take a while."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        name = arguments.get("name", "")
        self.lines.append(f"+{name}")
        await anyio.sleep(arguments.get("seconds", 0.01))
        self.lines.append(f"-{name}")
        return name

    async def health(self) -> None:
        """It is always there."""

    async def aclose(self) -> None:
        """Nothing is held."""

    @property
    def took_turns(self) -> bool:
        """Whether each call had ended when the next one began."""
        begun, ended = self.lines[::2], self.lines[1::2]
        return [line[1:] for line in begun] == [line[1:] for line in ended]


def tool(text: str = "crm:save", **fields: Any) -> Tool:
    return Tool(id=ToolId.parse(text), provider=Diary(), input_schema={}, **fields)


def gateway(*tools: Tool, **grant: Any) -> DirectGateway:
    registry = ToolRegistry(tools)
    return DirectGateway(Grant(**grant), Pipeline(Runner(registry)), registry, ToolSearch(registry), MemoryJournal())


@pytest.mark.parametrize(
    ("made", "arguments", "access"),
    [
        (tool(), {}, Access("crm", writes=True)),
        (tool(read_only=False), {}, Access("crm", writes=True)),
        (tool(read_only=True), {}, Access("crm", writes=False)),
        (tool(idempotent=True, destructive=False), {}, Access("crm", writes=True)),
        (tool("get_list"), {}, Access("get_list", writes=True)),  # a name is no promise
        (tool("crm:save:1.0.0"), {}, Access("crm", writes=True)),
        (tool(resource="mail"), {}, Access("mail", writes=True)),
        (tool(resource="account/{id}"), {"id": "7"}, Access("account/7", writes=True)),
        (tool(resource="account/{id}"), {"id": 7}, Access("account/7", writes=True)),
        (tool(resource="account/{id}"), {"id": "{id}/../8"}, Access("account/{id}/../8", writes=True)),
    ],
)
def test_what_a_call_uses(made: Tool, arguments: Any, access: Access) -> None:
    assert access_of(made, arguments) == access


def test_calls_that_leave_the_argument_out_are_kept_in_order_too() -> None:
    made = tool(resource="account/{id}")
    assert access_of(made, {}) == access_of(made, {"other": 7})
    assert access_of(made, {}) != access_of(made, {"id": "7"}) != access_of(made, {"id": "8"})


async def test_calls_that_do_not_say_that_they_read_take_turns_in_their_order() -> None:
    made = tool()
    assert isinstance(made.provider, Diary)
    calls = [ParallelCall("crm:save", {"name": f"c{n}", "seconds": 0.03 - n / 100}) for n in range(3)]
    outcomes = await gateway(made).run_parallel(calls)
    assert [outcome.value for outcome in outcomes] == ["c0", "c1", "c2"]
    assert made.provider.lines == ["+c0", "-c0", "+c1", "-c1", "+c2", "-c2"]


async def test_reads_and_other_resources_do_not_wait() -> None:
    for made in (tool(read_only=True), tool(resource="account/{name}")):
        assert isinstance(made.provider, Diary)
        calls = [ParallelCall("crm:save", {"name": f"c{n}", "seconds": 0.05}) for n in range(3)]
        await gateway(made).run_parallel(calls)
        assert made.provider.lines[:3] == ["+c0", "+c1", "+c2"]


async def test_what_is_the_same_to_the_tool_is_the_same_resource() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "default": "a", "x-coerce": True}}}
    made = dataclasses.replace(tool(resource="account/{name}"), input_schema=schema)
    assert isinstance(made.provider, Diary)
    calls: list[dict[str, Any]] = [{}, {"name": "a"}, {"name": 7}, {"name": "7"}]
    await gateway(made).run_parallel([ParallelCall("crm:save", arguments) for arguments in calls])
    lines = made.provider.lines
    assert lines.index("-a") < len(lines) - 1 - lines[::-1].index("+a")
    assert lines.index("-7") < len(lines) - 1 - lines[::-1].index("+7")
    assert lines[:2] in (["+a", "+7"], ["+7", "+a"])


async def test_tools_of_one_resource_wait_for_each_other() -> None:
    diary = Diary()
    one, two = (dataclasses.replace(tool(text), provider=diary) for text in ("crm:save", "crm:send"))
    calls = [ParallelCall(text, {"name": f"c{n}"}) for n, text in enumerate(["crm:save", "crm:send"] * 2)]
    await gateway(one, two).run_parallel(calls)
    assert diary.took_turns
    assert diary.lines[::2] == ["+c0", "+c1", "+c2", "+c3"]


@pytest.mark.parametrize("caller", [Caller(), Caller(role="system"), Caller(role="*"), Caller(user_id="admin")])
async def test_who_lacks_the_role_spends_nothing_and_reaches_nothing(caller: Caller) -> None:
    made, other = tool(roles=frozenset({"Admin"})), tool("free")
    assert isinstance(made.provider, Diary)
    opened = gateway(made, other, caller=caller, tool_calls=1)
    with pytest.raises(ToolDenied):
        await opened.run_tool("crm:save", {})
    (outcome,) = await opened.run_parallel([ParallelCall("crm:save", {})])
    assert outcome.error is not None
    assert outcome.error["code"] == "tool_denied"
    assert (made.provider.lines, opened.grant.used_calls) == ([], 0)
    assert await opened.run_tool("free", {}) == ""  # the one call is still there


async def test_whoever_has_the_role_is_served() -> None:
    opened = gateway(tool(roles=frozenset({"Admin"})), caller=Caller(role="admin"))
    assert await opened.run_tool("crm:save", {"name": "x"}) == "x"
