"""One suite for all journals: records come back as they were given, in order, each execution's by itself; chains hold;
leases are held by one."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest, LeaseHeld, LeaseLost, NotRecorded
from gateway.journal.base import (
    INLINE_BYTES,
    Blob,
    CallFinished,
    CallStarted,
    CallStatus,
    Checkpoint,
    ExecutionFilter,
    ExecutionFinished,
    ExecutionStarted,
    Journal,
    Mode,
    Record,
    RecordsPruned,
    Retention,
    arguments_sha256,
)
from gateway.journal.memory import MemoryJournal
from gateway.journal.owner import this_process
from gateway.journal.sql import SqlJournal
from tests.engines import Postgres, without_tables
from tests.gateway.journals import ended_process

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
LARGE = b"\xff" * (INLINE_BYTES + 1)
OpenJournal: TypeAlias = Callable[[], Awaitable[Journal]]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    """An empty journal of the kind under test."""
    journal: Journal
    if request.param == "memory":
        journal = MemoryJournal()
    elif request.param == "sqlite":
        journal = SqlJournal(f"sqlite:///{tmp_path}/journal.db")
    else:
        server: Postgres = request.getfixturevalue("postgres")
        await without_tables(server)
        journal = SqlJournal(server.url)
    yield journal
    await journal.aclose()


def started(execution_id: str, tenant_id: str = "acme", at: datetime = NOW) -> ExecutionStarted:
    return ExecutionStarted(
        execution_id=execution_id,
        tenant_id=tenant_id,
        at=at,
        code=Blob.of_text("print('ü')\n"),
        language="python",
        profile="standard",
        backend="wasm",
        limits={"wall_seconds": 1.0, "memory_bytes": 2**60, "tool_calls": 3},
        enforced=("memory_bytes",),
        allowed_tools=("a", "b:*"),
        caller={"user_id": "u", "extras": {"z": 1, "a": 1.0}},
        env=Blob.of_json({"NAME": "\n\t\u2028 日本"}),
        files={"data/ü.bin": Blob.of(b"\0\xff"), "large": Blob.of(LARGE)},
        environment={"toolexec": "1", "backend": "wasm"},
        seed="00" * 32,
        mode=Mode.SESSION,
        parent="before",
    )


def call(execution_id: str, index: int, tool_id: str = "math:add", tenant_id: str = "acme") -> CallStarted:
    arguments = {"ü": [1, 2.5, None, True, {"deep": "日本"}], "a": 10**30, "one": 1.0}
    return CallStarted(
        execution_id=execution_id,
        tenant_id=tenant_id,
        index=index,
        at=NOW,
        tool_id=tool_id,
        arguments=Blob.of_json(arguments),
        arguments_sha256=arguments_sha256(arguments),
        via="run_tool",
        site="main/1",
        key="k",
        warnings=("deprecated",),
    )


def answer(execution_id: str, index: int, tenant_id: str = "acme") -> CallFinished:
    return CallFinished(
        execution_id=execution_id,
        tenant_id=tenant_id,
        index=index,
        at=NOW,
        status=CallStatus.COMPLETED,
        result=Blob.of(LARGE),
        chunks=(Blob.of_json([1]), Blob.of_json([2.0])),
        error=None,
        attempts=2,
        duration_seconds=0.000025,
        usage={"decisions": ["retried"], "input_bytes": 3},
    )


def ended(execution_id: str, outcome: str = "completed", tenant_id: str = "acme") -> ExecutionFinished:
    return ExecutionFinished(
        execution_id=execution_id,
        tenant_id=tenant_id,
        at=NOW + timedelta(seconds=1),
        outcome=outcome,
        duration_seconds=1.0,
        value=Blob.of_json({"b": 1, "a": 1.0}),
        value_is_repr=True,
        error={"code": "tool_failed", "message": "no", "retryable": False, "details": {}},
        limit="tool_calls",
        exit_code=0,
        stdout=Blob.of(LARGE),
        stderr=Blob.of(b"\xf0"),
        truncated=("stdout",),
        artifacts={"a/b": Blob.of(LARGE)},
        usage={"cpu_seconds": 0.5},
        evidence={"user": 1000},
    )


def whole(execution_id: str, tenant_id: str = "acme") -> list[Record]:
    """One of each kind of record, every field set."""
    middle = [call(execution_id, 0, tenant_id=tenant_id), answer(execution_id, 0, tenant_id)]
    return [started(execution_id, tenant_id), *middle, ended(execution_id, tenant_id=tenant_id)]


# Records


async def test_records_come_back_as_they_were_given(journal: Journal) -> None:
    for record in whole("e"):
        await journal.append(record)
    found = await journal.records("e")
    assert list(found) == whole("e")
    _, first, second, _ = found
    assert isinstance(first, CallStarted)
    assert isinstance(second, CallFinished)
    assert first.arguments.data == whole("e")[1].arguments.data  # type: ignore[attr-defined]  # the order of keys too
    assert second.result is not None
    assert await journal.read(second.result) == await journal.read(second.result.without_data()) == LARGE
    assert await journal.read(first.arguments) == first.arguments.data


async def test_a_text_that_utf8_cannot_carry_is_kept_too(journal: Journal) -> None:
    odd = {"text": "a\ud800b", "\udfff": ["ü", 2**70, 1.0]}
    record = replace(ended("e"), value=Blob.of_json(odd), error={"message": "\ud800"}, evidence={"guest": odd})
    await journal.append(started("e"), record)
    found = (await journal.records("e"))[1]
    assert isinstance(found, ExecutionFinished)
    assert found.value is not None
    assert (found.value.as_json(), found.error, found.evidence) == (odd, {"message": "\ud800"}, {"guest": odd})
    assert (await journal.verify()).ok


async def test_an_unknown_execution_has_no_records(journal: Journal) -> None:
    await journal.append(call("e", 0))
    for unknown in ("", "E", "e ", "e%", "é"):
        assert list(await journal.records(unknown)) == []
        assert await journal.execution(unknown) is None


async def test_order_is_that_of_appending(journal: Journal) -> None:
    for index in (5, 3, 4, 3):
        await journal.append(call("e", index))
    assert [record.index for record in await journal.records("e") if isinstance(record, CallStarted)] == [5, 3, 4, 3]


async def test_executions_at_once_are_kept_apart(journal: Journal) -> None:
    async def write(execution_id: str) -> None:
        for index in range(20):
            await journal.append(call(execution_id, index, tenant_id=execution_id[0]))
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(write, str(number))
    for number in range(20):
        name = str(number)
        assert list(await journal.records(name)) == [call(name, index, tenant_id=name[0]) for index in range(20)]
    found = await journal.verify()
    assert (found.records, found.ok) == (400, True)


async def test_what_was_read_does_not_change(journal: Journal) -> None:
    await journal.append(call("e", 0))
    read = await journal.records("e")
    await journal.append(call("e", 1))
    assert len(read) == 1


async def test_data_kept_ahead_is_there_with_its_record(journal: Journal) -> None:
    await journal.append(call("e", 0))
    part = await journal.put("e", LARGE)
    assert part == Blob.of(LARGE)
    assert part.data is None
    await journal.append(replace(answer("e", 0), chunks=(part,)))
    _, found = await journal.records("e")
    assert isinstance(found, CallFinished)
    assert found.chunks is not None
    assert await journal.read(found.chunks[0]) == LARGE
    with pytest.raises(NotRecorded):
        await journal.put("unknown", b"")
    with pytest.raises(NotRecorded):
        await journal.read(Blob("0" * 64, 1))


async def test_closing_twice_is_fine(journal: Journal) -> None:
    await journal.append(call("e", 0))
    await journal.aclose()
    await journal.aclose()


# Lists


async def test_executions_are_listed_newest_first(journal: Journal) -> None:
    for number in range(5):
        await journal.append(started(str(number), at=NOW + timedelta(microseconds=number)))
    await journal.append(call("3", 0), answer("3", 0), call("3", 1))
    await journal.append(ended("3"))
    page = await journal.executions(limit=2)
    assert [found.execution_id for found in page.executions] == ["4", "3"]
    newest, one = page.executions
    assert (one.tenant_id, one.backend, one.profile, one.language) == ("acme", "wasm", "standard", "python")
    assert (one.mode, one.parent, one.calls, one.outcome) == ("session", "before", 2, "completed")
    assert one.started_at == NOW + timedelta(microseconds=3)
    assert one.ended_at == NOW + timedelta(seconds=1)
    assert (newest.calls, newest.outcome, newest.ended_at) == (0, "", None)
    rest = await journal.executions(limit=2, cursor=page.cursor)
    last = await journal.executions(limit=2, cursor=rest.cursor)
    assert [found.execution_id for found in (*rest.executions, *last.executions)] == ["2", "1", "0"]
    assert last.cursor is None
    assert await journal.execution("3") == one


async def test_an_execution_may_go_on_after_its_end(journal: Journal) -> None:
    await journal.append(started("e"), call("e", 0), ended("e", "suspended"))
    await journal.append(replace(started("e", at=NOW + timedelta(hours=1)), mode=Mode.RESUME, backend="docker"))
    found = await journal.execution("e")
    assert found is not None
    assert (found.outcome, found.ended_at, found.mode, found.backend) == ("", None, "resume", "docker")
    assert (found.started_at, found.calls) == (NOW, 1)
    assert (await journal.verify()).findings == ()
    await journal.append(ended("e"))
    found = await journal.execution("e")
    assert found is not None
    assert found.outcome == "completed"
    assert (await journal.verify()).findings == ()


@pytest.mark.parametrize(
    ("which", "found"),
    [
        (ExecutionFilter(tenant_id="acme"), {"a", "b", "h"}),
        (ExecutionFilter(tenant_id="acm"), set()),
        (ExecutionFilter(tenant_id=""), {"c"}),
        (ExecutionFilter(tool_id="math:add"), {"a", "h"}),
        (ExecutionFilter(tool_id="math:*"), {"a", "h"}),
        (ExecutionFilter(tool_id="mat:*"), set()),
        (ExecutionFilter(tool_id="math:a"), set()),
        (ExecutionFilter(tool_id="%"), set()),
        (ExecutionFilter(outcome="completed"), {"a"}),
        (ExecutionFilter(outcome="unfinished"), {"b", "c"}),
        (ExecutionFilter(since=NOW + timedelta(seconds=1)), {"b", "c"}),
        (ExecutionFilter(until=NOW + timedelta(seconds=1)), {"a", "h"}),
        (ExecutionFilter(tenant_id="acme", outcome="unfinished", since=NOW), {"b"}),
    ],
)
async def test_lists_are_filtered(journal: Journal, which: ExecutionFilter, found: set[str]) -> None:
    await journal.append(started("a"), call("a", 0), ended("a"))
    await journal.append(started("b", at=NOW + timedelta(seconds=1)), call("b", 0, "math2:add"))
    await journal.append(started("c", "", at=NOW + timedelta(seconds=2)))
    await journal.append(call("h", 0))  # of the host itself
    assert {one.execution_id for one in (await journal.executions(which)).executions} == found


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_has_bounds(journal: Journal, limit: int) -> None:
    with pytest.raises(InvalidRequest, match="1 to 1000"):
        await journal.executions(limit=limit)


@pytest.mark.parametrize("cursor", ["", "x", "1", "x.e", "'; --"])
async def test_a_cursor_of_somebody_elses_is_refused(journal: Journal, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        await journal.executions(cursor=cursor)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="time zone"):
        ExecutionFilter(since=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


async def test_an_execution_that_goes_on_in_the_same_step_has_not_ended(journal: Journal) -> None:
    *_, last = whole("e")
    assert isinstance(last, ExecutionFinished)
    await journal.append(started("e"))
    await journal.append(last, replace(started("e"), mode=Mode.RESUME))
    found = await journal.execution("e")
    assert found is not None
    assert (found.mode, found.outcome) == (Mode.RESUME, "")
    await journal.append(replace(started("e"), mode=Mode.RESUME), last)
    found = await journal.execution("e")
    assert found is not None
    assert found.outcome == last.outcome
    assert (await journal.verify()).ok


# Leases


async def test_one_owner_has_an_execution(journal: Journal) -> None:
    await journal.append(started("e"))
    lease = await journal.lease("e", "one", 60)
    with pytest.raises(LeaseHeld, match="'one'"):
        await journal.lease("e", "two", 60)
    assert (await journal.lease("e", "one", 60)).token == lease.token
    assert (await journal.renew(lease, 60)).token == lease.token
    await journal.append(call("e", 0), lease=lease)
    await journal.release(lease)
    other = await journal.lease("e", "two", 60)
    assert other.token > lease.token
    with pytest.raises(LeaseLost):
        await journal.renew(lease, 60)
    await journal.release(lease)  # another's now, and stays
    with pytest.raises(LeaseHeld):
        await journal.lease("e", "one", 60)


async def test_only_the_holder_writes_of_a_leased_execution(journal: Journal) -> None:
    await journal.append(started("e"), started("other"))
    old = await journal.lease("e", "one", 60)
    await journal.release(old)
    new = await journal.lease("e", "two", 60)
    for lost in (None, old):
        with pytest.raises(LeaseLost):
            await journal.append(started("unseen"), call("e", 0), lease=lost)
    assert await journal.execution("unseen") is None
    await journal.append(call("e", 0), lease=new)
    await journal.append(call("other", 0))
    await journal.release(new)
    with pytest.raises(LeaseLost):
        await journal.append(call("e", 1), lease=new)
    assert len(await journal.records("e")) == 2
    assert (await journal.verify()).ok


async def test_a_lease_runs_out(journal: Journal) -> None:
    await journal.append(started("e"))
    lease = await journal.lease("e", "one", 0.05)
    await anyio.sleep(0.1)
    with pytest.raises(LeaseLost):
        await journal.append(call("e", 0), lease=lease)
    with pytest.raises(LeaseLost):
        await journal.renew(lease, 60)
    assert (await journal.lease("e", "two", 60)).token > lease.token


async def test_a_process_that_has_ended_holds_nothing(journal: Journal) -> None:
    await journal.append(started("e"), started("f"))
    lost = await journal.lease("e", f"{ended_process()}-0", 60)
    await journal.append(call("e", 0), lease=lost)
    new = await journal.lease("e", "another", 60)
    assert new.token > lost.token
    with pytest.raises(LeaseLost):
        await journal.append(call("e", 1), lease=lost)
    await journal.append(call("e", 1), lease=new)
    for look_alike in (f"{this_process()}-0", "gone", ended_process().partition(":")[2], f":{ended_process()}"):
        lease = await journal.lease("f", look_alike, 60)
        with pytest.raises(LeaseHeld):
            await journal.lease("f", "another", 60)
        await journal.release(lease)


@pytest.mark.parametrize("ttl_seconds", [0, -1, float("inf"), float("nan")])
async def test_a_lease_is_for_some_time(journal: Journal, ttl_seconds: float) -> None:
    with pytest.raises(InvalidRequest, match="ttl_seconds"):
        await journal.lease("e", "one", ttl_seconds)


# Chains


async def test_each_tenant_has_a_chain(journal: Journal) -> None:
    await journal.append(*whole("e"))
    await journal.append(*whole("f", "other"), *whole("g"))
    found = await journal.verify()
    assert (found.records, found.findings) == (12, ())
    assert {head.tenant_id: head.sequence for head in found.heads} == {"acme": 8, "other": 4}
    await journal.append(call("e", 1))
    assert (await journal.verify(found.heads)).ok


async def test_a_checkpoint_tells_another_chain(journal: Journal) -> None:
    await journal.append(*whole("e"))
    (head,) = (await journal.verify()).heads
    for wrong, what in (
        (replace(head, hash="0" * 64), "another one"),
        (Checkpoint("acme", 9, head.hash), "ends at 4"),
        (Checkpoint("gone", 1, head.hash), "whole chain is missing"),
    ):
        (finding,) = (await journal.verify([wrong])).findings
        assert finding.sequence == wrong.sequence
        assert what in finding.what


async def test_retention_deletes_and_says_so(journal: Journal) -> None:
    for name in ("a", "b"):
        await journal.append(*whole(name))
    await journal.append(started("open"))
    await journal.append(*whole("c"), *whole("o", "other"))
    await journal.append(call("h", 0), answer("h", 0))
    before = await journal.verify()
    gone = await journal.prune(Retention(older_than=timedelta(days=1), tenant_id="acme", reason="spring"))
    assert (gone.executions, gone.records) == (4, 14)
    assert [found.execution_id for found in (await journal.executions()).executions] == ["open", "o"]
    for name in ("a", "b", "c", "h"):
        assert list(await journal.records(name)) == []
    assert list(await journal.records("o")) == whole("o", "other")
    after = await journal.verify()
    assert after.findings == ()
    assert {head.tenant_id for head in after.heads} == {head.tenant_id for head in before.heads}
    *_, note = await journal.records("")
    assert isinstance(note, RecordsPruned)
    assert (note.reason, note.tenant_id, note.executions) == ("spring", "acme", 4)
    # The data that another execution shares with them is still there.
    assert await journal.read(Blob.of(LARGE).without_data()) == LARGE


async def test_retention_again_and_again(journal: Journal) -> None:
    sequence = 0
    for number in range(4):
        await journal.append(*whole(f"e{number}"))
        (head,) = (await journal.verify()).heads
        assert head.sequence == sequence + 4
        assert (await journal.prune(Retention(older_than=timedelta(0)))).executions == 1
        found = await journal.verify([head])
        assert found.findings == ()
        sequence = found.heads[0].sequence
        assert sequence == head.sequence + 1
    gone = await journal.prune(Retention(older_than=timedelta(0)))
    assert (gone.executions, gone.records) == (0, 0)
    with pytest.raises(NotRecorded):
        await journal.read(Blob.of(LARGE).without_data())


async def test_what_waits_for_a_person_stays_unless_it_is_asked_for(journal: Journal) -> None:
    *records, last = whole("e")
    assert isinstance(last, ExecutionFinished)
    await journal.append(*records, replace(last, outcome="suspended"))
    everything = Retention(older_than=timedelta(0))
    assert (await journal.prune(everything)).executions == 0
    assert (await journal.prune(replace(everything, suspended=True))).executions == 1
    assert (await journal.verify()).ok


async def test_what_is_young_or_unfinished_stays(journal: Journal) -> None:
    await journal.append(started("open"), call("h", 0))
    await journal.append(replace(started("new"), at=datetime.now(UTC)), replace(ended("new"), at=datetime.now(UTC)))
    assert (await journal.prune(Retention(older_than=timedelta(hours=1)))).executions == 0
    assert len((await journal.executions()).executions) == 3
    with pytest.raises(InvalidRequest, match="older_than"):
        Retention(older_than=timedelta(seconds=-1))


_NAMES = itertools.count()
_TENANTS = st.sampled_from(["", "acme", 'q"\\', "日本\U0001f600"])
_STEPS = st.lists(st.tuples(st.sampled_from(["whole", "open", "prune", "host"]), _TENANTS), max_size=12)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_chains_hold_whatever_is_kept_and_deleted(steps: list[tuple[str, str]], tmp_path: Path) -> None:
    async def main() -> None:
        journal = SqlJournal(f"sqlite:///{tmp_path}/{next(_NAMES)}.db")
        for number, (step, tenant_id) in enumerate(steps):
            if step == "prune":
                await journal.prune(Retention(older_than=timedelta(0), tenant_id=tenant_id))
            else:
                records = whole(str(number), tenant_id)
                kept = {"whole": records, "open": records[:2], "host": records[1:3]}[step]
                await journal.append(*kept)
        assert (await journal.verify()).findings == ()
        await journal.aclose()

    anyio.run(main)


# What only the journal in memory does


async def test_memory_keeps_the_newest_executions() -> None:
    journal = MemoryJournal(max_executions=2)
    for execution_id in ("a", "b", "a", "c"):
        await journal.append(call(execution_id, 0))
    assert [len(await journal.records(name)) for name in ("a", "b", "c")] == [0, 1, 1]
    assert (await journal.verify()).ok


async def test_memory_holds_so_many_bytes() -> None:
    journal = MemoryJournal(max_bytes=3 * len(LARGE))
    for number in range(10):
        await journal.append(*whole(str(number)))
    kept = [found.execution_id for found in (await journal.executions()).executions]
    assert 0 < len(kept) < 10
    assert "9" in kept
    assert (await journal.verify()).ok


@pytest.mark.parametrize("bound", [0, -1])
def test_memory_of_nothing_is_an_error(bound: int) -> None:
    with pytest.raises(InvalidRequest, match="at least 1"):
        MemoryJournal(bound)
    with pytest.raises(InvalidRequest, match="at least 1"):
        MemoryJournal(max_bytes=bound)
