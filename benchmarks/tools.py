"""What a tool call costs the host: tools that do nothing, through everything that a call passes."""

from collections.abc import AsyncIterator

from figures import Figure, by_turns, rounds, spread

from gateway.providers.function import function_tool
from sandbox import AsyncExec, ChainStep, ParallelCall

CHUNKS = 100
STEPS = [ChainStep("nothing", {})] * 10
CALLS = [ParallelCall("nothing", {})] * 10


async def nothing() -> None:
    pass


async def chunks() -> AsyncIterator[int]:
    for number in range(CHUNKS):
        yield number


async def measure(share: float) -> list[Figure]:
    async with AsyncExec() as host:
        host.register(*(function_tool(tool, read_only=True) for tool in (nothing, chunks)))

        async def call() -> None:
            assert await host.run_tool("nothing") is None

        async def stream() -> None:
            assert [event.kind async for event in host.stream_tool("chunks")] == ["chunk"] * CHUNKS + ["done"]

        async def chain() -> None:
            assert all(step.ok for step in (await host.run_chain(STEPS)).steps)

        async def batch() -> None:
            assert all(outcome.ok for outcome in await host.run_parallel(CALLS))

        [called] = await by_turns(rounds(5000, share), call)
        [streamed] = await by_turns(rounds(200, share), stream)
        [chained] = await by_turns(rounds(500, share), chain)
        [batched] = await by_turns(rounds(500, share), batch)
    return [
        spread("tools: run_tool of one that does nothing", "µs", called, target=50),
        spread(f"tools: stream_tool, for each of {CHUNKS} chunks", "µs", [seconds / CHUNKS for seconds in streamed]),
        spread(f"tools: run_chain of {len(STEPS)}", "µs", chained),
        spread(f"tools: run_parallel of {len(CALLS)}", "µs", batched),
    ]
