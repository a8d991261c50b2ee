"""Puts a tool's policies around its calls."""

import copy
import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from gateway.base import JsonValue
from gateway.payload import Encoded
from gateway.policies.base import NO_POLICIES, SLOTS, Call, Keyed, Policies, Policy, Proceed, Services
from gateway.runner import Runner
from gateway.tools.changes import Change
from gateway.tools.registry import RegisteredTool

_NOTHING = Encoded(None, b"null")


class _Built(NamedTuple):
    """The policies of one tool, and the way through them. They keep state, so they live as long as their choice."""

    choice: Policies
    policies: Mapping[str, Policy]
    run: Proceed


class Pipeline:
    """Makes calls through the policies of their tools. `defaults` are for every tool that chooses none itself.

    `disabled` names slots whose policies are left out for all tools, whatever was chosen.
    """

    def __init__(
        self,
        runner: Runner,
        services: Services | None = None,
        *,
        defaults: Policies = NO_POLICIES,
        disabled: frozenset[str] = frozenset(),
    ) -> None:
        self.runner = runner
        self.services = services or Services()
        self._defaults = defaults
        self._disabled = disabled
        self._built: dict[str, _Built] = {}
        runner.registry.subscribe(self._changed)

    async def run(self, call: Call) -> Encoded:
        """The result of one call, null when it was given in chunks. Raises ToolError."""
        return await self._of(call.tool).run(call)

    def prepare(self, call: Call) -> None:
        """Give the call its idempotency key, if its tool has one. Raises InvalidInput when it cannot be made."""
        policy = self._of(call.tool).policies.get("idempotency")
        if policy is not None and isinstance(policy, Keyed):  # looking at a protocol takes 10 µs; most have no policy
            call.context = dataclasses.replace(call.context, idempotency_key=policy.key(call))

    def check(self, tool: RegisteredTool) -> None:
        """Build its policies, which its first call would do otherwise. Raises InvalidRequest, MissingExtra."""
        self._of(tool)

    def policies(self, slot: str) -> dict[str, Policy]:
        """By tool id, the policies in use in this slot."""
        built = {tool.id: self._of(tool) for tool in self.runner.registry.tools()}
        return {tool_id: one.policies[slot] for tool_id, one in built.items() if slot in one.policies}

    def policy(self, tool: RegisteredTool, slot: str) -> Policy | None:
        return self._of(tool).policies.get(slot)

    def _of(self, tool: RegisteredTool) -> _Built:
        found = self._built.get(tool.id)
        if found is None or (found.choice is not tool.tool.policies and found.choice != tool.tool.policies):
            found = self._built[tool.id] = self._build(tool)
        return found

    def _build(self, tool: RegisteredTool) -> _Built:
        policies: dict[str, Policy] = {}
        for slot, choice in tool.tool.policies.over(self._defaults).chosen().items():
            policy = choice if isinstance(choice, Policy) else choice.build(tool, self.services)
            if policy is not None and slot not in self._disabled:
                policies[slot] = policy
        run: Proceed = self._attempt_with_copy if policies else self._attempt
        for slot in reversed(_order(policies)):
            if slot in policies:
                run = partial(policies[slot].apply, proceed=run)
        return _Built(tool.tool.policies, policies, run)

    async def _attempt(self, call: Call) -> Encoded:
        return await self._attempt_with(call, call.arguments)

    async def _attempt_with_copy(self, call: Call) -> Encoded:
        """The arguments belong to the provider; another attempt, or a policy, may need them again."""
        return await self._attempt_with(call, copy.deepcopy(call.arguments))

    async def _attempt_with(self, call: Call, arguments: dict[str, JsonValue]) -> Encoded:
        """One attempt, in the tool's own time and the call's."""
        call.usage.attempts += 1
        tool, context = call.tool, call.context
        if call.emit is None:
            return await self.runner.call(tool, arguments, context, timeout_seconds=call.remaining_seconds())
        bound = partial(_wait_seconds, call)
        await self.runner.stream(tool, arguments, context, call.emit, timeout_seconds=bound)
        return _NOTHING

    def _changed(self, change: Change) -> None:
        if change.kind == "removed":
            self._built.pop(change.tool_id, None)


def _order(policies: Mapping[str, Policy]) -> tuple[str, ...]:
    """That of `SLOTS`, but a breaker whose `scope` is "attempt" stands within the retries."""
    if getattr(policies.get("breaker"), "scope", "call") != "attempt":
        return SLOTS
    return tuple({"breaker": "retry", "retry": "breaker"}.get(slot, slot) for slot in SLOTS)


def _wait_seconds(call: Call) -> float | None:
    left = call.remaining_seconds()
    return left if call.wait_seconds is None else call.wait_seconds if left is None else min(left, call.wait_seconds)
