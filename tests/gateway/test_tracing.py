"""Spans of calls, attempts at providers and executions: names, parents, attributes, and what they never say."""

import dataclasses
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanContext, StatusCode

from gateway import tracing
from gateway.errors import ToolUnavailable
from gateway.payload import Encoded
from gateway.policies.base import Call, Policies, Proceed
from gateway.providers.http import HttpApi
from gateway.providers.sql import SqlDatabase
from runtimes.mock import MockBackend
from sandbox import AsyncExec, Caller, Exec, ToolError
from sandbox.logs import CallIds
from tests.gateway.http_server import always, response, serving

pytestmark = pytest.mark.anyio

ADA = Caller(tenant_id="acme", user_id="ada-lovelace", role="clerk")


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    tracing._tracer_of.cache_clear()


async def add(a: int) -> int:
    """Add one, and log."""
    logging.getLogger("host.tool").warning("at work")
    trace.get_current_span().set_attribute("inside", True)
    return a + 1


async def fail() -> None:
    """Fail."""
    raise LookupError("a secret of the database")


class Again:
    """Tries twice."""

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        try:
            return await proceed(call)
        except ToolError:
            call.tell("retrying", attempt=1, delay_seconds=0.1, code="unavailable")
            return await proceed(call)


def ids(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_call_has_a_span_in_which_the_tool_runs(exporter: InMemorySpanExporter) -> None:
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        host.tool(add)
        await host.run_tool("add", {"a": 1}, caller=ADA)
    (span,) = exporter.get_finished_spans()
    found = attributes(span)
    assert span.name == "add.execute"
    assert found.pop("toolexec.execution_id").startswith("host-")
    assert found == {
        "toolexec.tool_id": "add",
        "toolexec.call_index": 0,
        "toolexec.tenant_id": "acme",
        "toolexec.attempts": 1,
        "inside": True,
    }
    assert "ada-lovelace" not in span.to_json()


async def test_a_failure_is_told_by_its_code_alone(exporter: InMemorySpanExporter) -> None:
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        host.tool(fail)
        with pytest.raises(ToolError):
            await host.run_tool("fail")
    (span,) = exporter.get_finished_spans()
    assert attributes(span)["toolexec.code"] == "tool_failed"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "tool_failed")
    assert "secret" not in span.to_json()


async def test_a_cancelled_call_ends_its_span(exporter: InMemorySpanExporter) -> None:
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        host.tool(name="hang")(anyio.sleep_forever)
        with anyio.move_on_after(0.02):
            await host.run_tool("hang")
    (span,) = exporter.get_finished_spans()
    assert attributes(span)["toolexec.code"] == "cancelled"


async def test_an_execution_is_the_parent_of_its_calls(exporter: InMemorySpanExporter) -> None:
    async def script(guest: Any) -> Any:
        return await guest.run_tool("add", {"a": 1})

    async with AsyncExec(backends={"mock": MockBackend.scripted(script)}) as host:
        host.tool(add)
        with trace.get_tracer_provider().get_tracer("host").start_as_current_span("host"):
            result = await host.execute_code("…", profile="dev", caller=ADA)
            async for _ in host.stream_code("…", profile="dev"):
                pass
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["add.execute", "execute_code", "add.execute", "execute_code", "host"]
    call, execution, _, _, host_span = spans
    assert call.parent is not None
    assert execution.parent is not None
    assert call.parent.span_id == ids(execution).span_id
    assert {span.parent.span_id for span in (spans[1], spans[3]) if span.parent} == {ids(host_span).span_id}
    assert attributes(execution) == {
        "toolexec.execution_id": result.execution_id,
        "toolexec.tenant_id": "acme",
        "toolexec.backend": "mock",
        "toolexec.profile": "dev",
        "toolexec.language": "python",
        "toolexec.outcome": "completed",
    }


def test_a_real_guests_calls_are_below_its_execution_without_an_event_loop(exporter: InMemorySpanExporter) -> None:
    with Exec(workers=1, pool_size=1) as exec:
        exec.tool(add)
        with trace.get_tracer_provider().get_tracer("host").start_as_current_span("host") as host_span:
            assert exec.execute_code("tools.add(a=1)").value == 2
    found = by_name(exporter)
    call, execution = found["add.execute"], found["execute_code"]
    assert call.parent is not None
    assert call.parent.span_id == ids(execution).span_id
    assert execution.parent is not None
    assert execution.parent.span_id == host_span.get_span_context().span_id


async def test_an_http_request_has_a_span_for_each_attempt_and_tells_the_server(
    exporter: InMemorySpanExporter,
) -> None:
    answers = [response(b"no", status="503 Busy"), response('"yes"')]

    async def answer(seen: Any, writer: Any) -> None:
        await always(answers.pop(0))(seen, writer)

    async with serving(answer) as server, AsyncExec(backends={"mock": MockBackend}) as host:
        tool = HttpApi(base_url=server.url).tool("shop:get", "GET", "/items/{item}")
        host.register(dataclasses.replace(tool, policies=Policies(retry=Again())))
        token = context.attach(baggage.set_baggage("user", "ada-lovelace"))
        try:
            assert await host.run_tool("shop:get", {"item": "secret-item"}) == "yes"
        finally:
            context.detach(token)
    first, second, call = exporter.get_finished_spans()
    assert [span.name for span in (first, second, call)] == ["shop:get.http", "shop:get.http", "shop:get.execute"]
    assert [attributes(span)["toolexec.attempt"] for span in (first, second)] == [1, 2]
    assert [attributes(span)["http.response.status_code"] for span in (first, second)] == [503, 200]
    assert attributes(first)["toolexec.code"] == "unavailable"
    assert attributes(first)["http.request.method"] == "GET"
    assert attributes(first)["server.address"] == "127.0.0.1"
    assert attributes(call)["toolexec.attempts"] == 2
    assert [(event.name, dict(event.attributes or {})["attempt"]) for event in call.events] == [
        ("toolexec.retrying", 1)
    ]
    for span, seen in zip((first, second), server.seen, strict=True):
        sent = f"00-{ids(span).trace_id:032x}-{ids(span).span_id:016x}"
        assert (seen.header("traceparent") or "")[:-3] == sent
        assert seen.header("baggage") is None
    assert "secret-item" not in first.to_json() + call.to_json()


async def test_without_a_span_that_is_recorded_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(always(response('"yes"'))) as server, AsyncExec(backends={"mock": MockBackend}) as host:
        host.register(HttpApi(base_url=server.url).tool("shop:get", "GET", "/"))
        await host.run_tool("shop:get")
        provider = TracerProvider(sampler=ALWAYS_OFF)
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
        await host.run_tool("shop:get")
    assert [seen.header("traceparent") for seen in server.seen] == [None, None]


async def test_asking_for_health_leaves_the_spans_of_the_host_alone(exporter: InMemorySpanExporter) -> None:
    async with serving(always(response("1"))) as server, AsyncExec(backends={"mock": MockBackend}) as host:
        host.register(HttpApi(base_url=server.url, health_path="/up").tool("shop:get", "GET", "/"))
        with trace.get_tracer_provider().get_tracer("host").start_as_current_span("host"):
            await host.check_tool("shop:get")
            assert (await host.health()).status == "healthy"
    (span,) = exporter.get_finished_spans()
    assert (span.name, attributes(span)) == ("host", {})


async def test_a_statement_has_a_span_with_driver_and_database(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    database = SqlDatabase(f"sqlite:///{tmp_path}/shop.db", read_only=False)
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        host.register(database.tool("one:value", "SELECT :n AS n"))
        await host.run_tool("one:value", {"n": 7})
        await host.check_tool("one:value")
    found = by_name(exporter)
    assert list(found) == ["one:value.db", "one:value.execute"]
    assert attributes(found["one:value.db"]) == {
        "toolexec.tool_id": "one:value",
        "toolexec.attempt": 1,
        "db.system.name": "sqlite",
        "db.driver": "aiosqlite",
        "db.namespace": "shop.db",
    }


async def test_a_line_of_a_tool_carries_the_ids_of_its_call_and_span(
    exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(adds := CallIds())
    try:
        async with AsyncExec(backends={"mock": MockBackend}) as host:
            host.tool(add)
            await host.run_tool("add", {"a": 1}, caller=ADA)
    finally:
        caplog.handler.removeFilter(adds)
    (record,) = [record for record in caplog.records if record.name == "host.tool"]
    span = ids(exporter.get_finished_spans()[0])
    assert (record.__dict__["trace_id"], record.__dict__["span_id"]) == (
        f"{span.trace_id:032x}",
        f"{span.span_id:016x}",
    )
    assert (record.__dict__["tool_id"], record.__dict__["call_index"]) == ("add", 0)
    assert record.__dict__["tenant_id"] == "acme"


async def test_nothing_is_made_without_a_tracer_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a span was made")

    monkeypatch.setattr(tracing, "_span", never)
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        host.tool(add)
        assert await host.run_tool("add", {"a": 1}) == 2
        monkeypatch.delitem(sys.modules, "opentelemetry.trace")
        assert await host.run_tool("add", {"a": 1}) == 2
        assert tracing.here() is None


def test_an_error_of_the_host_is_told_by_its_code(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ToolUnavailable), tracing.execution_span("e", Caller(), {}):
        raise ToolUnavailable("the shop", "closed")
    (span,) = exporter.get_finished_spans()
    assert attributes(span) == {
        "toolexec.execution_id": "e",
        "toolexec.code": "unavailable",
        "error.type": "unavailable",
    }
