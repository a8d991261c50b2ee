"""A limit on the calls of a tool that are under way at the same time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import anyio

from gateway.errors import RateLimited, ToolError, ToolTimeout
from gateway.payload import Encoded
from gateway.policies.base import Call, Proceed, Services
from gateway.policies.checks import check_count, check_seconds

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyLimit:
    """At most `max_in_flight` attempts at a time, of the tool or (`per_tenant`) of each tenant; others wait their turn.

    They wait as long as the call has time, and at most `wait_seconds`; without either, as long as the tool may take for
    one call. The call's time running out is a ToolTimeout, `wait_seconds` a RateLimited. Raises InvalidRequest.
    """

    kind: ClassVar[str] = "limit"

    max_in_flight: int
    per_tenant: bool = False
    wait_seconds: float | None = None

    def __post_init__(self) -> None:
        check_count("max_in_flight", self.max_in_flight)
        if self.wait_seconds is not None:
            check_seconds("wait_seconds", self.wait_seconds)

    def build(self, tool: "RegisteredTool", services: Services) -> "Limiter":
        del services
        return Limiter(tool.id, self)


class Limiter:
    """The places of one tool."""

    def __init__(self, tool_id: str, config: ConcurrencyLimit) -> None:
        self._tool_id = tool_id
        self._config = config
        self._places: dict[str, _Places] = {}

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        key = call.context.caller.tenant_id if self._config.per_tenant else ""
        places = self._places.get(key)
        if places is None:
            places = self._places[key] = _Places(self._config.max_in_flight)
        places.users += 1
        try:
            await self._enter(call, places)
            try:
                return await proceed(call)
            finally:
                places.free.release()
        finally:
            places.users -= 1
            if not places.users:
                del self._places[key]

    async def _enter(self, call: Call, places: "_Places") -> None:
        try:
            places.free.acquire_nowait()
        except anyio.WouldBlock:
            call.usage.decisions.append(f"waited for one of {self._config.max_in_flight} places")
            call.tell("queued", waiting=places.users - self._config.max_in_flight)
            await self._wait(call, places)

    async def _wait(self, call: Call, places: "_Places") -> None:
        left, most = call.remaining_seconds(), self._config.wait_seconds
        if left is None and most is None:
            most = call.tool.tool.timeout_seconds
        with anyio.move_on_after(min(one for one in (left, most) if one is not None)):
            return await places.free.acquire()
        raise self._refusal(call, left, most)

    def _refusal(self, call: Call, left: float | None, most: float | None) -> ToolError:
        """Nothing was sent, so that the call may be tried again whatever the tool does."""
        if left is not None and (most is None or left <= most):
            error: ToolError = ToolTimeout(self._tool_id, left)
        else:
            assert most is not None
            error = RateLimited(self._tool_id, most)
            call.tell("rate_limited", retry_after_seconds=most)
        error.details["sent"] = False
        return error


class _Places:
    """The free ones, and how many calls have one or wait for one."""

    def __init__(self, max_in_flight: int) -> None:
        self.free = anyio.Semaphore(max_in_flight)
        self.users = 0
