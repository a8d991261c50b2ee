"""A host that is killed: takes up what is unfinished, then runs executions whose tool has effects in a database."""

import asyncio
import random
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from typing import TypeAlias

import anyio

from gateway.errors import SandboxError
from gateway.journal.base import ExecutionFilter
from gateway.journal.listing import UNFINISHED
from gateway.journal.sql import SqlJournal
from gateway.payload import Encoded
from gateway.policies.base import Call, Policies, Proceed
from sandbox import AsyncExec, ToolContext, durable

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
IN_FLIGHT = 40
LEASE_SECONDS = 2.0
SECONDS = 60.0


class PerCall:
    """The key of a call is its place in its execution."""

    def key(self, call: Call) -> str:
        return f"{call.context.execution_id}/{call.context.call_index}"

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        return await proceed(call)


def add_tools(exec: AsyncExec, effects: str, chance: random.Random) -> None:  # noqa: A002 - the project's name for it
    async def pause() -> None:
        await anyio.sleep(chance.random() / 50)

    @exec.tool(namespace="shop", policies=Policies(idempotency=PerCall()))
    async def take(step: int, note: str, context: ToolContext) -> int:
        """Take one thing; the database takes the same key once."""
        row = (context.idempotency_key, context.execution_id, step, note)
        await pause()
        with closing(sqlite3.connect(effects, timeout=30)) as database, database:
            database.execute("INSERT INTO effects VALUES (?, ?, ?, ?) ON CONFLICT (key) DO NOTHING", row)
        await pause()
        return step

    @exec.tool(namespace="shop", read_only=True)
    async def peek(step: int) -> int:
        """Look at one thing."""
        await pause()
        return step


Say: TypeAlias = Callable[[str], None]


def run(say: Say, url: str, effects: str, executions: int, seed: int) -> None:
    """Says `ready` when it begins, and `done` when nothing is left to do."""
    asyncio.run(main(say, url, effects, executions, seed))


def run_by_itself(say: Say, url: str, effects: str, seed: int) -> None:
    """The same with `resume="auto"`, which takes executions up; waits until there is none without an end."""
    asyncio.run(take_up_by_itself(say, url, effects, seed))


async def take_up_by_itself(say: Say, url: str, effects: str, seed: int) -> None:
    durable.LEASE_SECONDS = LEASE_SECONDS
    journal = SqlJournal(url)
    exec = AsyncExec(journal=journal, workers=1, pool_size=4, resume="auto")
    add_tools(exec, effects, random.Random(seed))  # before it starts: what it takes up calls them
    async with exec:
        say("ready")
        with anyio.fail_after(SECONDS):
            while (await journal.executions(ExecutionFilter(outcome=UNFINISHED))).executions:  # noqa: ASYNC110 - processes
                await anyio.sleep(0.05)
        say("done")


async def main(say: Say, url: str, effects: str, executions: int, seed: int) -> None:
    durable.LEASE_SECONDS = LEASE_SECONDS
    room = anyio.CapacityLimiter(IN_FLIGHT)
    journal = SqlJournal(url)
    async with AsyncExec(journal=journal, workers=1, pool_size=4) as exec:
        add_tools(exec, effects, random.Random(seed))
        say("ready")

        async def run_one(execution_id: str | None) -> None:
            async with room:
                try:
                    if execution_id is None:
                        await exec.execute_code(SNIPPET, backend="wasm")
                    else:
                        await exec.resume(execution_id)
                except SandboxError as error:
                    print(f"{error.code}: {error}", file=sys.stderr, flush=True)

        async with anyio.create_task_group() as tasks:
            lost = await journal.executions(ExecutionFilter(outcome="sandbox_lost"), limit=1000)
            for found in (*await exec.unfinished(), *lost.executions):
                tasks.start_soon(run_one, found.execution_id)
            for _ in range(executions):
                tasks.start_soon(run_one, None)
        say("done")
