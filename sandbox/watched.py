"""What is told of an execution beside its result: a span, metrics, and lines in the log."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.context import ToolContext
from gateway.errors import SandboxError
from gateway.ids import execution_ids, within
from gateway.tracing import execution_span
from sandbox.request import Request
from sandbox.result import ExecutionResult

if TYPE_CHECKING:
    from gateway.metrics import Metrics

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Watched:
    """An execution under way; `result` once it has one."""

    result: ExecutionResult | None = None


@contextmanager
def watched(execution_id: str, request: Request, backend: str, metrics: "Metrics | None") -> Iterator[Watched]:
    """Tell of what happens inside. Without a result its outcome is the code of what was raised, or `cancelled`."""
    ids = execution_ids(execution_id, request.caller)
    about = {"backend": backend, "profile": request.profile.name, "language": request.language}
    attributes = {f"toolexec.{name}": value for name, value in about.items()}
    started, watch, outcome = time.perf_counter(), Watched(), "cancelled"
    context = ToolContext(execution_id=execution_id, caller=request.caller)
    with within(context), execution_span(execution_id, request.caller, attributes) as span:
        _log.debug("execution started", extra=ids | about)
        try:
            yield watch
        except SandboxError as error:
            outcome = error.code
            raise
        finally:
            outcome = outcome if watch.result is None else str(watch.result.outcome)
            seconds = time.perf_counter() - started
            if span is not None:
                span.set_attribute("toolexec.outcome", outcome)
            if metrics is not None:
                metrics.execution(backend, outcome, seconds)
            _log.info(
                "execution ended", extra=ids | about | {"outcome": outcome, "duration_seconds": round(seconds, 6)}
            )
