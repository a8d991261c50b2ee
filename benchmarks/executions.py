"""Executions and tool calls on any backend, and commands beside them."""

import asyncio
import shutil
import subprocess
from typing import Any

from figures import Figure, left_out, spread, timed, timed_sync

from sandbox import AsyncExec

SETTLE_SECONDS = 60.0
WARM_UP_CALLS = 500
"""Not counted: the machine wakes up, and the place of the sandbox that was claimed is taken by a new one."""


async def one_after_another(host: AsyncExec, count: int, pause_seconds: float, **options: Any) -> list[float]:
    async def once() -> None:
        result = await host.execute_code("1 + 1", **options)
        assert result.value == 2, result

    seconds = []
    for _ in range(count):
        seconds.append(await timed(once))
        await asyncio.sleep(pause_seconds)
    return seconds


async def settled(host: AsyncExec, **options: Any) -> None:
    """Start everything, and wait until the pools are full: what fills them takes time from what is measured."""
    await host.execute_code("1", **options)
    async with asyncio.timeout(SETTLE_SECONDS):
        while True:
            if all(pool.ready >= pool.size for pool in await host.pool_metrics()):
                break
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)


async def tool_calls(name: str, count: int, target: float, **options: Any) -> Figure:
    """One after the other, timed by the guest."""
    code = f"""
        import time
        seconds = []
        for i in range({WARM_UP_CALLS + count}):
            started = time.perf_counter()
            tools.add(a=i, b=1)
            seconds.append(time.perf_counter() - started)
        seconds[{WARM_UP_CALLS}:]
    """
    async with AsyncExec(limits={"tool_calls": WARM_UP_CALLS + count}) as host:

        @host.tool
        async def add(a: int, b: int) -> int:
            return a + b

        await settled(host, **options)
        result = await host.execute_code(code, **options)
    return spread(name, "µs", result.value, target)


def reference(name: str, argv: tuple[str, ...], count: int) -> list[Figure]:
    if shutil.which(argv[0]) is None:
        return left_out(name, f"{argv[0]} is not installed")
    if subprocess.run(argv, capture_output=True, check=False).returncode != 0:
        return left_out(name, f"{argv[0]} does not work here")  # without its daemon, say, or without the image
    seconds = [timed_sync(lambda: subprocess.run(argv, capture_output=True, check=True)) for _ in range(count)]
    return [spread(name, "ms", seconds)]
