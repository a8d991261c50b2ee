"""Policies for retries: none, after a fixed time, after times that grow, or as a function of yours says.

What may be tried again is decided in one place, `_Attempts.may_go_on`. The loop is our own: it is ten lines, and an
engine for retries would catch cancellation, and cost a third of what a call may cost with all its policies.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import anyio

from gateway.errors import InvalidRequest, ToolError, ToolFailed
from gateway.payload import Encoded
from gateway.policies.base import Call, Policy, Proceed, Services
from gateway.policies.checks import FINAL_CODES, check_count, check_number, check_seconds, checked_codes

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool

MAX_ATTEMPTS = 100
"""Most attempts that a config may ask for."""

MAX_CUSTOM_RETRIES = 10
"""How often a function of yours is asked for one call."""

_MAX_MULTIPLIER = 100.0
_PASSING = (ConnectionError, TimeoutError)

Attempt: TypeAlias = Callable[[], Awaitable[Encoded]]
"""Makes one more attempt. Raises ToolError when that fails too, InvalidRequest when it was called before."""

RetryFunction: TypeAlias = Callable[[Attempt, int, ToolError], Awaitable[Encoded]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRetry:
    """One attempt, whatever the defaults say."""

    kind: ClassVar[str] = "none"

    def build(self, tool: "RegisteredTool", services: Services) -> None:  # noqa: ARG002 - the protocol's
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryConfig(ABC):
    """`max_attempts` includes the first one.

    `retry_on` are the codes of errors after which to try again. None means those that say `retryable`, such as
    `timeout` and `unavailable`, and a function's ConnectionError or TimeoutError. Refusals, such as `invalid_input` and
    `circuit_open`, can never be among them.

    A wait is never shorter than the server asked for (`retry_after_seconds`); a server that asks for more than
    `max_retry_after_seconds`, or for more than is left of the call's time, is not waited for: its error is the call's.
    """

    max_attempts: int = 3
    retry_on: frozenset[str] | None = None
    max_retry_after_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_count("max_attempts", self.max_attempts, most=MAX_ATTEMPTS)
        check_seconds("max_retry_after_seconds", self.max_retry_after_seconds)
        if self.retry_on is not None:
            object.__setattr__(self, "retry_on", checked_codes("retry_on", self.retry_on, FINAL_CODES))

    @abstractmethod
    def delay_seconds_before(self, retry: int, random: Random) -> float:
        """How long to wait before a retry; the first is 1."""

    def build(self, tool: "RegisteredTool", services: Services) -> Policy:  # noqa: ARG002 - the same for all tools
        return _Retry(self, services)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRetry(RetryConfig):
    """Tries again after `delay_seconds`, give or take up to `jitter_seconds`. Raises InvalidRequest."""

    kind: ClassVar[str] = "fixed"

    delay_seconds: float = 1.0
    jitter_seconds: float = 0.0

    def __post_init__(self) -> None:
        RetryConfig.__post_init__(self)
        check_number("delay_seconds", self.delay_seconds)
        check_number("jitter_seconds", self.jitter_seconds)

    def delay_seconds_before(self, retry: int, random: Random) -> float:  # noqa: ARG002 - the same before each
        return max(0.0, self.delay_seconds + _spread(self.jitter_seconds, random))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentialRetry(RetryConfig):
    """Tries again after `base_delay_seconds`, then after `multiplier` times as long, and so on.

    `jitter` is a share of the delay, 0 to 1: each is made longer or shorter by up to that much. None is longer than
    `max_delay_seconds`, jitter included. Raises InvalidRequest.
    """

    kind: ClassVar[str] = "exponential"

    base_delay_seconds: float = 0.2
    max_delay_seconds: float = 2.0
    multiplier: float = 2.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        RetryConfig.__post_init__(self)
        check_number("base_delay_seconds", self.base_delay_seconds)
        check_seconds("max_delay_seconds", self.max_delay_seconds)
        check_number("multiplier", self.multiplier, least=1, most=_MAX_MULTIPLIER)
        check_number("jitter", self.jitter, most=1)

    def delay_seconds_before(self, retry: int, random: Random) -> float:
        grown = self.base_delay_seconds * float(self.multiplier) ** (retry - 1)
        delay = min(grown, self.max_delay_seconds)
        return min(max(0.0, delay + _spread(self.jitter * delay, random)), self.max_delay_seconds)


class CustomRetry:
    """Retries as `function` says: `await function(attempt, number, error)` is called instead of each retry.

    `number` is 1 for the first retry, `error` what failed last. It waits as it likes, within the call's time, and
    gives what `await attempt()` gave. When that fails and the error passes through, it is called again, at most ten
    times in all. Whatever it raises itself ends the call: let that be a ToolError, for anything else counts as a fault
    of the host. It is not asked about refusals, nor where another attempt could do a thing twice.

    Raises InvalidRequest when `function` cannot be called.
    """

    def __init__(self, function: RetryFunction) -> None:
        if not callable(function):
            raise InvalidRequest(f"a CustomRetry needs a function, not {type(function).__name__}")
        self._function = function

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        attempts = _Attempts(call, proceed)
        try:
            return await attempts.make()
        except ToolError as failed:
            error = failed
        for number in range(1, MAX_CUSTOM_RETRIES + 1):
            if error.code in FINAL_CODES or not attempts.may_go_on(error):
                break
            try:
                return await self._ask(attempts, number, error)
            except ToolError as raised:
                if not attempts.is_last(raised):
                    raise
                error = raised
        raise error

    async def _ask(self, attempts: "_Attempts", number: int, error: ToolError) -> Encoded:
        made = False

        async def attempt() -> Encoded:
            nonlocal made
            if made:
                raise InvalidRequest("a retry function makes one attempt each time that it is asked")
            made = True
            attempts.retry(error)
            return await attempts.make()

        attempts.forget()  # so that raising the last error again is the function's own doing
        with anyio.move_on_after(attempts.call.remaining_seconds()):
            return await self._function(attempt, number, error)
        raise attempts.last or error


class _Retry:
    """Repeats what a config says, at the times that it says."""

    def __init__(self, config: RetryConfig, services: Services) -> None:
        self._config = config
        self._services = services

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        attempts = _Attempts(call, proceed)
        for retry in range(1, self._config.max_attempts):
            try:
                return await attempts.make()
            except ToolError as error:
                delay = self._delay(retry, error)
                if not self._is_chosen(error) or not attempts.may_go_on(error, delay):
                    raise
                attempts.retry(error, delay)
            await self._services.sleep(delay)
        return await attempts.make()

    def _is_chosen(self, error: ToolError) -> bool:
        chosen = self._config.retry_on
        if chosen is not None:
            return error.code in chosen
        return _is_passing(error) and error.code not in FINAL_CODES

    def _delay(self, retry: int, error: ToolError) -> float:
        """At least as long as the server asked for; without end where that is too long."""
        asked = retry_after_seconds(error)
        if asked > self._config.max_retry_after_seconds:
            return math.inf
        return max(asked, self._config.delay_seconds_before(retry, self._services.random))


class _Attempts:
    """The attempts of one call, and whether there may be another one."""

    def __init__(self, call: Call, proceed: Proceed) -> None:
        self.call = call
        self._proceed = proceed
        self._given = call if call.emit is None else dataclasses.replace(call, emit=self._emit)
        self._emitted = False
        self.last: ToolError | None = None

    def forget(self) -> None:
        self.last = None

    async def make(self) -> Encoded:
        try:
            return await self._proceed(self._given)
        except ToolError as error:
            self.last = error
            raise

    def is_last(self, error: ToolError) -> bool:
        """Whether the last attempt raised it."""
        return error is self.last

    def may_go_on(self, error: ToolError, delay_seconds: float = 0.0) -> bool:
        """Whether another attempt, that much later, is in time and does nothing twice."""
        call, left = self.call, self.call.remaining_seconds()
        if self._emitted or call.usage.circuit_opened or not math.isfinite(delay_seconds):
            return False
        in_time = left is None or delay_seconds < left
        return in_time and (_has_no_effect_twice(call) or error.details.get("sent") is False)

    def retry(self, error: ToolError, delay_seconds: float | None = None) -> None:
        """Count another attempt, and tell of it; the delay is None where a function waits as it likes."""
        usage = self.call.usage
        usage.retries += 1
        after = "" if delay_seconds is None else f" after {delay_seconds:.3g} s"
        usage.decisions.append(f"retried{after}: {error.code}")
        self.call.tell("retrying", attempt=usage.retries + 1, delay_seconds=delay_seconds, code=error.code)

    async def _emit(self, chunk: Encoded) -> None:
        self._emitted = True
        assert self.call.emit is not None
        await self.call.emit(chunk)


def retry_after_seconds(error: ToolError) -> float:
    """How long the error asks to wait, 0 where it does not say; a tool may have written anything there."""
    asked = error.details.get("retry_after_seconds")
    if isinstance(asked, bool) or not isinstance(asked, int | float):
        return 0.0
    return asked if asked > 0 else 0.0


def _has_no_effect_twice(call: Call) -> bool:
    spec = call.tool.tool
    return bool(spec.read_only or spec.idempotent or call.key)


def _is_passing(error: ToolError) -> bool:
    """Whether the same call may succeed later: a function raises what Python has for that."""
    return error.retryable or (isinstance(error, ToolFailed) and isinstance(error.__cause__, _PASSING))


def _spread(seconds: float, random: Random) -> float:
    return random.uniform(-seconds, seconds) if seconds else 0.0
