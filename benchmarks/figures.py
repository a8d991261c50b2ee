"""Figures, and what measures them on any backend."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sandbox import AsyncExec

MS, US, MB = 1e3, 1e6, 1 << 20


@dataclass(frozen=True)
class Figure:
    """One measured thing. `p95` is None where there is a single value; `target` is the most it may be (or the least,
    for rates), None where there is no target."""

    name: str
    unit: str
    p50: float
    p95: float | None = None
    target: float | None = None
    more_is_better: bool = False

    @property
    def reached(self) -> bool | None:
        if self.target is None:
            return None
        return self.p50 >= self.target if self.more_is_better else self.p50 <= self.target


def spread(name: str, unit: str, seconds: list[float], scale: float, target: float | None = None) -> Figure:
    ordered = sorted(seconds)
    p50, p95 = (ordered[int(len(ordered) * share)] * scale for share in (0.5, 0.95))
    return Figure(name, unit, p50, p95, target)


async def timed(action: Callable[[], Awaitable[Any]]) -> float:
    started = time.perf_counter()
    await action()
    return time.perf_counter() - started


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
    """Start everything and give the pools time to fill."""
    await host.execute_code("1", **options)
    await asyncio.sleep(1.5)


async def tool_calls(kind: str, count: int, target: float, **options: Any) -> Figure:
    """One after the other, timed by the guest."""
    code = f"""
        import time
        seconds = []
        for i in range({count}):
            started = time.perf_counter()
            tools.add(a=i, b=1)
            seconds.append(time.perf_counter() - started)
        seconds
    """
    async with AsyncExec(limits={"tool_calls": count}) as host:

        @host.tool
        async def add(a: int, b: int) -> int:
            return a + b

        await settled(host, **options)
        result = await host.execute_code(code, **options)
    return spread(f"{kind}: tool call from inside", "µs", result.value, US, target)


def reference(name: str, argv: tuple[str, ...], count: int) -> list[Figure]:
    if shutil.which(argv[0]) is None:
        return []
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        if subprocess.run(argv, capture_output=True, check=False).returncode != 0:
            return []  # an engine without its daemon or image is no reference
        seconds.append(time.perf_counter() - started)
    return [spread(name, "ms", seconds, MS)]
