"""Streams as one guest reads them, when what it asks for comes together."""

import asyncio
import functools
import math
import threading

import anyio
import anyio.to_thread
import pytest

from gateway.base import CallOutcome, JsonValue, ToolEvent
from gateway.context import Progress
from gateway.errors import InvalidInput
from gateway.payload import normalise
from gateway.reads import PastRead, told_by
from gateway.streaming import ChainFeed, Feed, Streams, ToolStream

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
        feed.on_drop.append(lambda: dropped.append(True))
        await feed.follow([PastRead("a call", [9], 0)], ignore)
        await feed.chunk(normalise(1))
        return None

    stream = ToolStream(call)
    assert [event.kind for event in await stream.batch()] == ["chunk", "done"]
    assert dropped == []
    await stream.aclose()
    assert dropped == [True]


async def test_a_step_begins_when_its_reader_has_taken_those_before_and_asks_for_more() -> None:
    begun: list[int] = []

    async def run(feed: Feed) -> JsonValue:
        chain = ChainFeed(feed, 3)
        for number in range(3):
            await chain.wanted()
            begun.append(number)
            chain.report(Progress("half", 1, 2))
            await chain.ended(CallOutcome("t", ok=True, value=number))
        return 7

    stream = ToolStream(run)
    events: list[ToolEvent] = []
    after_chunk: list[int] = []
    while not events or events[-1].kind != "done":
        events += await stream.batch()
        await anyio.sleep(0.01)
        if events[-1].kind == "chunk":
            after_chunk.append(len(begun))
    await stream.aclose()
    assert after_chunk[:2] == [1, 2]
    steps = [["progress", "progress", "chunk"]] * 3
    assert [event.kind for event in events] == [kind for kinds in steps for kind in kinds] + ["done"]
    assert [event.data["progress"] for event in events if event.kind == "progress"] == [0.5, 1, 1.5, 2, 2.5, 3]
    assert events[-1].data == 7


async def test_what_a_step_reports_after_its_end_is_not_told() -> None:
    async def run(feed: Feed) -> JsonValue:
        chain = ChainFeed(feed, 2)
        await anyio.to_thread.run_sync(chain.report, Progress("in time", 1, 4))
        late = functools.partial(chain.report, Progress("late", 1, 4))
        thread = threading.Thread(target=late)
        thread.start()
        thread.join()  # the loop has not heard of it yet
        await chain.ended(CallOutcome("t", ok=True))
        return None

    stream = ToolStream(run)
    events: list[ToolEvent] = []
    while not events or events[-1].kind != "done":
        events += await stream.batch()
    await stream.aclose()
    assert [event.data["message"] for event in events if event.kind == "progress"] == ["in time", "t completed"]


async def test_shares_of_a_step_stay_within_it() -> None:
    told: list[JsonValue] = []

    async def run(feed: Feed) -> JsonValue:
        chain = ChainFeed(feed, 2)
        for progress, total in ((3, 2), (-1, 2), (1, 0), (None, 2), (1, None), (math.nan, 2)):
            chain.report(Progress("", progress, total))
        return None

    stream = ToolStream(run)
    while events := await stream.batch():
        told += [event.data["progress"] for event in events if event.kind == "progress"]
    await stream.aclose()
    assert told == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
