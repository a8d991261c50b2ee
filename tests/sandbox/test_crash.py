"""A host killed at any moment of executions that have effects: what is taken up again ends, once, with all its effects.

The moments come from a seed, which is printed; TOOLEXEC_CRASH_SEED sets it.
"""

import os
import random
import sqlite3
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import anyio
import pytest

from gateway.journal.base import CallFinished, CallStarted, ExecutionFinished, ExecutionStarted, Mode, Record
from tests.crash_host import STEPS, Work
from tests.crashing import Host, Template, all_records, check, end_all, in_sqlite, new_template, opened, some_effects
from tests.engines import Postgres

pytestmark = [pytest.mark.anyio, pytest.mark.alone, pytest.mark.timeout(300)]

SEED = int(os.environ.get("TOOLEXEC_CRASH_SEED", "7"))

KILLS = 200
KILLS_IN_POSTGRES = 40
KILLS_OF_WASM = 10
"""How many hosts are killed, at the least, with executions under way that they had begun or taken up."""

EARLY = 0.06
"""The part of the hosts that are killed while they start."""

IN_FLIGHT = 4
LEASE_SECONDS = 0.5
"""Until what a killed host had taken up may be taken up by another."""


async def test_whatever_was_cut_off_ends_with_every_effect_once(template: Template, effects: Path) -> None:
    work = Work(in_sqlite(effects), str(effects), IN_FLIGHT, SEED, "mock", lease_seconds=LEASE_SECONDS)
    moments = await crash(template, work, KILLS)
    assert set(moments) == set(MOMENTS), moments


async def test_the_same_in_postgres(template: Template, effects: Path, journal_server: Postgres) -> None:
    work = Work(journal_server.url, str(effects), IN_FLIGHT, SEED, "mock", lease_seconds=LEASE_SECONDS)
    await crash(template, work, KILLS_IN_POSTGRES)


@pytest.mark.usefixtures("guest")
async def test_the_same_of_guests_in_wasm(template: Template, effects: Path) -> None:
    await crash(template, Work(in_sqlite(effects), str(effects), 10, SEED), KILLS_OF_WASM)


@pytest.mark.usefixtures("guest")
async def test_a_host_takes_up_by_itself_what_another_one_left(template: Template, effects: Path) -> None:
    url = in_sqlite(effects)
    left = await leave(template, url, effects)
    await by_itself(url, effects, [template])
    await check(url, effects)
    assert await resumptions(url) == dict.fromkeys(left, 1)


@pytest.mark.usefixtures("guest")
async def test_two_hosts_that_take_up_by_themselves_share_what_there_is(
    template: Template, effects: Path, journal_server: Postgres
) -> None:
    left = await leave(template, journal_server.url, effects)
    with new_template() as other:
        await by_itself(journal_server.url, effects, [template, other])
    await check(journal_server.url, effects)
    assert await resumptions(journal_server.url) == dict.fromkeys(left, 1)


async def crash(template: Template, work: Work, wanted: int) -> Counter[str]:
    """Kill so many hosts; what is left must end as it should. How many kills came at which moments."""
    print(f"TOOLEXEC_CRASH_SEED={SEED}")
    killed = await kill_hosts(template, work, random.Random(SEED), wanted)
    await end_all(template, work)
    await check(work.url, Path(work.effects))
    at = await moments_of(killed, work)
    counts = Counter(moment for moments in at for moment in moments)
    cut_off = sum(moments != {NOTHING} for moments in at)
    print(f"{len(at)} kills, {cut_off} of hosts with executions under way:", dict(counts))
    assert cut_off >= wanted
    return counts


async def kill_hosts(template: Template, work: Work, chance: random.Random, wanted: int) -> list[Host]:
    """At any moment between the start of a host and its end. Some are killed before they have begun anything, or when
    all is done; those are not counted here."""
    until_work, until_done = await times_of_a_run(template, work)
    killed: list[Host] = []
    while sum(host.was_at_work for host in killed) < 1.3 * wanted:  # some had just ended the last one
        host = await template.start(replace(work, seed=chance.randrange(1 << 30)))
        if chance.random() < EARLY:
            await anyio.sleep(chance.uniform(0, until_work))
            await host.die()
        else:
            await host.work()
            await anyio.sleep(chance.uniform(0, until_done))
            await host.die()
            until_done *= 1.02 if host.was_at_work else 0.8  # how busy this machine is changes
        killed.append(host)
        assert len(killed) < 10 * wanted, "hosts do not come to work"
    return killed


async def times_of_a_run(template: Template, work: Work) -> tuple[float, float]:
    """Seconds until a host is at work, and from there to its end, when it is not killed."""
    for _ in range(2):  # the first one finds nothing in caches
        host = await template.start(work)
        begun = time.monotonic()
        await host.work()
        at_work = time.monotonic()
        await host.end()
    return at_work - begun, time.monotonic() - at_work


# The moments of a kill, of each execution that was under way

NOTHING = "nothing under way"
BEFORE = "before an effect"
AFTER = "between an effect and its record"
BETWEEN = "between calls"
LAST = "after the last call"
TAKEN_UP = "while taken up"
MOMENTS = (NOTHING, BEFORE, AFTER, BETWEEN, LAST, TAKEN_UP)


async def moments_of(killed: Sequence[Host], work: Work) -> list[set[str]]:
    """At which moments each kill came, as the records and the effects tell."""
    found: list[set[str]] = [set() for _ in killed]
    began = [host.began for host in killed]
    with closing(sqlite3.connect(work.effects)) as database:
        asked = dict(database.execute("SELECT key, asked FROM effects").fetchall())
    for execution_id, records in (await records_in(work.url)).items():
        again = {index for index in range(len(records)) if asked.get(f"{execution_id}/{index}", 0) > 1}
        for began_at, moments in cuts(records, again):
            number = bisect_right(began, began_at) - 1
            if number >= 0 and began_at <= killed[number].killed:
                found[number] |= moments
    return [moments or {NOTHING} for moments in found]


def cuts(records: Iterable[Record], again: set[int]) -> Iterator[tuple[datetime, set[str]]]:
    """When each run began that was cut off, and at which moments. `again` are the calls that were made again after they
    had their effect."""
    run: ExecutionStarted | None = None
    begun: set[int] = set()
    over: set[int] = set()
    for record in records:
        if isinstance(record, ExecutionStarted):
            if run is not None:
                yield run.at, moments_at(run, begun - over, len(over), again)
            run = record
        elif isinstance(record, ExecutionFinished):
            run = None
        elif isinstance(record, CallStarted) and record.tool_id == "shop:take":
            begun.add(record.index)
        elif isinstance(record, CallFinished) and record.index in begun:
            over.add(record.index)


def moments_at(run: ExecutionStarted, at_work: set[int], over: int, again: set[int]) -> set[str]:
    moments = {AFTER if index in again else BEFORE for index in at_work} or {LAST if over == STEPS else BETWEEN}
    return moments | {TAKEN_UP} if run.mode is Mode.RESUME else moments


async def records_in(url: str) -> dict[str, list[Record]]:
    async with opened(url) as journal:
        return await all_records(journal)


async def leave(template: Template, url: str, effects: Path) -> set[str]:
    """Executions whose host was killed in their middle."""
    host = await template.start(Work(url, str(effects), 10, SEED))
    await some_effects(effects, 15)
    await host.die()
    async with opened(url) as journal:
        left = {one.execution_id for one in await journal.unfinished()}
    assert left
    return left


async def by_itself(url: str, effects: Path, templates: Iterable[Template]) -> None:
    """Hosts with `resume="auto"`, at the same time, until nothing is left."""

    async def live(template: Template) -> None:
        await (await template.start(Work(url, str(effects), 0, SEED, auto=True))).end()

    async with anyio.create_task_group() as tasks:
        for template in templates:
            tasks.start_soon(live, template)


async def resumptions(url: str) -> dict[str, int]:
    """How often each execution was taken up, of those that were."""
    found: Counter[str] = Counter()
    for execution_id, records in (await records_in(url)).items():
        found[execution_id] += sum(isinstance(one, ExecutionStarted) and one.mode is Mode.RESUME for one in records)
    return dict(+found)
