"""Puts a tool's policies around its calls."""

import copy
import dataclasses
import time
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import ToolError
from gateway.notices import CallFeed
from gateway.payload import NULL, Encoded
from gateway.policies.base import NO_POLICIES, SLOTS, Call, Keyed, Policies, Policy, Proceed, Services
from gateway.runner import Runner
from gateway.secrets import Secrets
from gateway.tools.changes import Change
from gateway.tools.registry import RegisteredTool

MAX_UNREGISTERED = 256
"""Tools of resolvers whose policies are kept, with what they remember."""


class _Built(NamedTuple):
    """The policies of one tool, and the way through them. They keep state, so they live as long as their choice."""

    choice: Policies
    policies: Mapping[str, Policy]
    run: Proceed


class Pipeline:
    """Makes calls through the policies of their tools. `defaults` are for every tool that chooses none itself.

    `disabled` names slots whose policies are left out for all tools, whatever was chosen. `feed` hears of the calls.
    `secrets` are lent to providers, and masked in what they give before any policy sees it.
    """

    def __init__(
        self,
        runner: Runner,
        services: Services | None = None,
        *,
        defaults: Policies = NO_POLICIES,
        disabled: frozenset[str] = frozenset(),
        feed: CallFeed | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        self.runner = runner
        self.services = services or Services()
        self.feed = feed or CallFeed()
        self.secrets = secrets
        self._defaults = defaults
        self._disabled = disabled
        self._built: dict[str, _Built] = {}
        runner.registry.admit_with(self._check)
        runner.registry.subscribe(self._changed)

    async def run(self, call: Call) -> Encoded:
        """The result of one call, null when it was given in chunks. Raises ToolError."""
        return await self._of(call.tool).run(call)

    def prepare(self, call: Call) -> None:
        """Give the call its idempotency key, if its tool has one. Raises InvalidInput when it cannot be made."""
        policy = self._of(call.tool).policies.get("idempotency")
        if policy is not None and isinstance(policy, Keyed):  # looking at a protocol takes 10 µs; most have no policy
            call.context = dataclasses.replace(call.context, idempotency_key=policy.key(call))

    def policies(self, slot: str) -> dict[str, Policy]:
        """By tool id, the policies in use in this slot; also of tools that resolvers know and that were called."""
        registry = self.runner.registry
        built = {tool.id: self._of(tool) for tool in registry.tools()}
        built |= {tool_id: one for tool_id, one in self._built.items() if not registry.knows(tool_id)}
        return {tool_id: one.policies[slot] for tool_id, one in built.items() if slot in one.policies}

    def policy(self, tool: RegisteredTool, slot: str) -> Policy | None:
        return self._of(tool).policies.get(slot)

    def policy_of(self, tool_id: str, slot: str) -> tuple[str, Policy | None]:
        """The whole id of the tool, and its policy in this slot. Raises InvalidToolId, ToolNotFound."""
        registry = self.runner.registry
        if (built := self._built.get(tool_id)) is not None and not registry.knows(tool_id):
            return tool_id, built.policies.get(slot)
        tool = registry.resolve(tool_id)
        return tool.id, self.policy(tool, slot)

    def _of(self, tool: RegisteredTool) -> _Built:
        found = self._built.get(tool.id)
        if found is None or (found.choice is not tool.tool.policies and found.choice != tool.tool.policies):
            found = self._built[tool.id] = self._build(tool)
            self._forget()
        return found

    def _check(self, tool: RegisteredTool) -> None:
        """Refuse a tool whose policies cannot be built. Raises InvalidRequest, MissingExtra."""
        self._build(tool)

    def _build(self, tool: RegisteredTool) -> _Built:
        policies: dict[str, Policy] = {}
        own = tool.tool.policies
        # What forwards each call to another tool leaves defaults to that: twice, retries would multiply.
        chosen = own if getattr(tool.tool.provider, "forwards", False) else own.over(self._defaults)
        for slot, choice in chosen.chosen().items():
            policy = choice if isinstance(choice, Policy) else choice.build(tool, self.services)
            if policy is not None and slot not in self._disabled:
                policies[slot] = policy
        run: Proceed = self._attempt_with_copy if policies else self._attempt
        if self.secrets is not None:
            run = partial(_lending, self.secrets, run)
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
        """One attempt, in the tool's own time and the call's; what it attaches is kept if it succeeds."""
        call.usage.attempts += 1
        began = time.perf_counter()
        try:
            with call.attached.attempt() as attach:
                context = call.context
                if context.on_attach is not attach:  # as from the second attempt on
                    context = dataclasses.replace(context, on_attach=attach)
                return await self._answer(call, arguments, context)
        finally:
            call.usage.tool_seconds += time.perf_counter() - began

    async def _answer(self, call: Call, arguments: dict[str, JsonValue], context: ToolContext) -> Encoded:
        if call.emit is None:
            return await self.runner.call(call.tool, arguments, context, timeout_seconds=call.remaining_seconds())
        bound = partial(_wait_seconds, call)
        await self.runner.stream(call.tool, arguments, context, call.emit, timeout_seconds=bound)
        return NULL

    def _forget(self) -> None:
        """Of the tools that are not registered, which resolvers know, those that were built first."""
        registry = self.runner.registry
        if len(self._built) > len(registry) + len(registry.disabled()) + MAX_UNREGISTERED:
            del self._built[next(tool_id for tool_id in self._built if not registry.knows(tool_id))]

    def _changed(self, change: Change) -> None:
        if change.kind == "removed":
            self._built.pop(change.tool_id, None)


def _order(policies: Mapping[str, Policy]) -> tuple[str, ...]:
    """That of `SLOTS`, but a breaker whose `scope` is "attempt" stands within the retries."""
    if getattr(policies.get("breaker"), "scope", "call") != "attempt":
        return SLOTS
    return tuple({"breaker": "retry", "retry": "breaker"}.get(slot, slot) for slot in SLOTS)


async def _lending(secrets: Secrets, attempt: Proceed, call: Call) -> Encoded:
    """One attempt with the secrets at hand, and none of them in what comes of it."""
    emit = call.emit
    if emit is not None:

        async def masked(chunk: Encoded) -> None:
            await emit(secrets.encoded(chunk))

        call = dataclasses.replace(call, emit=masked)
    try:
        with secrets.lent():
            result = await attempt(call)
    except ToolError as exc:
        raise secrets.error(exc)  # noqa: B904 - the same error
    call.attached.mask(secrets.artifact)
    return secrets.encoded(result)


def _wait_seconds(call: Call) -> float | None:
    left = call.remaining_seconds()
    return left if call.wait_seconds is None else call.wait_seconds if left is None else min(left, call.wait_seconds)
