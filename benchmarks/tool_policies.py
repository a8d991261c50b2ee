"""What policies cost a call, all together and one by one, with everything in memory and a tool that takes no time."""

from itertools import count

import anyio
import anyio.lowlevel
from figures import Figure, added, by_turns, rounds, spread

from gateway.context import Caller, ToolContext
from gateway.payload import Encoded
from gateway.pipeline import Pipeline
from gateway.policies import (
    AccessRules,
    ConcurrencyLimit,
    EgressRules,
    ExponentialRetry,
    Idempotency,
    Meter,
    Policies,
    ResultCache,
    StandardBreaker,
    TokenBucket,
)
from gateway.policies.base import Call, Policy
from gateway.providers.function import function_tool
from gateway.runner import Runner
from gateway.tools.registry import ToolRegistry
from sandbox import AsyncExec

CALLER = Caller(tenant_id="acme", user_id="ada", session_id="s1")
POLICIES = Policies(
    rate_limit=TokenBucket(calls=1e9, per_seconds=1),
    cache=ResultCache(),
    idempotency=Idempotency(),
)


ALL = Policies(
    usage=Meter(tokens="chars", per_call_usd="0.001"),
    access=AccessRules(users=frozenset({"ada"})),
    egress=EgressRules(undeclared="allow"),
    idempotency=Idempotency(),
    cache=ResultCache(),
    rate_limit=TokenBucket(calls=1e9, per_seconds=1),
    breaker=StandardBreaker(),
    retry=ExponentialRetry(),
    concurrency=ConcurrencyLimit(max_in_flight=100),
)
RUNS, DUPLICATES = 100, 50


async def find(query: str, number: int = 1) -> str:
    return f"{query} {number}"


async def proceed(_call: Call) -> Encoded:
    return Encoded("lamp", b'"lamp"')


async def measure(share: float) -> list[Figure]:
    return [*await _together(share), await _duplicates(), *await _one_by_one(share)]


async def _together(share: float) -> list[Figure]:
    """Through `run_tool`, each call with arguments of its own: none is answered from elsewhere."""
    async with AsyncExec() as host:
        host.register(
            function_tool(find, name="plain", read_only=True),
            function_tool(find, name="careful", read_only=True, policies=ALL),
        )
        numbers = count()

        async def plain() -> None:
            await host.run_tool("plain", {"query": "lamp", "number": next(numbers)}, caller=CALLER)

        async def careful() -> None:
            await host.run_tool("careful", {"query": "lamp", "number": next(numbers)}, caller=CALLER)

        without, with_all = await by_turns(rounds(5000, share), plain, careful)
    more = added(with_all, without)
    tail = sorted(more)[int(len(more) * 0.95)] * 1e6
    return [
        spread("policies: all of them on, added to a call", "µs", more, target=150),
        Figure("policies: the same, p95", "µs", tail, target=1000),
    ]


async def _duplicates() -> Figure:
    """Runs in which so many calls of one key at once were made once."""
    made = 0

    async def pay(order: int) -> int:
        nonlocal made
        await anyio.lowlevel.checkpoint()
        made += 1
        return order

    once = 0
    async with AsyncExec() as host:
        host.register(function_tool(pay, policies=Policies(idempotency=Idempotency())))
        for order in range(RUNS):
            before = made
            async with anyio.create_task_group() as tasks:
                for _ in range(DUPLICATES):
                    tasks.start_soon(host.run_tool, "pay", {"order": order})
            once += made == before + 1
    name = f"policies: of {RUNS} runs, those in which {DUPLICATES} duplicates at once were made once"
    return Figure(name, "", once, target=RUNS, more_is_better=True)


async def _one_by_one(share: float) -> list[Figure]:
    pipeline = Pipeline(Runner(ToolRegistry([function_tool(find, read_only=True, policies=POLICIES)])))
    (tool,) = pipeline.runner.registry.tools()
    limit, cache, once = (_found(pipeline.policy(tool, slot)) for slot in ("rate_limit", "cache", "idempotency"))
    numbers = count()

    def call(number: int) -> Call:
        made = Call(tool=tool, arguments={"query": "lamp", "number": number}, context=ToolContext(caller=CALLER))
        pipeline.prepare(made)
        return made

    same = call(-1)

    async def bare() -> None:
        await proceed(same)

    async def limited() -> None:
        await limit.apply(same, proceed)

    async def cached() -> None:
        await cache.apply(same, proceed)

    async def first() -> None:
        await once.apply(call(next(numbers)), proceed)

    async def replayed() -> None:
        await once.apply(same, proceed)

    base, limits, hits, firsts, replays = await by_turns(rounds(5000, share), bare, limited, cached, first, replayed)
    return [
        spread("policies: a check of a rate limit", "µs", added(limits, base), target=5),
        spread("policies: a hit in the cache", "µs", added(hits, base), target=20),
        spread("policies: a call with idempotency, its key and its record", "µs", added(firsts, base)),
        spread("policies: a replay", "µs", added(replays, base)),
    ]


def _found(policy: Policy | None) -> Policy:
    assert policy is not None
    return policy
