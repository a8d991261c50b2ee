"""What the journal gets of a call: values whole, in bounded memory; and what a result shows of them."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from gateway.base import ToolEvent
from gateway.calls import PART_BYTES
from gateway.direct import DirectGateway
from gateway.errors import PayloadTooLarge, ToolDenied, ToolFailed
from gateway.grant import Grant
from gateway.journal.base import Blob, CallFinished, CallStarted, arguments_sha256
from gateway.journal.memory import MemoryJournal
from gateway.pipeline import Pipeline
from gateway.providers.function import function_tool
from gateway.runner import Runner
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch

pytestmark = pytest.mark.anyio

BIG = "ü" * 100_000


async def echo(value: Any) -> Any:
    return value


async def pieces(count: int, size: int = 1, *, fail: bool = False) -> AsyncIterator[str]:
    for number in range(count):
        yield str(number) + "x" * size
    if fail:
        raise LookupError("no more")


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture
def gateway(journal: MemoryJournal) -> DirectGateway:
    registry = ToolRegistry([function_tool(echo), function_tool(pieces), function_tool(echo, name="denied")])
    grant = Grant(execution_id="e", allowed_tools=frozenset({"echo", "pieces"}))
    return DirectGateway(grant, Pipeline(Runner(registry)), registry, ToolSearch(registry), journal)


async def events_of(gateway: DirectGateway, **arguments: Any) -> list[ToolEvent]:
    async with aclosing(gateway.stream_tool("pieces", arguments)) as stream:
        return [event async for event in stream]


async def recorded(journal: MemoryJournal) -> tuple[CallStarted, CallFinished]:
    started, finished = await journal.records("e")
    assert isinstance(started, CallStarted)
    assert isinstance(finished, CallFinished)
    return started, finished


async def test_large_values_are_recorded_whole_and_shown_in_part(
    gateway: DirectGateway, journal: MemoryJournal
) -> None:
    assert await gateway.run_tool("echo", {"value": BIG}) == BIG
    (shown,) = gateway.calls
    assert shown.arguments["truncated"] is shown.result["truncated"] is True
    started, finished = await recorded(journal)
    assert started.arguments.as_json() == {"value": BIG}
    assert started.arguments_sha256 == arguments_sha256({"value": BIG})
    assert finished.result == Blob.of_json(BIG)


async def test_values_keep_their_order_and_kinds_of_number(gateway: DirectGateway, journal: MemoryJournal) -> None:
    value = {"b": 1.0, "a": 1, "big": 2**70}
    await gateway.run_tool("echo", {"value": value})
    _, finished = await recorded(journal)
    assert finished.result is not None
    assert finished.result.as_text() == json.dumps(value, separators=(",", ":"))


@pytest.mark.parametrize(
    ("tool_id", "size", "error"), [("denied", 1_000_000, ToolDenied), ("echo", 2_000_000, PayloadTooLarge)]
)
async def test_what_is_refused_cannot_fill_the_journal(
    gateway: DirectGateway, journal: MemoryJournal, tool_id: str, size: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await gateway.run_tool(tool_id, {"value": "x" * size})
    started, _ = await recorded(journal)
    assert started.arguments.size_bytes < 5000
    assert started.arguments_sha256 == arguments_sha256({"value": "x" * size})


async def test_a_stream_is_recorded_in_parts(gateway: DirectGateway, journal: MemoryJournal) -> None:
    size = PART_BYTES // 4
    *given, _ = [event.data for event in await events_of(gateway, count=10, size=size)]
    _, finished = await recorded(journal)
    assert finished.result is None
    assert finished.chunks is not None
    assert len(finished.chunks) == 3
    assert max(part.size_bytes for part in finished.chunks) < PART_BYTES + size + 100
    parts = [json.loads(await journal.read(part)) for part in finished.chunks]
    assert [chunk for part in parts for chunk in part] == given
    assert finished.chunks[0].data is None  # it went to the journal ahead
    (shown,) = gateway.calls
    assert shown.result["truncated"] is True


async def test_a_stream_of_nothing_is_a_list_of_nothing(gateway: DirectGateway, journal: MemoryJournal) -> None:
    assert [event.kind for event in await events_of(gateway, count=0)] == ["done"]
    _, finished = await recorded(journal)
    assert finished.chunks == (Blob.of(b"[]"),)
    assert gateway.calls[0].result == []


async def test_chunks_before_a_failure_are_recorded(gateway: DirectGateway, journal: MemoryJournal) -> None:
    events = await events_of(gateway, count=2, fail=True)
    assert [event.kind for event in events] == ["chunk", "chunk", "error"]
    _, finished = await recorded(journal)
    assert finished.error is not None
    assert finished.error["code"] == ToolFailed.code
    assert finished.chunks == (Blob.of_json(["0x", "1x"]),)
    assert gateway.calls[0].result is None
