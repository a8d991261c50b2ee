"""What an `AsyncExec` tells of itself: events of its calls, metrics, and the health of its tools."""

from typing import TYPE_CHECKING

from gateway.errors import InvalidRequest
from gateway.events import MAX_BEHIND, CallEvents, EventStream, Listener, Subscription
from gateway.health import Health, HealthSummary, ToolHealth
from gateway.pipeline import Pipeline
from gateway.sources import Sources

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from gateway.metrics import Metrics
    from sandbox.tool_settings import ToolSettings


class Observed:
    """Costs nothing until somebody asks for something."""

    def __init__(self, pipeline: Pipeline, metrics: "Metrics | None", settings: "ToolSettings") -> None:
        self._metrics = metrics
        self._events = CallEvents(pipeline.feed)
        self._health = Health(
            pipeline,
            timeout_seconds=settings.health_timeout_seconds,
            slow_seconds=settings.health_slow_seconds,
            keep_seconds=settings.health_keep_seconds,
            on_answer=None if metrics is None else metrics.health,
        )
        self._sources: Sources | None = None

    def observe(self, listener: Listener, *, max_behind: int = MAX_BEHIND) -> Subscription:
        """Call `listener` with a `CallEvent` for whatever happens to tool calls, until what this returns is called.

        It may be async, with 5 s for each event, or not, and is then called in a thread. One that is more than
        `max_behind` events behind loses the oldest; whatever it does, no call waits for it or fails. Raises
        InvalidRequest, Closed.
        """
        return self._events.observe(listener, max_behind=max_behind)

    def events(self, *, max_behind: int = MAX_BEHIND) -> EventStream:
        """The same events from now on, to be looped over; closing it, or the Exec, ends it. Raises as `observe`."""
        return self._events.stream(max_behind=max_behind)

    def metrics_text(self) -> str:
        """Metrics in Prometheus' text format. Raises InvalidRequest unless they are on."""
        if self._metrics is None:
            raise InvalidRequest("there are no metrics; make the Exec with metrics=True, or with a registry of yours")
        return self._metrics.text()

    async def health(self, *, refresh: bool = False) -> HealthSummary:
        """How all tools and connected sources are. Each is asked for at most 2 s, 8 of them at once.

        What a tool said holds for 30 s unless `refresh` is given; the state of its circuit is that of now. Settings
        that begin with `health_` say other times.
        """
        return await self._health.summary(self._sources, refresh=refresh)

    async def tool_health(self, tool_id: str, *, refresh: bool = False) -> ToolHealth:
        """How one tool is; see `health`. Raises InvalidToolId, ToolNotFound."""
        return await self._health.tool(tool_id, refresh=refresh)

    async def _close_observed(self) -> None:
        await self._events.aclose()
        if self._metrics is not None:
            self._metrics.close()


def make_metrics(pipeline: Pipeline, given: "CollectorRegistry | bool | None") -> "Metrics":
    """Metrics in a registry of yours, or of their own. Raises InvalidRequest, MissingExtra."""
    from gateway.metrics import Metrics  # noqa: PLC0415 - an extra's

    return Metrics(pipeline, None if given is None or isinstance(given, bool) else given)
