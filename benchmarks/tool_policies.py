"""What the policies that remember something cost a call, with everything in memory and a tool that takes no time."""

from itertools import count

from figures import Figure, added, by_turns, rounds, spread

from gateway.context import Caller, ToolContext
from gateway.payload import Encoded
from gateway.pipeline import Pipeline
from gateway.policies import Idempotency, Policies, ResultCache, TokenBucket
from gateway.policies.base import Call, Policy
from gateway.providers.function import function_tool
from gateway.runner import Runner
from gateway.tools.registry import ToolRegistry

CALLER = Caller(tenant_id="acme", user_id="ada", session_id="s1")
POLICIES = Policies(
    rate_limit=TokenBucket(calls=1e9, per_seconds=1),
    cache=ResultCache(),
    idempotency=Idempotency(),
)


async def find(query: str, number: int = 1) -> str:
    return f"{query} {number}"


async def proceed(_call: Call) -> Encoded:
    return Encoded("lamp", b'"lamp"')


async def measure(share: float) -> list[Figure]:
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
