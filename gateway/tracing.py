"""Spans of OpenTelemetry around calls and executions. Without a tracer that the host configured they are nothing.

A host that configured one has imported the API, so it is looked for among what is loaded, and never imported here.
Spans carry ids, codes and counts; arguments, results, users and the text of errors stay out of them.
"""

import asyncio
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gateway.base import JsonValue
from gateway.context import Caller, ToolContext
from gateway.errors import SandboxError
from gateway.policies.base import Call
from gateway.usage import CallUsage

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

_NOTHING = nullcontext()
_USAGE: ContextVar[CallUsage | None] = ContextVar("toolexec_usage", default=None)
_REQUEST: ContextVar["Span | None"] = ContextVar("toolexec_request", default=None)


def here() -> "Context | None":
    """Where spans belong that are made in other tasks for whoever asks now."""
    if _tracer() is None:
        return None
    from opentelemetry.context import get_current  # noqa: PLC0415 - loaded when there is a tracer

    return get_current()


def call_span(call: Call, parent: "Context | None") -> AbstractContextManager[None]:
    """`<tool>.execute`: one call with all its attempts, under `parent`."""
    tracer = _tracer()
    return _NOTHING if tracer is None else _call_span(tracer, call, parent)


@contextmanager
def _call_span(tracer: "Tracer", call: Call, parent: "Context | None") -> Iterator[None]:
    context, token = call.context, _USAGE.set(call.usage)
    attributes = {"toolexec.call_index": context.call_index, **_ids(context.execution_id, context.caller)}
    try:
        with _span(
            tracer, f"{context.tool_id}.execute", {"toolexec.tool_id": context.tool_id, **attributes}, parent
        ) as s:
            try:
                yield
            finally:
                s.set_attribute("toolexec.attempts", call.usage.attempts)
    finally:
        _USAGE.reset(token)


@contextmanager
def execution_span(execution_id: str, caller: Caller, attributes: Mapping[str, str]) -> Iterator["Span | None"]:
    """`execute_code`: one execution, whose calls are below it."""
    tracer = _tracer()
    if tracer is None:
        yield None
        return
    with _span(tracer, "execute_code", {**_ids(execution_id, caller), **attributes}) as span:
        yield span


@contextmanager
def request_span(context: ToolContext, what: str, attributes: Mapping[str, Any]) -> Iterator[None]:
    """`<tool>.http` or `<tool>.db`: one request of a provider to what answers it."""
    tracer = _tracer() if context.tool_id else None
    if tracer is None:
        yield
        return
    usage = _USAGE.get()
    given = {"toolexec.tool_id": context.tool_id, "toolexec.attempt": 1 if usage is None else usage.attempts}
    known = {name: value for name, value in attributes.items() if value is not None}
    with _span(tracer, f"{context.tool_id}.{what}", given | known, client=True) as span:
        token = _REQUEST.set(span)
        try:
            yield
        finally:
            _REQUEST.reset(token)


def note(kind: str, details: Mapping[str, JsonValue]) -> None:
    """An event of the current span."""
    if _tracer() is not None:
        from opentelemetry.trace import get_current_span  # noqa: PLC0415

        get_current_span().add_event(f"toolexec.{kind}", {name: _plain(value) for name, value in details.items()})


def annotate(name: str, value: str | int) -> None:
    """An attribute of the span of the request that is under way; of nothing else, such as a span of the host's."""
    span = _REQUEST.get()
    if span is not None:
        span.set_attribute(name, value)


def trace_headers() -> tuple[tuple[str, str], ...]:
    """W3C `traceparent` and `tracestate` for a request, none unless a span is being recorded. Never baggage."""
    if _tracer() is None:
        return ()
    from opentelemetry.trace import get_current_span  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    carrier: dict[str, str] = {}
    if get_current_span().is_recording():
        TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())


def trace_ids() -> dict[str, JsonValue]:
    """`trace_id` and `span_id` of the current span for a line of a log; none without."""
    if _tracer() is None:
        return {}
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span  # noqa: PLC0415

    found = get_current_span().get_span_context()
    if not found.is_valid:
        return {}
    return {"trace_id": format_trace_id(found.trace_id), "span_id": format_span_id(found.span_id)}


def _tracer() -> "Tracer | None":
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else _tracer_of(provider)


@lru_cache(maxsize=1)
def _tracer_of(provider: "TracerProvider") -> "Tracer":
    return provider.get_tracer("toolexec")


@contextmanager
def _span(
    tracer: "Tracer",
    name: str,
    attributes: Mapping[str, Any],
    parent: "Context | None" = None,
    *,
    client: bool = False,
) -> Iterator["Span"]:
    """A span that is the current one inside, and ends with the code of what is raised."""
    from opentelemetry.context import attach, detach  # noqa: PLC0415 - loaded when there is a tracer
    from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context  # noqa: PLC0415

    kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
    span = tracer.start_span(name, parent, kind, attributes)
    token = attach(set_span_in_context(span, parent))
    try:
        yield span
    except BaseException as error:
        code = _code(error)
        span.set_attribute("toolexec.code", code)
        span.set_attribute("error.type", code)
        span.set_status(StatusCode.ERROR, code)
        raise
    finally:
        detach(token)
        span.end()


def _code(error: BaseException) -> str:
    if isinstance(error, SandboxError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__


def _ids(execution_id: str, caller: Caller) -> dict[str, str]:
    tenant = {"toolexec.tenant_id": caller.tenant_id} if caller.tenant_id else {}
    return {"toolexec.execution_id": execution_id} | tenant


def _plain(value: JsonValue) -> str | bool | int | float:
    return value if isinstance(value, str | bool | int | float) else str(value)
