"""What the policies of an `AsyncExec` remember, and how to make them forget it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway.context import ANYBODY, Caller
from gateway.pipeline import Pipeline
from gateway.policies.base import Policy

if TYPE_CHECKING:
    from gateway.policies.cache import CacheStatistics  # their modules are for who has such policies
    from gateway.policies.rate_limit import RateLimitStatus


class Controls:
    """Looks at the policies of all tools, or of one. Policies of your own are not among them.

    Wherever a `tool_id` can be given, None stands for all tools. Raises InvalidToolId, ToolNotFound.
    """

    _pipeline: Pipeline

    async def rate_limits(self, *, caller: Caller = ANYBODY) -> "dict[str, RateLimitStatus]":
        """By tool id, the token bucket that a call of this caller would take from; of several the one with the least
        in it, and `buckets` has all of them. Raises ToolUnavailable.
        """
        from gateway.policies.rate_limit import rate_limits  # noqa: PLC0415

        return await rate_limits(self._policies("rate_limit", None), caller)

    async def reset_rate_limits(self, tool_id: str | None = None) -> None:
        """Fill the buckets again, those of every tenant and user. Raises ToolUnavailable."""
        from gateway.policies.rate_limit import reset_rate_limits  # noqa: PLC0415

        await reset_rate_limits(self._policies("rate_limit", tool_id))

    async def cache_statistics(self, *, top: int = 10) -> "CacheStatistics":
        """How often the caches had the answer, and the `top` results that were used most."""
        from gateway.policies.cache import cache_statistics  # noqa: PLC0415

        return cache_statistics(self._policies("cache", None), top)

    async def clear_cache(self, tool_id: str | None = None) -> int:
        """Drop cached results; how many there were. Clearing all of them also begins to count anew."""
        from gateway.policies.cache import clear_cache, forget_cache_statistics  # noqa: PLC0415

        policies = self._policies("cache", tool_id)
        if tool_id is None:
            forget_cache_statistics(policies)
        return await clear_cache(policies)

    def _policies(self, slot: str, tool_id: str | None) -> Mapping[str, Policy]:
        if tool_id is None:
            return self._pipeline.policies(slot)
        whole_id, policy = self._pipeline.policy_of(tool_id, slot)
        return {} if policy is None else {whole_id: policy}
