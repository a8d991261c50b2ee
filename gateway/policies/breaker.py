"""Circuit breakers: a tool that fails too often is left alone for a while, and then tried with a few calls.

What is common to all of them is here; a kind of breaker is a `Tally` that says when it was too often, and the config
that makes it. The standard one counts failures in a row.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from gateway.errors import CircuitOpen, InvalidRequest, RateLimited, ToolError, ToolFailed, ToolTimeout, ToolUnavailable
from gateway.payload import Encoded
from gateway.policies.base import Call, CircuitState, Proceed, Services
from gateway.policies.checks import FINAL_CODES, check_count, check_seconds, checked_codes
from gateway.policies.circuit import Circuit, Tally

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool

TRIP_CODES = frozenset({ToolTimeout.code, ToolUnavailable.code, ToolFailed.code})

MAX_TENANTS = 1000
"""Circuits that are kept for one tool; of more tenants, the one unused for longest is forgotten, closed ones first."""

_NEVER = FINAL_CODES | {RateLimited.code}
_SLACK_SECONDS = 0.005  # as in gateway/direct.py: timers may fire a little early
_ORDER: tuple[CircuitState, ...] = ("closed", "half_open", "open")


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig(ABC):
    """What all breakers have. Subclasses are frozen dataclasses with a `kind` and a `tally`. Raises InvalidRequest.

    Errors with one of `trip_codes` are failures; others say nothing of the tool's health, and refusals such as
    `invalid_input` can never be among them. So as not to let one guest's input open it for all: a `tool_failed` counts
    once for each execution until a call succeeds, a 4xx of an HTTP server not at all, and neither does running out of
    a time that the caller gave and that is shorter than the tool's own. An execution whose probe fails in a way that no
    longer counts may not probe for `recovery_seconds`; others may.

    An answer that took longer than `slow_seconds`, with all that waits further in, is a failure too, once for each
    execution; a stream takes any time.
    `per_tenant` keeps a circuit for each tenant. `scope` "attempt" counts each attempt of a retry, "call" the call;
    what counts once for each execution counts once for all attempts of a call too.
    """

    kind: ClassVar[str]

    recovery_seconds: float = 30.0
    half_open_max_calls: int = 1
    trip_codes: frozenset[str] = TRIP_CODES
    slow_seconds: float | None = None
    per_tenant: bool = False
    scope: Literal["call", "attempt"] = "call"

    def __post_init__(self) -> None:
        check_seconds("recovery_seconds", self.recovery_seconds)
        check_count("half_open_max_calls", self.half_open_max_calls)
        if self.slow_seconds is not None:
            check_seconds("slow_seconds", self.slow_seconds)
        object.__setattr__(self, "trip_codes", checked_codes("trip_codes", self.trip_codes, _NEVER))
        if self.scope not in ("call", "attempt"):
            raise InvalidRequest(f'scope must be "call" or "attempt", not {self.scope!r}')

    @abstractmethod
    def tally(self) -> Tally:
        """A new one, for one circuit."""

    def build(self, tool: "RegisteredTool", services: Services) -> "Breaker":
        return Breaker(tool.id, self, services)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardBreaker(BreakerConfig):
    """Opens after `failure_threshold` failures in a row. Raises InvalidRequest."""

    kind: ClassVar[str] = "standard"

    failure_threshold: int = 5

    def __post_init__(self) -> None:
        BreakerConfig.__post_init__(self)
        check_count("failure_threshold", self.failure_threshold)

    def tally(self) -> Tally:
        return _Streak(self.failure_threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoBreaker:
    """No circuit, whatever the defaults say."""

    kind: ClassVar[str] = "none"

    def build(self, tool: "RegisteredTool", services: Services) -> None:  # noqa: ARG002 - the protocol's
        return None


class _Streak:
    """Failures in a row."""

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._count = 0

    def succeeded(self) -> None:
        self._count = 0

    def failed(self) -> bool:
        self._count += 1
        return self._count >= self._threshold


class Breaker:
    """The circuits of one tool: what a config builds. `scope` says where it stands: around retries, or within."""

    def __init__(self, tool_id: str, config: BreakerConfig, services: Services) -> None:
        self.scope = config.scope
        self._tool_id = tool_id
        self._config = config
        self._clock = services.clock
        self._circuits: OrderedDict[str, Circuit] = OrderedDict()

    def state(self, tenant: str | None = None) -> CircuitState:
        """Of the circuit that this tenant's calls pass; None for the worst of all."""
        if tenant is None:
            return max((circuit.state for circuit in self._circuits.values()), key=_ORDER.index, default="closed")
        circuit = self._circuits.get(self._key(tenant))
        return "closed" if circuit is None else circuit.state

    def reset(self) -> None:
        """Close every circuit and forget what was counted. Calls under way no longer count."""
        self._circuits.clear()

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        circuit = self._circuit(call.context.caller.tenant_id)
        period = self._admit(circuit, call)
        started = self._clock()
        outcome = _SAYS_NOTHING
        try:
            result = await proceed(call)
            outcome = self._outcome_of_answer(call, self._clock() - started)
        except ToolError as error:
            outcome = self._outcome_of_error(call, error)
            raise
        finally:  # also when cancelled: whoever probes must give the place back
            turned = circuit.settle(period, failed=outcome.failed, blamed=outcome.blamed)
            _tell(call, turned, outcome.code)
        return result

    def _admit(self, circuit: Circuit, call: Call) -> int:
        is_probe = circuit.state == "half_open"
        execution_id = call.context.execution_id
        period = circuit.admit(execution_id)
        if period is None:
            left = circuit.retry_after_seconds(execution_id)
            call.usage.decisions.append(f"refused: the circuit is {circuit.state}, for {left:.3g} s")
            call.tell("circuit_open", retry_after_seconds=left)
            raise CircuitOpen(self._tool_id, left)
        if is_probe:
            call.usage.decisions.append("circuit half open: this call tries the tool")
            if circuit.begins_probing():
                call.tell("circuit_half_open")
        return period

    def _outcome_of_answer(self, call: Call, seconds: float) -> "_Outcome":
        slow = self._config.slow_seconds
        if call.emit is None and slow is not None and seconds > slow:
            return _Outcome(failed=True, blamed=call.context.execution_id, code="slow")
        return _Outcome(failed=False)

    def _outcome_of_error(self, call: Call, error: ToolError) -> "_Outcome":
        if error.code not in self._config.trip_codes or _is_callers_doing(call, error):
            return _SAYS_NOTHING
        blamed = call.context.execution_id if error.code == ToolFailed.code else ""
        return _Outcome(failed=True, blamed=blamed, code=error.code)

    def _key(self, tenant: str) -> str:
        return tenant if self._config.per_tenant else ""

    def _circuit(self, tenant: str) -> Circuit:
        key = self._key(tenant)
        found = self._circuits.get(key)
        if found is None:
            if len(self._circuits) >= MAX_TENANTS:
                del self._circuits[self._least_wanted()]
            config = self._config
            found = Circuit(config.tally(), config.recovery_seconds, config.half_open_max_calls, self._clock)
            self._circuits[key] = found
        self._circuits.move_to_end(key)
        return found

    def _least_wanted(self) -> str:
        closed = (key for key, circuit in self._circuits.items() if circuit.state == "closed")
        return next(closed, next(iter(self._circuits)))


class _Outcome(NamedTuple):
    """What a call says of its tool: nothing (None), or whether it failed; `blamed` is whose doing that may be."""

    failed: bool | None
    blamed: str = ""
    code: str = ""


_SAYS_NOTHING = _Outcome(failed=None)


def _is_callers_doing(call: Call, error: ToolError) -> bool:
    """Whether a caller's time ran out before the tool's own, or an HTTP server found fault with the request."""
    status = error.details.get("status")
    if error.code == ToolFailed.code:
        return isinstance(status, int) and 400 <= status < 500
    if error.code != ToolTimeout.code:
        return False
    left, own = call.remaining_seconds(), call.tool.tool.timeout_seconds
    waited = call.wait_seconds is not None and call.wait_seconds < own
    if call.emit is not None and waited and error.details.get("timeout_seconds") == call.wait_seconds:
        return True
    return left is not None and left <= _SLACK_SECONDS


def _tell(call: Call, turned: CircuitState | None, code: str) -> None:
    if turned == "open":
        call.usage.circuit_opened = True
        call.usage.decisions.append(f"circuit opened: {code}")
        call.tell("circuit_opened", code=code)
    elif turned is not None:
        call.usage.decisions.append("circuit closed")
        call.tell("circuit_closed")
