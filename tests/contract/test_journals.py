"""One suite for all journals: records come back as they were given, in order, each execution's by itself."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

import anyio
import pytest

from gateway.errors import InvalidRequest
from gateway.journal.base import (
    Blob,
    CallFinished,
    CallStarted,
    CallStatus,
    ExecutionFinished,
    ExecutionStarted,
    Journal,
    Record,
)
from gateway.journal.memory import MemoryJournal

pytestmark = pytest.mark.anyio

MakeJournal: TypeAlias = Callable[[], Journal]
NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


@pytest.fixture(params=[MemoryJournal], ids=["memory"])
def make_journal(request: pytest.FixtureRequest) -> MakeJournal:
    """Makes an empty journal of the kind under test."""
    make: MakeJournal = request.param
    return make


def call(execution_id: str, index: int) -> CallStarted:
    arguments = {"ü": [1, 2.5, None, True, {"deep": "日本"}]}
    return CallStarted(
        execution_id=execution_id,
        index=index,
        at=NOW,
        tool_id="math:add",
        arguments=Blob.of_json(arguments),
        via="run_tool",
    )


def whole(execution_id: str) -> list[Record]:
    """One of each kind of record."""
    return [
        ExecutionStarted(
            execution_id=execution_id,
            at=NOW,
            code=Blob.of_text("print('ü')\n"),
            language="python",
            profile="standard",
            backend="wasm",
            limits={"wall_seconds": 1.5, "memory_bytes": 2**40},
            allowed_tools=("a", "b:*"),
        ),
        call(execution_id, 0),
        CallFinished(
            execution_id=execution_id,
            index=0,
            at=NOW,
            status=CallStatus.FAILED,
            result=None,
            error={"code": "tool_failed", "message": "no", "retryable": False, "details": {}},
            attempts=1,
            duration_seconds=0.25,
        ),
        ExecutionFinished(
            execution_id=execution_id, at=NOW, outcome="completed", duration_seconds=1.0, evidence={"user": 1000}
        ),
    ]


async def test_records_come_back_as_they_were_given(make_journal: MakeJournal) -> None:
    journal = make_journal()
    for record in whole("e"):
        await journal.append(record)
    assert list(await journal.records("e")) == whole("e")
    await journal.aclose()


async def test_an_unknown_execution_has_no_records(make_journal: MakeJournal) -> None:
    journal = make_journal()
    await journal.append(call("e", 0))
    for unknown in ("", "E", "e ", "e%", "é"):
        assert list(await journal.records(unknown)) == []
    await journal.aclose()


async def test_order_is_that_of_appending(make_journal: MakeJournal) -> None:
    journal = make_journal()
    for index in (5, 3, 4, 3):
        await journal.append(call("e", index))
    assert [record.index for record in await journal.records("e") if isinstance(record, CallStarted)] == [5, 3, 4, 3]
    await journal.aclose()


async def test_executions_at_once_are_kept_apart(make_journal: MakeJournal) -> None:
    journal = make_journal()

    async def write(execution_id: str) -> None:
        for index in range(20):
            await journal.append(call(execution_id, index))
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(write, str(number))
    for number in range(20):
        assert list(await journal.records(str(number))) == [call(str(number), index) for index in range(20)]
    await journal.aclose()


async def test_what_was_read_does_not_change(make_journal: MakeJournal) -> None:
    journal = make_journal()
    await journal.append(call("e", 0))
    read = await journal.records("e")
    await journal.append(call("e", 1))
    assert len(read) == 1
    await journal.aclose()


async def test_closing_twice_is_fine(make_journal: MakeJournal) -> None:
    journal = make_journal()
    await journal.aclose()
    await journal.aclose()


# What only the journal in memory does


async def test_memory_keeps_the_newest_executions() -> None:
    journal = MemoryJournal(max_executions=2)
    for execution_id in ("a", "b", "a", "c"):
        await journal.append(call(execution_id, 0))
    assert [len(await journal.records(name)) for name in ("a", "b", "c")] == [0, 1, 1]


@pytest.mark.parametrize("bound", [0, -1])
def test_memory_of_nothing_is_an_error(bound: int) -> None:
    with pytest.raises(InvalidRequest, match="at least 1"):
        MemoryJournal(bound)
