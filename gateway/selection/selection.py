"""The groups of one host: which of their tools can be used now, which is chosen, and what became of it."""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from gateway.base import JsonValue
from gateway.context import Caller
from gateway.errors import (
    ApprovalRejected,
    BudgetExceeded,
    DeadlineExceeded,
    EgressDenied,
    IdempotencyConflict,
    InvalidInput,
    InvalidRequest,
    PermissionMissing,
    RoleDenied,
    ToolDenied,
    ToolError,
    ToolUnavailable,
    Unauthorized,
)
from gateway.pipeline import Pipeline
from gateway.policies.base import HasCircuits
from gateway.selection.group import ToolGroup
from gateway.selection.selector import Decision, Selector
from gateway.selection.strategies import EPSILON
from gateway.tools.registry import RegisteredTool

_NOT_ITS_FAULT = (
    ApprovalRejected,
    BudgetExceeded,
    DeadlineExceeded,
    EgressDenied,
    IdempotencyConflict,
    InvalidInput,
    PermissionMissing,
    RoleDenied,
    ToolDenied,
    Unauthorized,
)
"""Errors that say nothing of how good a tool is."""

Permits: TypeAlias = Callable[[RegisteredTool], bool]


@runtime_checkable
class Forewarns(Protocol):
    """An access policy that can say beforehand whom it will refuse, as that of `AccessRules` can."""

    def refusal(self, caller: Caller) -> ToolError | None:
        """Why a call of this caller would be refused; None for one that would not."""
        ...


class Selection:
    """Groups by name. `blocked` says of a tool's id that it is not to be chosen now, such as for its health.

    With `enabled` False every group takes its first tool that can be used, and learns nothing. `epsilon` is that of
    groups that have none of their own. `on_decision` hears of every choice.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.enabled = True
        self.epsilon = EPSILON
        self.on_decision: Callable[[Decision], None] | None = None
        self._saved: dict[str, JsonValue] = {}
        self.blocked: Callable[[str], bool] = _never
        self._pipeline = pipeline
        self._selectors: dict[str, Selector] = {}

    def add(self, group: ToolGroup) -> ToolGroup:
        """Make a group known. Idempotent. Raises InvalidRequest when another one has its name."""
        if group.epsilon is None:
            group = dataclasses.replace(group, epsilon=self.epsilon)
        found = self._selectors.get(group.name)
        if found is None:
            services = self._pipeline.services
            selector = Selector(group, random=services.random, clock=services.clock)
            if group.name in self._saved:
                selector.load(self._saved.pop(group.name))
            self._selectors[group.name] = selector
        elif found.group != group:
            raise InvalidRequest(f"there is another group {group.name!r}; give this one another name")
        return group

    def select(
        self, group: ToolGroup | str, caller: Caller, permits: Permits, context: Mapping[str, JsonValue] | None = None
    ) -> Decision:
        """Choose a tool of the group for this caller. Raises InvalidRequest, and ToolUnavailable when there is none."""
        selector = self.selector(group)
        usable = [
            tool_id for tool_id in selector.group.tool_ids if self._is_usable(tool_id, caller, permits, selector.group)
        ]
        if not usable:
            raise ToolUnavailable(f"the group {selector.group.name!r}", "none of its tools can be used now")
        if not self.enabled:
            return Decision(usable[0], "", selector.group.name)
        decision = selector.select(usable, context)
        if self.on_decision is not None:
            self.on_decision(decision)
        return decision

    def feedback(self, decision_id: str, *, success: bool, latency_seconds: float) -> bool:
        """Whether a decision learnt from it: once, of a decision that is known and not an hour old.

        Raises InvalidRequest for a latency that is none.
        """
        return any(
            selector.feedback(decision_id, success=success, latency_seconds=latency_seconds)
            for selector in self._selectors.values()
        )

    async def run(
        self,
        group: ToolGroup | str,
        call: Callable[[str], Awaitable[Any]],
        caller: Caller,
        permits: Permits,
        context: Mapping[str, JsonValue] | None = None,
    ) -> Any:
        """What the call of the chosen tool gives; how it went is learnt. Raises what it raises."""
        decision = self.select(group, caller, permits, context)
        selector = self.selector(group)
        clock = self._pipeline.services.clock
        began = clock()
        try:
            result = await call(decision.tool_id)
        except BaseException as exc:
            if isinstance(exc, ToolError) and not isinstance(exc, _NOT_ITS_FAULT):
                selector.feedback(decision.decision_id, success=False, latency_seconds=max(0.0, clock() - began))
            else:
                selector.discard(decision.decision_id)
            raise
        selector.feedback(decision.decision_id, success=True, latency_seconds=max(0.0, clock() - began))
        return result

    def selector(self, group: ToolGroup | str) -> Selector:
        """What a group has learnt. Raises InvalidRequest for a name that is not known."""
        name = group if isinstance(group, str) else self.add(group).name
        if name not in self._selectors:
            known = ", ".join(sorted(self._selectors)) or "none"
            raise InvalidRequest(f"no group {name!r}; there are {known}")
        return self._selectors[name]

    def stats(self) -> dict[str, JsonValue]:
        """What each group knows over all contexts, by its name."""
        return {name: selector.stats() for name, selector in self._selectors.items()}

    def state(self) -> dict[str, JsonValue]:
        """What all groups have learnt, as JSON, for `load`."""
        return self._saved | {name: selector.state() for name, selector in self._selectors.items()}

    def load(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from what `state` gave, groups that are not known yet when they are added. Raises InvalidRequest."""
        for name, saved in state.items():
            if name in self._selectors:
                self._selectors[name].load(saved)
            else:
                self._saved[name] = saved

    def _is_usable(self, tool_id: str, caller: Caller, permits: Permits, group: ToolGroup) -> bool:
        tool = self._pipeline.runner.registry.find(tool_id)
        if tool is None or not permits(tool) or self.blocked(tool.id) or tool.id == group.name:
            return False
        access, breaker = self._pipeline.policy(tool, "access"), self._pipeline.policy(tool, "breaker")
        if isinstance(access, Forewarns) and access.refusal(caller) is not None:
            return False
        return not (isinstance(breaker, HasCircuits) and breaker.state(caller.tenant_id) == "open")


def context_of(caller: Caller, arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """What a choice may depend on: plain values among the arguments, and of the caller what the arguments cannot
    claim."""
    told = {name: getattr(caller, name) for name in ("tenant_id", "user_id", "role", "locale", "timezone")}
    plain = {name: value for name, value in arguments.items() if isinstance(value, str | int | float)}
    return plain | {name: value or None for name, value in told.items()}


def _never(tool_id: str) -> bool:
    del tool_id
    return False
