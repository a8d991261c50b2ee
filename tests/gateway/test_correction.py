"""Arguments that do not fit are corrected, a few times, when the host wants that; every try is recorded."""

from collections.abc import Mapping

import pytest

from gateway.base import JsonValue
from gateway.correction import MAX_CORRECTIONS, Misfit
from gateway.errors import InvalidInput, ToolFailed
from gateway.journal.base import CallFinished, Lease, Record
from gateway.journal.memory import MemoryJournal
from sandbox import AsyncExec

pytestmark = pytest.mark.anyio


class Corrector:
    """Gives these arguments one after another."""

    def __init__(self, *answers: Mapping[str, JsonValue] | None) -> None:
        self.answers = list(answers)
        self.asked: list[Misfit] = []

    async def __call__(self, misfit: Misfit) -> Mapping[str, JsonValue] | None:
        self.asked.append(misfit)
        return self.answers.pop(0)


class Host:
    def __init__(self, exec: AsyncExec) -> None:  # noqa: A002 - what it is called everywhere
        self.exec = exec
        self.ran: list[int] = []
        self.ids: set[str] = set()

        @exec.tool
        async def half(n: int) -> float:
            self.ran.append(n)
            if n == 0:
                raise ValueError("nothing to halve")
            return n / 2


async def test_a_correction_is_tried_and_recorded() -> None:
    journal = MemoryJournal()
    execution_ids: set[str] = set()
    append = journal.append

    async def noted(*records: Record, lease: Lease | None = None) -> None:
        execution_ids.update(record.execution_id for record in records)
        await append(*records, lease=lease)

    journal.append = noted  # type: ignore[method-assign]
    async with AsyncExec(journal=journal) as exec:
        host = Host(exec)
        corrector = Corrector({"n": "four"}, {"n": 4})
        assert await exec.run_tool("half", {"m": 4}, correct=corrector) == 2.0
        assert host.ran == [4]
        assert [(asked.tool_id, asked.arguments, asked.round) for asked in corrector.asked] == [
            ("half", {"m": 4}, 1),
            ("half", {"n": "four"}, 2),
        ]
        assert corrector.asked[0].error.details["errors"]
        (execution_id,) = execution_ids
        records = await journal.records(execution_id)
        assert [one.status for one in records if isinstance(one, CallFinished)] == ["failed", "failed", "completed"]


async def test_it_ends_after_two_rounds_or_when_it_gives_up() -> None:
    async with AsyncExec() as exec:
        host = Host(exec)
        stubborn = Corrector(*[{"n": "x"}] * 5)
        with pytest.raises(InvalidInput):
            await exec.run_tool("half", {}, correct=stubborn)
        assert len(stubborn.asked) == MAX_CORRECTIONS == 2
        lost = Corrector(None)
        with pytest.raises(InvalidInput):
            await exec.run_tool("half", {}, correct=lost)
        assert (len(lost.asked), host.ran) == (1, [])


async def test_nobody_is_asked_unless_arguments_do_not_fit_and_the_host_wants_it() -> None:
    async with AsyncExec() as exec:
        Host(exec)
        silent = Corrector()
        assert await exec.run_tool("half", {"n": 4}, correct=silent) == 2.0
        with pytest.raises(ToolFailed):
            await exec.run_tool("half", {"n": 0}, correct=silent)
        with pytest.raises(InvalidInput):
            await exec.run_tool("half", {})
        assert silent.asked == []
