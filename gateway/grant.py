"""What one execution may do at the gateway: allowed tools, budget, deadline."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.context import ANYBODY, Caller
from gateway.errors import BudgetExceeded, DeadlineExceeded, InvalidRequest, ToolDenied


@dataclass(slots=True)
class Grant:
    """One execution's rights. All state changes happen between two awaits of one event loop, so counts are exact.

    `allowed_tools` holds tool ids and `namespace:*` patterns, None for every tool. `tool_calls` and `chain_steps` are
    bounds, None for no bound. `deadline` is on `clock` (monotonic seconds), None for no deadline. `caller` is on whose
    behalf the calls are made.
    """

    execution_id: str = ""
    allowed_tools: frozenset[str] | None = None
    tool_calls: int | None = None
    chain_steps: int | None = None
    deadline: float | None = None
    caller: Caller = ANYBODY
    clock: Callable[[], float] = time.monotonic
    used_calls: int = field(default=0, init=False)
    closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        for name in ("tool_calls", "chain_steps"):
            bound = getattr(self, name)
            if bound is not None and bound < 1:
                raise InvalidRequest(f"{name} must be at least 1 or None for no bound, not {bound}")

    def permits(self, tool_id: str) -> bool:
        if self.allowed_tools is None or tool_id in self.allowed_tools:
            return True
        namespace, colon, _ = tool_id.partition(":")
        return bool(colon) and f"{namespace}:*" in self.allowed_tools

    def admits(self, roles: frozenset[str]) -> bool:
        """Whether the caller has one of these roles; none of them, or `*`, is every caller."""
        return not roles or "*" in roles or self.caller.role.lower() in roles

    def check(self, tool_id: str) -> None:
        """Raise ToolDenied or DeadlineExceeded."""
        if self.closed or (self.deadline is not None and self.clock() >= self.deadline):
            raise DeadlineExceeded
        if not self.permits(tool_id):
            raise ToolDenied(tool_id)

    def reserve(self, calls: int = 1) -> None:
        """Take `calls` from the budget, all or none. Raise BudgetExceeded."""
        if self.tool_calls is not None and self.used_calls + calls > self.tool_calls:
            raise BudgetExceeded("tool_calls", self.tool_calls, calls)
        self.used_calls += calls

    def release(self, calls: int) -> None:
        """Give back reserved calls that were never made."""
        self.used_calls -= calls

    def check_chain(self, steps: int) -> None:
        if self.chain_steps is not None and steps > self.chain_steps:
            raise BudgetExceeded("chain_steps", self.chain_steps, steps)

    def remaining_seconds(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - self.clock())
