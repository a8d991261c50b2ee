"""How tools and their sources are: asked with a bound, kept for a while, and read together with their circuits."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

import anyio

from gateway.errors import InvalidRequest, SandboxError
from gateway.payload import printable
from gateway.pipeline import Pipeline
from gateway.policies.base import HasCircuits
from gateway.sources import Sources
from gateway.tools.changes import Change
from gateway.tools.registry import RegisteredTool

TIMEOUT_SECONDS = 2.0
"""How long a tool or a source may take to say how it is; longer is degraded."""

SLOW_SECONDS = 1.0
"""An answer that took longer than this is degraded too."""

KEEP_SECONDS = 30.0
"""How long an answer holds; a circuit is looked at anew each time."""

MAX_AT_ONCE = 8
"""Tools that are asked at the same time."""

_MAX_MESSAGE = 300


class HealthStatus(StrEnum):
    """How something is, from its own answer and the state of its circuit."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It answers slowly, or not in time, or is being tried again after failures."""
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"
    """It cannot be asked, or there is nothing to ask."""


_WORST_FIRST = (HealthStatus.UNHEALTHY, HealthStatus.DEGRADED, HealthStatus.HEALTHY, HealthStatus.UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolHealth:
    """How one tool was at `checked_at`. `error_type` is the class of what its check raised, empty for nothing.

    `circuit` is the state of its breaker now: closed, half_open or open; empty where it has none.
    """

    tool_id: str
    status: HealthStatus
    message: str
    latency_seconds: float
    checked_at: datetime
    error_type: str = ""
    circuit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHealth:
    """How one source of tools was at `checked_at`."""

    name: str
    status: HealthStatus
    message: str
    latency_seconds: float
    checked_at: datetime
    error_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSummary:
    """How all are together. `status` is the worst of tools and sources, unknown where none of them is known.

    The counts are of tools; the ones that are `disabled` are not asked, and not among `tools`.
    """

    status: HealthStatus
    total: int
    healthy: int
    degraded: int
    unhealthy: int
    unknown: int
    disabled: int
    at: datetime
    tools: tuple[ToolHealth, ...]
    sources: tuple[SourceHealth, ...] = ()


class _Answer(NamedTuple):
    status: HealthStatus
    message: str
    error_type: str
    latency_seconds: float
    checked_at: datetime
    answered_at: float


class Health:
    """Asks the tools of a pipeline. What somebody asks already nobody asks a second time: both get the answer.

    `on_answer` hears of every tool that was asked. Raises InvalidRequest for times that are not above 0.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        slow_seconds: float = SLOW_SECONDS,
        keep_seconds: float = KEEP_SECONDS,
        on_answer: Callable[[ToolHealth], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, seconds in (("timeout_seconds", timeout_seconds), ("slow_seconds", slow_seconds)):
            if not seconds > 0:
                raise InvalidRequest(f"{name} must be above 0, not {seconds}")
        self._pipeline = pipeline
        self._registry = pipeline.runner.registry
        self._secrets = pipeline.secrets
        self._timeout_seconds = timeout_seconds
        self._slow_seconds = slow_seconds
        self._keep_seconds = keep_seconds
        self._on_answer = on_answer
        self._clock = clock
        self._answers: dict[str, _Answer] = {}
        self._asking: dict[str, anyio.Lock] = {}
        self._at_once = anyio.Semaphore(MAX_AT_ONCE)
        self._registry.subscribe(self._changed)

    async def tool(self, tool_id: str, *, refresh: bool = False) -> ToolHealth:
        """How one tool is; `refresh` asks anew. Raises InvalidToolId, ToolNotFound."""
        tool = self._registry.resolve(tool_id)
        answer = await self._answer(tool, refresh=refresh)
        return self._with_circuit(tool, answer)

    async def summary(self, sources: Sources | None = None, *, refresh: bool = False) -> HealthSummary:
        """How all tools and sources are. Sources are asked each time."""
        tools: dict[str, ToolHealth] = {}
        about: list[SourceHealth] = []

        async def ask(tool: RegisteredTool) -> None:
            tools[tool.id] = self._with_circuit(tool, await self._answer(tool, refresh=refresh))

        async def ask_source(of: Sources, name: str) -> None:
            found = await self._ask(lambda: of.check(name))
            about.append(SourceHealth(name=name, **_told(found)))

        async with anyio.create_task_group() as asking:
            for tool in self._registry.tools():
                asking.start_soon(ask, tool)
            if sources is not None:
                for report in sources.reports():
                    asking.start_soon(ask_source, sources, report.name)
        listed = tuple(tools[tool_id] for tool_id in sorted(tools))
        return _summary(listed, tuple(sorted(about, key=lambda one: one.name)), len(self._registry.disabled()))

    async def _answer(self, tool: RegisteredTool, *, refresh: bool) -> _Answer:
        known = self._answers.get(tool.id) if refresh else None
        # Whoever waits for the lock finds the answer of the one before, and it stays free when that one is cancelled.
        async with self._asking.setdefault(tool.id, anyio.Lock()):
            found = self._answers.get(tool.id)
            if found is not None and found is not known and self._clock() - found.answered_at <= self._keep_seconds:
                return found
            async with self._at_once:
                answer = await self._ask(tool.tool.provider.health)
            now = self._registry.find(tool.id)
            if now is not None and now.tool is tool.tool:
                self._answers[tool.id] = answer
            else:
                self._asking.pop(tool.id, None)
        if self._on_answer is not None:
            self._on_answer(self._with_circuit(tool, answer))
        return answer

    async def _ask(self, health: Callable[[], Awaitable[None]]) -> _Answer:
        """The answer, whatever is raised: it is somebody else's code, and what it raises is what we want to know."""
        started = time.perf_counter()
        verdict = HealthStatus.HEALTHY, "", ""
        with anyio.move_on_after(self._timeout_seconds) as scope:
            try:
                with nullcontext() if self._secrets is None else self._secrets.lent():
                    await health()
            except NotImplementedError:
                verdict = HealthStatus.UNKNOWN, "it cannot be asked", ""
            except Exception as exc:  # noqa: BLE001 - see above
                verdict = HealthStatus.UNHEALTHY, self._text(exc), type(exc).__name__
        seconds = time.perf_counter() - started
        if scope.cancel_called:  # some drivers turn the cancellation into an error of their own
            verdict = HealthStatus.DEGRADED, f"no answer within {self._timeout_seconds:g} s", ""
        elif verdict[0] is HealthStatus.HEALTHY and seconds > self._slow_seconds:
            verdict = HealthStatus.DEGRADED, f"slow: it took {seconds:.2f} s to answer", ""
        return _Answer(*verdict, seconds, datetime.now(UTC), self._clock())

    def is_unhealthy(self, tool_id: str) -> bool:
        """Whether that is what it said when it was last asked, and still holds. Nothing is asked."""
        found = self._answers.get(tool_id)
        holds = found is not None and self._clock() - found.answered_at <= self._keep_seconds
        return holds and found is not None and found.status is HealthStatus.UNHEALTHY

    def _text(self, exc: Exception) -> str:
        text = str(exc) if isinstance(exc, SandboxError) else f"{type(exc).__name__}: {exc}"
        return printable(text if self._secrets is None else self._secrets.text(text), _MAX_MESSAGE)

    def _with_circuit(self, tool: RegisteredTool, answer: _Answer) -> ToolHealth:
        circuit = _state(self._pipeline.policy(tool, "breaker"))
        found = ToolHealth(tool_id=tool.id, circuit=circuit, **_told(answer))
        if circuit == "open":
            return replace(found, status=HealthStatus.UNHEALTHY, message=found.message or "its circuit is open")
        if circuit == "half_open" and found.status is not HealthStatus.UNHEALTHY:
            return replace(found, status=HealthStatus.DEGRADED, message=found.message or "its circuit is half open")
        return found

    def _changed(self, change: Change) -> None:
        """What is known of a tool is forgotten when it is another one, or none."""
        if change.kind in ("updated", "removed"):
            self._answers.pop(change.tool_id, None)
            self._asking.pop(change.tool_id, None)


def worst(statuses: Iterable[HealthStatus]) -> HealthStatus:
    """Unhealthy before degraded before healthy; unknown when there is nothing else."""
    found = set(statuses)
    return next((status for status in _WORST_FIRST if status in found), HealthStatus.UNKNOWN)


def _state(policy: object) -> str:
    return policy.state() if isinstance(policy, HasCircuits) else ""


def _summary(tools: tuple[ToolHealth, ...], sources: tuple[SourceHealth, ...], disabled: int) -> HealthSummary:
    counts = Counter(tool.status for tool in tools)
    return HealthSummary(
        status=worst([*counts, *(source.status for source in sources)]),
        total=len(tools),
        **{str(status): counts[status] for status in HealthStatus},
        disabled=disabled,
        at=datetime.now(UTC),
        tools=tools,
        sources=sources,
    )


def _told(answer: _Answer) -> dict[str, Any]:
    return {name: value for name, value in answer._asdict().items() if name != "answered_at"}
