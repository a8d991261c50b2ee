"""What each read of a streamed call gave, recorded so that a replay gives the same again, at the same turn.

How many events a read finds is chance. On it depend how often a guest reads, and so the ids of its calls and the order
in which it hears of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio

from gateway.base import JsonValue, ToolEvent


def told_by(events: Sequence[ToolEvent]) -> list[JsonValue]:
    """What is recorded of one read; `CallStarted` says how."""
    told: list[JsonValue] = []
    for event in events:
        if event.kind == "progress":
            told.append(event.data)
        elif told and isinstance(told[-1], int):
            told[-1] += 1
        else:
            told.append(1)
    return told


@dataclass(slots=True, eq=False)
class PastRead:
    """One recorded read, of a call that messages name. `place` is its own among all answers and reads."""

    call: object
    told: Sequence[JsonValue]
    place: int
    given: anyio.Event = field(default_factory=anyio.Event)

    def __str__(self) -> str:
        return f"a read of {self.call}"

    @property
    def events(self) -> int:
        """How many it took of what the call gave."""
        return sum(part for part in self.told if isinstance(part, int))

    def steps(self) -> "Iterator[Step]":
        """What it gives, one event after another."""
        told = [one for part in self.told for one in ([None] * part if isinstance(part, int) else [part])]
        for left, progress in zip(reversed(range(len(told))), told, strict=True):
            yield Step(self, progress, last=not left)


class Step(NamedTuple):
    """One event of a recorded read: this progress, or, where it is None, whatever the call gives next."""

    read: PastRead
    progress: JsonValue
    last: bool
