"""Ways to choose one of several arms by the rewards that they gave: pure but for chance, which is handed in."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, TypeAlias

from gateway.selection.group import ToolGroup

Reason: TypeAlias = Literal["cold_start", "explore", "exploit"]

EPSILON = 0.1
"""How often any tool is taken where nobody says otherwise."""

BEST_REWARD, WORST_REWARD = 1.0, -0.5


@dataclass(slots=True)
class Arm:
    """What is known of one tool in one kind of context. `selections` counts those too that nothing was heard of."""

    selections: int = 0
    pulls: int = 0
    total_reward: float = 0.0

    @property
    def mean(self) -> float:
        """The average reward; none yet is 0."""
        return self.total_reward / self.pulls if self.pulls else 0.0

    @property
    def share(self) -> float:
        """The average reward on a scale from 0 to 1."""
        return (self.mean - WORST_REWARD) / (BEST_REWARD - WORST_REWARD)


class Choice(NamedTuple):
    tool_id: str
    reason: Reason


Arms: TypeAlias = Mapping[str, Arm]
Strategy: TypeAlias = Callable[[ToolGroup, Sequence[str], Arms, Random], Choice]
"""Takes the tools that can be used, at least one, and their arms; each arm was selected before."""


def epsilon_greedy(group: ToolGroup, usable: Sequence[str], arms: Arms, random: Random) -> Choice:
    if random.random() < (EPSILON if group.epsilon is None else group.epsilon):
        return Choice(random.choice(usable), "explore")
    return Choice(best_of(usable, arms, random), "exploit")


def ucb1(group: ToolGroup, usable: Sequence[str], arms: Arms, random: Random) -> Choice:
    """Auer, Cesa-Bianchi and Fischer 2002: the average, and more the less is known of it."""
    del group
    pulls = sum(arms[tool_id].pulls for tool_id in usable)

    def could_be(tool_id: str) -> float:
        arm = arms[tool_id]
        return arm.share + math.sqrt(2 * math.log(pulls) / arm.pulls) if arm.pulls else math.inf

    chosen = _most(usable, could_be, random)
    best = max(arms[tool_id].mean for tool_id in usable)
    return Choice(chosen, "exploit" if arms[chosen].pulls and arms[chosen].mean == best else "explore")


def thompson(group: ToolGroup, usable: Sequence[str], arms: Arms, random: Random) -> Choice:
    """Draws from what each arm's average may be, as a beta distribution has it that began flat."""
    del group

    def drawn(tool_id: str) -> float:
        arm = arms[tool_id]
        good = arm.share * arm.pulls
        return random.betavariate(1 + good, 1 + arm.pulls - good)

    chosen = _most(usable, drawn, random)
    best = max(arms[tool_id].mean for tool_id in usable)
    return Choice(chosen, "exploit" if arms[chosen].mean == best else "explore")


def best_of(usable: Sequence[str], arms: Arms, random: Random) -> str:
    """The one with the best average, one of them by chance when they are equal."""
    return _most(usable, lambda tool_id: arms[tool_id].mean, random)


def _most(usable: Sequence[str], worth: Callable[[str], float], random: Random) -> str:
    found = {tool_id: worth(tool_id) for tool_id in usable}
    most = max(found.values())
    return random.choice([tool_id for tool_id in usable if found[tool_id] == most])


STRATEGIES: Mapping[str, Strategy] = {"epsilon_greedy": epsilon_greedy, "ucb1": ucb1, "thompson": thompson}
