"""Tools that do the same, and how one of them is chosen."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from gateway.base import JsonValue
from gateway.errors import InvalidRequest
from gateway.tools.model import ToolId

StrategyName = Literal["epsilon_greedy", "ucb1", "thompson", "first"]

MAX_CONTEXT_TEXT = 64
"""Characters of a text in a context that count."""

EVERYWHERE = ""
"""The key of the statistics over all contexts."""


@dataclass(frozen=True, slots=True)
class ToolGroup:
    """Tools that do the same: `ToolGroup("search", ["web:search", "kb:search"])`. Raises InvalidRequest.

    name          a tool's id without version; the group can be registered as that tool
    tools         ids of at least one tool, each once
    strategy      `epsilon_greedy` (default): the best one so far, and now and then any; `ucb1`: the one that could be
                  best; `thompson`: each as often as it is likely to be best; `first`: the first that can be used
    epsilon       how often `epsilon_greedy` takes any, from 0 to 1; None (default) leaves it to the Exec, and it to 0.1
    context_keys  fields of the context that count, in any order; none for one statistic for all. A number counts by
                  the power of two below it, a text by its first 64 characters in any case
    """

    name: str
    tools: Iterable[str]
    strategy: StrategyName = "epsilon_greedy"
    epsilon: float | None = None
    context_keys: Iterable[str] = field(default=())

    def __post_init__(self) -> None:
        if ToolId.parse(self.name).version:
            raise InvalidRequest(f"the group {self.name} must not have a version")
        for name in ("tools", "context_keys"):
            if isinstance(getattr(self, name), str):
                raise InvalidRequest(f"{name} of the group {self.name} must be several texts, not one")
        tools = tuple(self.tools)
        if not tools or len(set(tools)) < len(tools) or self.name in tools:
            raise InvalidRequest(f"the group {self.name} needs at least one tool, each once, and none of its own name")
        for tool_id in tools:
            ToolId.parse(tool_id)
        if self.strategy not in get_args(StrategyName):
            raise InvalidRequest(f"strategy must be one of {', '.join(get_args(StrategyName))}, not {self.strategy!r}")
        if self.epsilon is not None and not 0 <= self.epsilon <= 1:
            raise InvalidRequest(f"epsilon must be from 0 to 1, not {self.epsilon}")
        object.__setattr__(self, "tools", tools)
        object.__setattr__(self, "context_keys", tuple(sorted(set(self.context_keys))))

    @property
    def tool_ids(self) -> tuple[str, ...]:
        return tuple(self.tools)

    def bucket(self, context: Mapping[str, JsonValue] | None) -> str:
        """What contexts that count as the same have in common; `EVERYWHERE` for one of which nothing counts.

        Raises InvalidRequest for a list or an object.
        """
        given = context or {}
        parts = [f"{key}={_bucket(key, given[key])}" for key in self.context_keys if given.get(key) is not None]
        return "&".join(parts)


def _bucket(key: str, value: JsonValue) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return repr(value.strip().lower()[:MAX_CONTEXT_TEXT])
        case int() | float() if math.isfinite(value):
            return _magnitude(value)
    raise InvalidRequest(f"{key} of a context must be text, a number or a truth value, not {type(value).__name__}")


def _magnitude(number: float) -> str:
    if number == 0:
        return "0"
    return f"{'-' if number < 0 else ''}2^{math.frexp(number)[1] - 1}"
