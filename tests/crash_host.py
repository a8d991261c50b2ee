"""Hosts that are killed: each takes up what is unfinished, and runs executions whose tool has effects in a database.

`python -m tests.crash_host` imports what they need, once, and forks a host for each line it is given: the fields of a
`Work` as JSON. A host says its pid, `ready` when its Exec is there, `at work` when a tool is called for the first time,
what went wrong, and `done` when nothing is left to do. `over` is said when it has ended, in whatever way.
"""

import asyncio
import gc
import json
import os
import random
import signal
import sqlite3
import sys
import traceback
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Literal

import anyio

import gateway.journal.postgres  # noqa: F401 - the forks shall not each import it
import sandbox.config  # noqa: F401 - likewise
from gateway.errors import SandboxError
from gateway.journal.base import ExecutionFilter
from gateway.journal.listing import UNFINISHED
from gateway.journal.sql import SqlJournal
from gateway.payload import Encoded
from gateway.policies.base import Call, Policies, Proceed
from runtimes.mock import MockBackend, MockGuest
from sandbox import AsyncExec, ToolContext, durable
from sandbox.runtime import installed_backends

SNIPPET = """
import asyncio, random, time, uuid
order = list(range(1, 6))
random.shuffle(order)
for step in order[:2]:
    tools.shop.take(step=step, note=str(uuid.uuid4()))
async def one(step):
    await asyncio.sleep(random.random() / 100)
    await tools.aio.shop.peek(step=step)
    return await tools.aio.shop.take(step=step, note=str(time.time()))
await asyncio.gather(*map(one, order[2:]))
tools.run_parallel([("shop:take", {"step": step, "note": ""}) for step in (6, 7)])
sorted(order)
"""
STEPS = 7
SECONDS = 60.0
"""How long a host may live."""

LOST = ("sandbox_lost", "journal_unavailable", "lease_lost")
"""Ends of executions that may be taken up, and that `unfinished` does not list."""


@dataclass(frozen=True, slots=True)
class Work:
    """`executions` are under way at once, with those that are taken up. With `auto` none is begun: `resume="auto"`
    takes up what there is, and the host waits until there is none without an end."""

    url: str
    effects: str
    executions: int
    seed: int
    backend: str = "wasm"
    auto: bool = False
    lease_seconds: float = 2.0


class PerCall:
    """The key of a call is its place in its execution."""

    def key(self, call: Call) -> str:
        return f"{call.context.execution_id}/{call.context.call_index}"

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        return await proceed(call)


async def script(guest: MockGuest) -> list[int]:
    """What SNIPPET does, in a guest that starts at once."""
    for step in (1, 2):
        await guest.run_tool("shop:take", {"step": step, "note": "in sequence"})
        await anyio.sleep(0.005)  # it thinks

    async def one(step: int) -> None:
        await guest.run_tool("shop:peek", {"step": step})
        await guest.run_tool("shop:take", {"step": step, "note": "at once"})

    async with anyio.create_task_group() as tasks:
        for step in (3, 4, 5):
            tasks.start_soon(one, step)
    calls = [{"tool_id": "shop:take", "arguments": {"step": step, "note": ""}} for step in (6, 7)]
    await guest.ask("run_parallel", {"calls": calls})
    await anyio.sleep(0.01)
    return [1, 2, 3, 4, 5]


def say(what: object) -> None:
    print(what, flush=True)


def add_tools(exec: AsyncExec, effects: str, chance: random.Random) -> None:  # noqa: A002 - the project's name for it
    said: list[str] = []

    async def pause() -> None:
        if not said:
            said.append("at work")
            say(said[0])
        await anyio.sleep(chance.random() / 100)

    @exec.tool(namespace="shop", policies=Policies(idempotency=PerCall()))
    async def take(step: int, note: str, context: ToolContext) -> int:
        """Take one thing; the database takes the same key once, and counts how often it came."""
        row = (context.idempotency_key, context.execution_id, step, note)
        await pause()
        with closing(sqlite3.connect(effects, timeout=30)) as database, database:
            database.execute("PRAGMA synchronous=OFF")  # hosts are killed here, and never the machine
            database.execute(
                "INSERT INTO effects VALUES (?, ?, ?, ?, 1) ON CONFLICT (key) DO UPDATE SET asked = asked + 1", row
            )
        await pause()
        return step

    @exec.tool(namespace="shop", read_only=True)
    async def peek(step: int) -> int:
        """Look at one thing."""
        await pause()
        return step


async def take_up_by_itself(exec: AsyncExec) -> None:  # noqa: A002 - as above
    with anyio.fail_after(SECONDS):
        while (await exec.journal.executions(ExecutionFilter(outcome=UNFINISHED))).executions:  # noqa: ASYNC110 - processes
            await anyio.sleep(0.05)


async def do_all(exec: AsyncExec, work: Work) -> None:  # noqa: A002 - as above
    room = anyio.CapacityLimiter(max(work.executions, 10))

    async def run_one(execution_id: str | None) -> None:
        async with room:
            try:
                if execution_id is None:
                    await exec.execute_code(SNIPPET, backend=work.backend)
                else:
                    await exec.resume(execution_id)
            except SandboxError as error:
                say(f"{error.code}: {error}")

    found = [*await exec.unfinished()]
    for outcome in LOST:
        found += (await exec.journal.executions(ExecutionFilter(outcome=outcome), limit=1000)).executions
    async with anyio.create_task_group() as tasks:
        for one in found:
            tasks.start_soon(run_one, one.execution_id)
        for _ in range(work.executions - len(found)):
            tasks.start_soon(run_one, None)


async def live(work: Work) -> None:
    durable.LEASE_SECONDS = work.lease_seconds
    backends = {"mock": MockBackend.scripted(script)} if work.backend == "mock" else installed_backends()
    resume: Literal["auto"] | None = "auto" if work.auto else None
    exec = AsyncExec(journal=SqlJournal(work.url), backends=backends, workers=1, pool_size=4, resume=resume)
    add_tools(exec, work.effects, random.Random(work.seed))  # before it starts: what it takes up calls them
    async with exec:
        say("ready")
        await (take_up_by_itself(exec) if work.auto else do_all(exec, work))
        say("done")


def fork(work: Work) -> None:
    if (child := os.fork()) == 0:
        signal.alarm(round(2 * SECONDS))  # one that hangs dies
        try:
            say(os.getpid())
            asyncio.run(live(work))
        except BaseException:  # noqa: BLE001 - nothing of it may go on in the fork
            say(traceback.format_exc())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    say("over")


if __name__ == "__main__":
    gc.freeze()  # so that a fork does not copy all there is when it collects
    for line in map(json.loads, iter(partial(sys.stdin.readline), "")):
        fork(Work(**line))
