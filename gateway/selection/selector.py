"""Chooses among the tools of one group, and learns from what is heard of its choices."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple
from uuid import uuid4

from gateway.base import JsonValue
from gateway.errors import InvalidRequest
from gateway.selection.group import EVERYWHERE, ToolGroup
from gateway.selection.strategies import STRATEGIES, Arm, Choice, Reason

OPEN_SECONDS = 3600.0
"""How long a decision waits for its feedback; later it counts for nothing."""

MAX_OPEN = 10_000
"""Decisions of a group that wait at once; the oldest are forgotten."""

MAX_CONTEXTS = 1000
"""Kinds of contexts that a group knows; of more, the one unused for longest is forgotten."""

SLOW_SECONDS = 5.0
"""A call that takes so long, or longer, loses half a point of its reward."""

_VERSION = 1
_SLACK = 1e-6  # of a sum of floats


@dataclass(frozen=True, slots=True)
class Decision:
    """A tool that was chosen. `decision_id` is for its feedback; empty where nothing is learnt."""

    tool_id: str
    decision_id: str
    group: str
    reason: Reason = "exploit"


def reward(*, success: bool, latency_seconds: float) -> float:
    """1 for a success, less up to 0.5 for the time that it took: from -0.5 to 1."""
    return (1.0 if success else 0.0) - 0.5 * min(latency_seconds / SLOW_SECONDS, 1.0)


class _Open(NamedTuple):
    tool_id: str
    bucket: str
    expires: float


class Selector:
    """`clock` (seconds) and `random` may be yours, so that tests can be masters of time and chance."""

    def __init__(self, group: ToolGroup, *, random: Random, clock: Callable[[], float] = time.monotonic) -> None:
        self.group = group
        self._random = random
        self._clock = clock
        self._arms: OrderedDict[str, dict[str, Arm]] = OrderedDict()
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._decisions = 0
        self.reset()

    def select(self, usable: Sequence[str], context: Mapping[str, JsonValue] | None = None) -> Decision:
        """Choose one of the tools of the group that can be used now, at least one. Raises InvalidRequest."""
        if not usable:
            raise InvalidRequest(f"the group {self.group.name} has no tool to choose from")
        if self.group.strategy == "first":
            return Decision(usable[0], "", self.group.name)
        bucket = self.group.bucket(context)
        choice = self._cold_start(usable) or self._by_strategy(usable, bucket)
        for arms in self._counted(bucket):
            arms[choice.tool_id].selections += 1
        return self._opened(choice, bucket)

    def feedback(self, decision_id: str, *, success: bool, latency_seconds: float) -> bool:
        """Learn how a decision turned out. False for one that is unknown, expired, or was told of before.

        Raises InvalidRequest for a latency that is none.
        """
        if not (latency_seconds >= 0 and math.isfinite(latency_seconds)):
            raise InvalidRequest(f"latency_seconds must be at least 0 and finite, not {latency_seconds}")
        self._expire()
        found = self._open.pop(decision_id, None)
        if found is None:
            return False
        earned = reward(success=success, latency_seconds=latency_seconds)
        for arms in self._counted(found.bucket):
            arms[found.tool_id].pulls += 1
            arms[found.tool_id].total_reward += earned
        return True

    def discard(self, decision_id: str) -> None:
        """Forget a decision that says nothing about its tool."""
        self._open.pop(decision_id, None)

    def best(self, context: Mapping[str, JsonValue] | None = None) -> str | None:
        """The tool with the best average, in contexts such as this; None before anything was heard."""
        arms = self._known(self.group.bucket(context))
        pulled = [tool_id for tool_id in self.group.tool_ids if arms[tool_id].pulls]
        return max(pulled, key=lambda tool_id: arms[tool_id].mean) if pulled else None

    def stats(self, context: Mapping[str, JsonValue] | None = None) -> dict[str, JsonValue]:
        """What is known, over all contexts or in those such as this."""
        self._expire()
        arms = self._arms.get(self.group.bucket(context)) or self._new_arms()
        return {
            "group": self.group.name,
            "strategy": self.group.strategy,
            "epsilon": self.group.epsilon,
            "total_decisions": self._decisions,
            "open_decisions": len(self._open),
            "contexts": len(self._arms) - 1,
            "total_pulls": sum(arm.pulls for arm in arms.values()),
            "arms": {
                tool_id: {
                    "selections": arm.selections,
                    "pulls": arm.pulls,
                    "avg_reward": arm.mean,
                    "total_reward": arm.total_reward,
                }
                for tool_id, arm in arms.items()
            },
        }

    def reset(self) -> None:
        """Forget everything. Decisions that wait count for nothing."""
        self._arms.clear()
        self._arms[EVERYWHERE] = self._new_arms()
        self._open.clear()
        self._decisions = 0

    def state(self) -> dict[str, JsonValue]:
        """What was learnt, as JSON; decisions that wait are not part of it."""
        return {
            "version": _VERSION,
            "decisions": self._decisions,
            "arms": {
                bucket: {tool_id: [arm.selections, arm.pulls, arm.total_reward] for tool_id, arm in arms.items()}
                for bucket, arms in self._arms.items()
            },
        }

    def load(self, state: JsonValue) -> None:
        """Go on from what `state` gave. Tools that are no longer of the group are left out. Raises InvalidRequest, and
        changes nothing then."""
        try:
            arms, decisions = self._read(state)
        except (TypeError, ValueError, KeyError, AttributeError) as exc:
            raise InvalidRequest(f"the saved state of the group {self.group.name} cannot be read: {exc!r}") from exc
        self.reset()
        self._decisions = decisions
        for bucket, read in arms.items():
            self._arms[bucket] = self._new_arms() | read
        self._arms.move_to_end(EVERYWHERE)

    def _read(self, state: Any) -> tuple[dict[str, dict[str, Arm]], int]:
        if state["version"] != _VERSION:
            raise ValueError(f"version {state['version']!r}")
        known = set(self.group.tool_ids)
        arms = {
            str(bucket): {tool_id: _arm(*counts) for tool_id, counts in read.items() if tool_id in known}
            for bucket, read in list(state["arms"].items())[-MAX_CONTEXTS - 1 :]
        }
        decisions = state["decisions"]
        if EVERYWHERE not in arms or not isinstance(decisions, int) or decisions < 0:
            raise ValueError("it is not whole")
        return arms, decisions

    def _cold_start(self, usable: Sequence[str]) -> Choice | None:
        """Every arm is tried once before what is known of one counts."""
        everywhere = self._arms[EVERYWHERE]
        untried = [tool_id for tool_id in usable if not everywhere[tool_id].selections]
        return Choice(self._random.choice(untried), "cold_start") if untried else None

    def _by_strategy(self, usable: Sequence[str], bucket: str) -> Choice:
        arms = self._known(bucket)
        return STRATEGIES[self.group.strategy](self.group, usable, arms, self._random)

    def _known(self, bucket: str) -> dict[str, Arm]:
        """What is known in this context, and of arms that were never heard of in it what is known over all."""
        here, everywhere = self._arms.get(bucket, {}), self._arms[EVERYWHERE]
        return {
            tool_id: here[tool_id] if tool_id in here and here[tool_id].pulls else everywhere[tool_id]
            for tool_id in self.group.tool_ids
        }

    def _counted(self, bucket: str) -> list[dict[str, Arm]]:
        """The statistics that a decision in this context belongs to."""
        if bucket == EVERYWHERE:
            return [self._arms[EVERYWHERE]]
        here = self._arms.setdefault(bucket, {})
        if not here:
            here |= self._new_arms()
        self._arms.move_to_end(bucket)
        self._arms.move_to_end(EVERYWHERE)
        while len(self._arms) > MAX_CONTEXTS + 1:
            self._arms.popitem(last=False)
        return [here, self._arms[EVERYWHERE]]

    def _new_arms(self) -> dict[str, Arm]:
        return {tool_id: Arm() for tool_id in self.group.tool_ids}

    def _opened(self, choice: Choice, bucket: str) -> Decision:
        self._expire()
        self._decisions += 1
        decision = Decision(choice.tool_id, uuid4().hex, self.group.name, choice.reason)
        self._open[decision.decision_id] = _Open(choice.tool_id, bucket, self._clock() + OPEN_SECONDS)
        while len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
        return decision

    def _expire(self) -> None:
        now = self._clock()
        while self._open and next(iter(self._open.values())).expires <= now:
            self._open.popitem(last=False)


def _arm(selections: int, pulls: int, total_reward: float) -> Arm:
    for count in (selections, pulls):
        if type(count) is not int or count < 0:
            raise ValueError(f"{count!r} is no count")
    if not -0.5 * pulls - _SLACK <= float(total_reward) <= pulls + _SLACK:
        raise ValueError(f"{total_reward!r} is no reward of {pulls} pulls")
    return Arm(max(selections, pulls), pulls, float(total_reward))
