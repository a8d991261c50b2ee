"""What a topic measures and how it is shown: seconds taken, figures made of them, a table of figures."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

WARM_UP = 50
_PER_SECOND = {"ms": 1e3, "µs": 1e6}
_console = Console()


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


def spread(name: str, unit: Literal["ms", "µs"], seconds: list[float], target: float | None = None) -> Figure:
    """The figure for many measurements of one thing; `target` is in `unit`."""
    ordered = sorted(seconds)
    p50, p95 = (ordered[int(len(ordered) * share)] * _PER_SECOND[unit] for share in (0.5, 0.95))
    return Figure(name, unit, p50, p95 if len(ordered) > 1 else None, target)


def rounds(count: int, share: float) -> int:
    """This share of `count`, but no fewer than ten where there are as many."""
    return max(min(count, 10), int(count * share))


async def timed(action: Callable[[], Awaitable[Any]]) -> float:
    started = time.perf_counter()
    await action()
    return time.perf_counter() - started


def timed_sync(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


async def by_turns(count: int, *actions: Callable[[], Awaitable[Any]]) -> list[list[float]]:
    """The seconds of each action. They take turns, so that what the machine does meanwhile touches all alike."""
    for action in actions:
        for _ in range(WARM_UP):
            await action()
    turns = [[await timed(action) for action in actions] for _ in range(count)]
    return [list(seconds) for seconds in zip(*turns, strict=True)]


def added(whole: list[float], bare: list[float]) -> list[float]:
    """What each round of `whole` took more than the round of `bare` beside it."""
    return [one - other for one, other in zip(whole, bare, strict=True)]


def left_out(name: str, reason: str) -> list[Figure]:
    """Say why there is no figure; the answer is the empty list in its place."""
    _console.print(f"left out: {name} ({reason})", markup=False, highlight=False)
    return []


def show(topic: str, figures: list[Figure]) -> None:
    table = Table(topic, "p50", "p95", "target", "reached")
    for figure in figures:
        p95 = "" if figure.p95 is None else f"{figure.p95:.2f}"
        sign = "≥" if figure.more_is_better else "≤"
        target = "" if figure.target is None else f"{sign} {figure.target:g}"
        reached = {None: "", True: "yes", False: "no"}[figure.reached]
        table.add_row(figure.name, f"{figure.p50:.2f} {figure.unit}", p95, target, reached)
    _console.print(table)
