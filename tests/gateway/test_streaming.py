"""Streams as one guest reads them, when what it asks for comes together."""

import asyncio

import anyio
import pytest

from gateway.base import JsonValue
from gateway.errors import InvalidInput
from gateway.payload import normalise
from gateway.reads import PastRead, told_by
from gateway.streaming import Feed, Streams, ToolStream

pytestmark = pytest.mark.anyio


async def ignore(read: PastRead) -> None:
    """Every turn is at once."""


@pytest.mark.parametrize("steps", range(6))
async def test_a_recorded_read_whose_stream_is_closed_meanwhile_gives_what_it_has(steps: int) -> None:
    async def call(feed: Feed) -> JsonValue:
        await feed.follow([PastRead("a call", [6], 0)], ignore)
        for n in range(5):
            await feed.chunk(normalise(n))
        return None

    streams = Streams()
    number = streams.open(lambda: ToolStream(call))
    await anyio.sleep(0.01)  # the tool is done
    reading = asyncio.create_task(streams.read(number))
    for _ in range(steps):
        await asyncio.sleep(0)
    await streams.close(number)
    await asyncio.wait([reading])
    assert reading.exception() is None or isinstance(reading.exception(), InvalidInput)


async def test_recorded_reads_give_as_much_as_they_gave_then_and_the_progress_of_then() -> None:
    half, most = {"message": "half"}, {"message": "most"}
    recorded: list[list[JsonValue]] = [[half], [1], [2, most, 1, half]]
    told, new = [], []

    async def turn(read: PastRead) -> None:
        told.append(read.told)

    async def call(feed: Feed) -> JsonValue:
        feed.on_read = lambda events: new.append(told_by(events))
        await feed.follow([PastRead("a call", one, place) for place, one in enumerate(recorded)], turn)
        for n in range(6):
            await feed.chunk(normalise(n))
        return None

    stream = ToolStream(call)
    await anyio.sleep(0.01)
    reads = [await stream.batch() for _ in range(4)]
    await stream.aclose()
    assert [told_by(events) for events in reads] == [*recorded, [3]]
    assert [event.data for events in reads for event in events if event.kind == "chunk"] == list(range(6))
    assert (told, new) == (recorded, [[3]])


async def test_a_call_that_ends_sooner_than_it_did_ends_its_read() -> None:
    dropped: list[bool] = []

    async def call(feed: Feed) -> JsonValue:
        feed.on_drop = lambda: dropped.append(True)
        await feed.follow([PastRead("a call", [9], 0)], ignore)
        await feed.chunk(normalise(1))
        return None

    stream = ToolStream(call)
    assert [event.kind for event in await stream.batch()] == ["chunk", "done"]
    assert dropped == []
    await stream.aclose()
    assert dropped == [True]
