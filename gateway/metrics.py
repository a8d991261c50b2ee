"""Counters and durations of tool calls and executions for Prometheus. Imported only where they are wanted.

Labels hold tools, roles, codes and backends, never users or tenants, and no name that a guest made up.
"""

from collections import Counter as Counts
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from gateway.errors import InvalidRequest, MissingExtra, RateLimited
from gateway.journal.base import ToolCall
from gateway.notices import ENDS, Notice, code_of
from gateway.pipeline import Pipeline
from gateway.policies.base import HasCircuits
from gateway.selection.selector import Decision
from gateway.tools.changes import Change
from gateway.tools.registry import RegisteredTool
from gateway.way import STREAM_TOOL

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as exc:
    raise MissingExtra("metrics", "metrics") from exc

if TYPE_CHECKING:
    from gateway.health import ToolHealth

Claims: TypeAlias = Callable[[], Iterable[tuple[str, int, int]]]
"""Of each pool of sandboxes its backend, how many were asked for, and how many of them were ready."""

_Collector = TypeVar("_Collector", bound=Collector)

UNKNOWN = "unknown"
"""What a tool is called that is not registered, whatever name was asked for."""

DURATION_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_STATUSES: Mapping[str, str] = {
    "tool_not_found": "not_found",
    "invalid_tool_id": "not_found",
    "tool_denied": "forbidden",
    "unauthorized": "forbidden",
    "insufficient_permissions": "forbidden",
    "unauthorized_role": "forbidden",
    "egress_denied": "forbidden",
    "approval_rejected": "forbidden",
    "invalid_input": "invalid_input",
    "too_large": "invalid_input",
    "timeout": "timeout",
    "deadline_exceeded": "timeout",
    "rate_limited": "rate_limited",
    "circuit_open": "circuit_open",
    "cancelled": "cancelled",
}
"""By the code of the error; any other is `error`."""

_CIRCUITS = {"closed": 0.0, "half_open": 1.0, "open": 2.0}
_HEALTH = {"healthy": 1.0, "degraded": 0.5, "unhealthy": 0.0, "unknown": -1.0}
_AFTER_CACHE = frozenset({"rate_limited", "circuit_open"})
"""Refusals of policies that stand behind the cache, so that it was asked before."""

_MAX_UNDER_WAY = 10_000
"""Calls of which something is remembered until they end. Of more, the oldest are forgotten: their end never came."""


@dataclass(slots=True)
class _UnderWay:
    """What policies told of a call that has not ended."""

    retries: int = 0
    limited: bool = False


class Metrics:
    """Watches the calls of a pipeline and is told of executions.

    They are in `registry` until `close`, or in one of their own. Raises InvalidRequest for a registry that has such
    metrics already, and TypeError for what is none.
    """

    def __init__(self, pipeline: Pipeline, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._is_own = registry is None
        self._pipeline = pipeline
        self._collectors: list[Collector] = []
        self._cache_counts: dict[str, tuple[int, int]] = {}
        self._circuits: set[str] = set()
        self._under_way: OrderedDict[tuple[str, int], _UnderWay] = OrderedDict()
        try:
            self._make_of_calls()
            self._make_of_policies()
            self._make_of_executions()
        except ValueError as exc:
            self.close()
            raise InvalidRequest("the registry has metrics of another Exec; give each one of its own") from exc
        pipeline.feed.add(self._watch)
        pipeline.runner.registry.subscribe(self._changed)

    def text(self) -> str:
        """All of its registry in Prometheus' text format."""
        return generate_latest(self.registry).decode()

    def close(self) -> None:
        """Leave the registry of the host; one of our own keeps what was counted."""
        for collector in () if self._is_own else self._collectors:
            self.registry.unregister(collector)
        self._collectors.clear()

    def execution(self, backend: str, outcome: str, seconds: float) -> None:
        self._executions.labels(backend, outcome).inc()
        self._execution_seconds.labels(backend, outcome).observe(seconds)

    def selection(self, decision: Decision) -> None:
        self._selections.labels(decision.reason).inc()

    def follow_pools(self, claims: Claims) -> None:
        """Let whoever looks also see the hit rates of pools of sandboxes."""
        self._registered(_Pools(claims))

    def health(self, found: "ToolHealth") -> None:
        if self._tool(found.tool_id) is not None:
            self._health.labels(found.tool_id).set(_HEALTH[found.status])

    def _make_of_calls(self) -> None:
        self._calls = self._counter("tool_calls_total", "Calls that ended", "tool_name", "status", "caller_role")
        self._seconds = self._registered(
            Histogram(
                "tool_execution_duration_seconds",
                "Duration of calls that were begun",
                ("tool_name", "caller_role"),
                buckets=DURATION_BUCKETS,
                registry=None,
            )
        )
        self._errors = self._counter(
            "tool_errors_total", "Calls that gave no result, by code", "tool_name", "error_type", "caller_role"
        )
        self._inflight = self._gauge("tool_inflight", "Calls under way", "tool_name")
        self._health = self._gauge(
            "tool_health_status", "1 healthy, 0.5 degraded, 0 unhealthy, -1 unknown, when last asked", "tool_name"
        )

    def _make_of_policies(self) -> None:
        self._hit_rate = self._gauge("tool_cache_hit_rate", "Part of look-ups that were hits, 0 to 1", "tool_name")
        self._cache = self._counter("tool_cache_operations_total", "Look-ups in the cache", "tool_name", "operation")
        self._retries = self._counter(
            "tool_retry_attempts_total", "Retries, by which one of its call it was", "tool_name", "attempt_number"
        )
        self._limited = self._counter("tool_rate_limited_total", "Calls refused by a rate limit", "tool_name")
        self._circuit = self._gauge("tool_circuit_state", "0 closed, 1 half-open, 2 open", "tool_name")
        self._transitions = self._counter(
            "tool_circuit_transitions_total", "Circuits that opened or closed", "tool_name", "to"
        )
        self._selections = self._counter(
            "tool_bandit_selections_total", "Choices among the tools of groups, by why it was that one", "strategy"
        )
        self._keyed = self._counter(
            "tool_idempotency_total", "Calls with an idempotency key, by what became of them", "tool_name", "outcome"
        )

    def _make_of_executions(self) -> None:
        self._executions = self._counter("toolexec_executions_total", "Executions that ended", "backend", "outcome")
        self._execution_seconds = self._registered(
            Histogram(
                "toolexec_execution_duration_seconds", "Duration of executions", ("backend", "outcome"), registry=None
            )
        )

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return self._registered(Counter(name, about, labels, registry=None))

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return self._registered(Gauge(name, about, labels, registry=None))

    def _registered(self, collector: _Collector) -> _Collector:
        self.registry.register(collector)
        self._collectors.append(collector)
        return collector

    def _watch(self, notice: Notice) -> None:
        name = self._name(notice.call.tool_id)
        if notice.kind in ENDS:
            self._ended(name, notice)
        elif (told := self._told.get(notice.kind)) is not None:
            told(self, name, notice)

    def _ended(self, name: str, notice: Notice) -> None:
        call, role, code = notice.call, notice.caller.role, code_of(notice.call)
        hit = bool(call.usage.get("cached_hit"))
        status = _STATUSES.get(code, "error") if code else "cache_hit" if hit else "success"
        self._calls.labels(name, status, role).inc()
        told = self._under_way.pop(_id(notice), None)
        if told is not None and told.limited and code == RateLimited.code:
            self._limited.labels(name).inc()
        if code:
            self._errors.labels(name, code, role).inc()
        if notice.began:
            self._inflight.labels(name).dec()
            self._seconds.labels(name, role).observe(call.duration_seconds)
            self._count_cache(name, call, hit=hit)
        if call.key:
            self._keyed.labels(name, _idempotency(call, code)).inc()

    def _started(self, name: str, notice: Notice) -> None:
        self._inflight.labels(name).inc()
        self._follow_circuit(name, notice.call.tool_id)

    def _retrying(self, name: str, notice: Notice) -> None:
        """Not by attempts: one that found no place among the calls at a time never reached the tool."""
        told = self._told_of(notice)
        told.retries += 1
        self._retries.labels(name, str(told.retries)).inc()

    def _rate_limited(self, name: str, notice: Notice) -> None:
        """Counted at the end of the call, for it may be tried again."""
        del name
        self._told_of(notice).limited = True

    def _told_of(self, notice: Notice) -> _UnderWay:
        told = self._under_way.setdefault(_id(notice), _UnderWay())
        if len(self._under_way) > _MAX_UNDER_WAY:
            self._under_way.popitem(last=False)
        return told

    def _circuit_moved(self, name: str, notice: Notice) -> None:
        self._transitions.labels(name, notice.kind.removeprefix("circuit_")).inc()

    _told: Mapping[str, "Callable[[Metrics, str, Notice], None]"] = {
        "started": _started,
        "retrying": _retrying,
        "rate_limited": _rate_limited,
        "circuit_opened": _circuit_moved,
        "circuit_half_open": _circuit_moved,
        "circuit_closed": _circuit_moved,
    }

    def _count_cache(self, name: str, call: ToolCall, *, hit: bool) -> None:
        """A miss is only what a cache was asked for in vain; a tool without one has none, and streams pass it by."""
        tool = self._tool(call.tool_id)
        if tool is None:
            return
        asks = not (call.via == STREAM_TOOL and tool.streams)
        asked = hit or (asks and (call.attempts > 0 or code_of(call) in _AFTER_CACHE))
        if not asked or self._pipeline.policy(tool, "cache") is None:
            return
        self._cache.labels(name, "hit" if hit else "miss").inc()
        hits, asked_for = self._cache_counts.get(name, (0, 0))
        hits, asked_for = self._cache_counts[name] = (hits + hit, asked_for + 1)
        self._hit_rate.labels(name).set(hits / asked_for)

    def _follow_circuit(self, name: str, tool_id: str) -> None:
        """The state is asked for when somebody looks: a circuit becomes half-open by the passing of time."""
        tool = self._tool(tool_id)
        if name in self._circuits or tool is None:
            return
        policy = self._pipeline.policy(tool, "breaker")
        if isinstance(policy, HasCircuits):
            self._circuits.add(name)
            self._circuit.labels(name).set_function(lambda: _CIRCUITS.get(policy.state(), 0.0))

    def _name(self, tool_id: str) -> str:
        tool = self._tool(tool_id)
        return UNKNOWN if tool is None else tool.id

    def _tool(self, tool_id: str) -> RegisteredTool | None:
        return self._pipeline.runner.registry.find(tool_id)

    def _changed(self, change: Change) -> None:
        """A tool that is gone, or has become another, takes its states with it; what was counted stays."""
        if change.kind in ("removed", "updated"):
            self._circuits.discard(change.tool_id)
            self._cache_counts.pop(change.tool_id, None)
            for gauge in (self._circuit, self._health, self._hit_rate):
                gauge.remove_by_labels({"tool_name": change.tool_id})


class _Pools(Collector):
    """Asks when somebody looks."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        about = "Part of claims for which a warm sandbox was ready, 0 to 1"
        family = GaugeMetricFamily("toolexec_pool_hit_rate", about, labels=["backend"])
        claims, hits = Counts[str](), Counts[str]()
        for backend, claimed, hit in self._claims():
            claims[backend] += claimed
            hits[backend] += hit
        for backend in sorted(+claims):
            family.add_metric([backend], hits[backend] / claims[backend])
        return [family]


def _id(notice: Notice) -> tuple[str, int]:
    return notice.execution_id, notice.call.index


def _idempotency(call: ToolCall, code: str) -> str:
    if code in ("idempotency_conflict", "in_progress"):
        return code.removeprefix("idempotency_")
    return "replayed" if call.usage.get("idempotency_reused") else "executed" if call.attempts else "refused"
