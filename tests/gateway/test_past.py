"""Recorded calls, found again by whoever asks for the same ones, in the order in which they were answered."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from gateway.answers import chunks_of
from gateway.calls import CANCELLED, LEFT
from gateway.errors import CallNotRecorded, ProtocolError, ReplayDiverged
from gateway.journal.base import Blob, CallFinished, CallStarted, CallStatus, Record
from gateway.past import INNER, Asked, Beyond, Past, joined, past_calls
from gateway.site import MAX_READS_BYTES, MAX_SITE, MAX_TAPE_BYTES, TapeLog, checked_site

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC)


def started(index: int, site: str, tool_id: str = "a", sha256: str = "1", via: str = "run_tool") -> CallStarted:
    return CallStarted(
        execution_id="e",
        at=NOW,
        index=index,
        tool_id=tool_id,
        arguments=Blob.of_json({}),
        arguments_sha256=sha256,
        via=via,
        site=site,
    )


def finished(index: int, status: CallStatus = CallStatus.COMPLETED) -> CallFinished:
    return CallFinished(
        execution_id="e",
        at=NOW,
        index=index,
        status=status,
        result=Blob.of_json(index),
        error=None,
        attempts=1,
        duration_seconds=0.0,
    )


async def read(blob: Blob) -> bytes:
    return blob.as_bytes()


def past(*records: Record, beyond: Beyond = Beyond.DIVERGE, **options: Any) -> Past:
    return Past(past_calls(records), beyond, read, stall_seconds=0.05, **options)


def asked(site: str, tool_id: str = "a", sha256: str = "1") -> Asked:
    return Asked(site, (tool_id,), sha256)


async def test_a_call_is_found_by_its_site_whatever_comes_first() -> None:
    found = past(started(0, "r#0"), started(1, "r#1"), finished(1), finished(0))
    assert [(await found.find(asked(site))).index for site in ("r#1", "r#0")] == [1, 0]  # type: ignore[union-attr]
    found.check_complete()


async def test_without_a_site_equal_calls_are_found_in_their_order() -> None:
    found = past(started(0, "", sha256="1"), started(1, "", sha256="2"), started(2, "", sha256="1"))
    indexes = [(await found.find(asked("", sha256=one))).index for one in ("1", "1", "2")]  # type: ignore[union-attr]
    assert indexes == [0, 2, 1]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (asked("r#0", tool_id="b"), "another call at the same site"),
        (asked("r#0", sha256="2"), "another call at the same site"),
        (asked("r#1"), "not in the record"),
    ],
)
async def test_another_call_is_a_divergence(other: Asked, what: str) -> None:
    found = past(started(0, "r#0"), finished(0))
    with pytest.raises(ReplayDiverged, match=what) as raised:
        await found.find(other)
    assert found.diverged is raised.value


async def test_a_call_that_is_left_over_is_a_divergence() -> None:
    with pytest.raises(ReplayDiverged, match="1 calls were not made again"):
        past(started(0, "r#0"), finished(0)).check_complete()


async def test_answers_come_in_the_order_in_which_they_came() -> None:
    found = past(started(0, "r#0"), started(1, "r#1"), finished(1), finished(0))
    first, second = await found.find(asked("r#0")), await found.find(asked("r#1"))
    assert first is not None
    assert second is not None
    order: list[int] = []

    async def answer(call: Any) -> None:
        await found.turn(call)
        order.append(call.index)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer, first)
        tasks.start_soon(answer, second)
    assert order == [1, 0]


async def test_reads_of_streams_have_their_turn_among_the_answers() -> None:
    streams = (started(0, "r#0", via="stream_tool"), started(1, "r#1", via="stream_tool"))
    then = (replace(finished(2), reads=[[1, 1], [0, 2]]), replace(finished(1), reads=[[1, 1]]), finished(0))
    found = past(*streams, started(2, "r#2"), *then)
    first, second, call = found.calls
    told = [*first.reads, first, call, *second.reads, second]
    order: list[Any] = []

    async def tell(one: Any) -> None:
        await found.turn(one)
        order.append(one)

    async with anyio.create_task_group() as tasks:
        for one in told:
            tasks.start_soon(tell, one)
    assert order == [second.reads[0], first.reads[0], call, second.reads[1], second, first]


async def test_nothing_waits_for_a_stream_that_is_read_no_more() -> None:
    found = past(started(0, "r#0"), started(1, "r#1"), replace(finished(0), reads=[[0, 1]]), finished(1))
    stream, call = found.calls
    found.skip((*stream.reads, stream))
    await found.turn(call)


@pytest.mark.parametrize(("error", "given"), [(CANCELLED, [0, 1]), (LEFT, [0, 1, 2])])
async def test_a_stream_that_was_cut_off_gives_what_was_read_of_it(error: Any, given: list[int]) -> None:
    end = replace(finished(0, CallStatus.CANCELLED), chunks=(Blob.of_json([0, 1, 2]),), error=error, reads=[[0, 2]])
    found = past(started(0, "r#0", via="stream_tool"), end)
    assert [chunk.value for chunk in await chunks_of(found, found.calls[0])] == given


async def test_what_a_stream_told_before_may_take_its_time_again() -> None:
    stream = (started(0, "r#0", via="stream_tool"), replace(started(1, "r#1"), reads=[[0, 1]]))
    found = past(*stream, started(2, "r#2"), finished(1), finished(2), beyond=Beyond.LIVE)
    made_again, first, second = found.calls
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found.turn, second)
        await anyio.sleep(0.2)  # four times as long as a stall
        await found.turn(made_again.reads[0])
        await found.turn(first)


async def test_a_call_beyond_the_record_of_what_was_ended_is_where_it_ends() -> None:
    found = past(started(0, "r#0"), finished(0), ends=True)
    call = await found.find(asked("r#0"))
    assert call is not None
    await found.turn(call)
    ended = anyio.Event()
    found.on_end = ended.set
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found.find, asked("r#1"))
        await ended.wait()
        tasks.cancel_scope.cancel()
    assert found.diverged is None
    found = past(started(0, "r#0"), finished(0), ends=True)
    with pytest.raises(ReplayDiverged, match="not in the record"):
        await found.find(asked("r#1"))


async def test_an_answer_does_not_wait_for_ever_for_an_earlier_one() -> None:
    found = past(started(0, "r#0"), started(1, "r#1"), finished(1), finished(0))
    first = await found.find(asked("r#0"))
    assert first is not None
    with pytest.raises(ReplayDiverged, match="told earlier"):
        await found.turn(first)


async def test_a_new_call_waits_until_every_recorded_one_was_asked_for() -> None:
    found = past(started(0, "r#0"), finished(0), beyond=Beyond.LIVE)
    with pytest.raises(ReplayDiverged, match="before recorded ones"):
        await found.find(asked("r#9"))
    found = past(started(0, "r#0"), finished(0), beyond=Beyond.LIVE)
    await found.find(asked("r#0"))
    assert await found.find(asked("r#9")) is None


async def test_what_is_missing_is_noted_and_refused() -> None:
    found = past(started(0, "r#0"), finished(0), beyond=Beyond.MISSING)
    with pytest.raises(CallNotRecorded):
        await found.find(asked("r#0", sha256="2"))
    assert len(found.missing) == 1
    assert (await found.find(asked("r#7"))) is not None  # the same call elsewhere


async def test_calls_that_a_tool_made_are_not_asked_for() -> None:
    found = past(started(0, "r#0"), started(1, "", via=INNER), finished(1), finished(0))
    call = await found.find(asked("r#0"))
    assert call is not None
    await found.turn(call)
    found.check_complete()


async def test_calls_of_earlier_executions_come_first_and_are_not_own() -> None:
    earlier = [started(0, "r#0"), finished(0)]
    calls = joined([earlier], [started(0, "r#1"), finished(0)])
    assert [(call.own, call.place) for call in calls] == [(False, 0), (True, 1)]


def test_a_site_and_a_tape_have_bounds() -> None:
    assert checked_site("root.0.2#5/7") == "root.0.2#5/7"
    for wrong in ("x" * (MAX_SITE + 1), "root 0", "\n", "ROOT"):
        with pytest.raises(ProtocolError):
            checked_site(wrong)
    tape = TapeLog()
    tape.add(b"x" * MAX_TAPE_BYTES)
    assert len(tape.take()) == MAX_TAPE_BYTES
    with pytest.raises(ProtocolError):
        tape.add(b"x")


@pytest.mark.parametrize("too_much", [{"message": "x" * MAX_READS_BYTES}, {"progress": float("nan")}])
def test_nothing_is_kept_after_a_read_that_cannot_be(too_much: Any) -> None:
    tape = TapeLog()
    tape.add_read(0, [2, {"message": "half"}, 1])
    tape.add(b"x")
    tape.add_read(0, [too_much])
    tape.add(b"y")
    tape.add_read(1, [1])
    assert (tape.take(), tape.take_reads(), tape.take_reads()) == (b"x", ([0, 2, {"message": "half"}, 1],), ())
