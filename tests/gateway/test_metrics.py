"""Metrics: names, labels and buckets as documented, what is counted, and what never becomes a label."""

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import InvalidRequest, MissingExtra, RateLimited
from gateway.journal.base import Blob, CallStarted, ToolCall
from gateway.notices import Notice
from gateway.payload import Encoded, normalise
from gateway.policies.base import Call, Policies, Proceed
from gateway.policies.cache import ResultCache
from gateway.policies.concurrency import ConcurrencyLimit
from gateway.policies.retry import FixedRetry
from runtimes.mock import MockBackend
from sandbox import AsyncExec, Caller, Exec, ToolError, ToolGroup
from sandbox.observed import make_metrics

pytestmark = pytest.mark.anyio

CLERK = Caller(tenant_id="acme-inc", user_id="ada-lovelace", role="clerk")

NAMES = {
    "tool_calls_total": ("tool_name", "status", "caller_role"),
    "tool_execution_duration_seconds": ("tool_name", "caller_role"),
    "tool_errors_total": ("tool_name", "error_type", "caller_role"),
    "tool_cache_hit_rate": ("tool_name",),
    "tool_cache_operations_total": ("tool_name", "operation"),
    "tool_retry_attempts_total": ("tool_name", "attempt_number"),
    "tool_rate_limited_total": ("tool_name",),
    "tool_circuit_state": ("tool_name",),
    "tool_circuit_transitions_total": ("tool_name", "to"),
    "tool_idempotency_total": ("tool_name", "outcome"),
    "tool_inflight": ("tool_name",),
    "tool_bandit_selections_total": ("strategy",),
    "tool_health_status": ("tool_name",),
    "toolexec_executions_total": ("backend", "outcome"),
    "toolexec_execution_duration_seconds": ("backend", "outcome"),
    "toolexec_pool_hit_rate": ("backend",),
}
BUCKETS = ["0.01", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf"]


class Cached:
    """Has the second answer already."""

    def __init__(self) -> None:
        self.kept: dict[str, Encoded] = {}

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        key = str(call.arguments)
        if key in self.kept:
            call.usage.cached_hit = True
            call.tell("cache_hit")
        else:
            self.kept[key] = await proceed(call)
        return self.kept[key]


class Keyed:
    """Gives back what it has for a call with this key."""

    def __init__(self) -> None:
        self.kept: dict[str, Encoded] = {}

    def key(self, call: Call) -> str:
        return f"key of {call.arguments}"

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        if call.key in self.kept:
            call.usage.idempotency_reused = True
            call.tell("replayed")
            return self.kept[call.key]
        return self.kept.setdefault(call.key, await proceed(call))


class Limited:
    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        call.tell("rate_limited", retry_after_seconds=1.0)
        raise RateLimited(call.tool.id, 1.0)


class Breaker:
    def __init__(self) -> None:
        self.now = "closed"

    def state(self, tenant: str | None = None) -> str:
        return self.now

    def reset(self) -> None:
        self.now = "closed"

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        if self.now == "closed":
            self.now = "open"
            call.tell("circuit_opened", code="tool_failed")
        return await proceed(call)


class Retried:
    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        for _ in range(2):
            try:
                return await proceed(call)
            except ToolError:
                call.usage.retries += 1
                call.tell("retrying", attempt=call.usage.retries)
        return normalise("at last")


async def add(a: int) -> int:
    """Add one."""
    return a + 1


async def fail() -> None:
    """Fail."""
    raise LookupError("no row")


@pytest.fixture
async def host() -> AsyncIterator[AsyncExec]:
    async with AsyncExec(backends={"mock": MockBackend}, metrics=True) as host:
        host.tool(add)
        host.tool(fail)
        yield host


def samples(text: str) -> dict[tuple[str, ...], float]:
    """What is told, by name and values of labels in their documented order."""
    return {
        (sample.name, *(sample.labels[label] for label in NAMES[sample.name.removesuffix("_count")])): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket", "_sum"))
    }


async def told(host: AsyncExec, *name: str) -> float | None:
    return samples(host.metrics_text()).get(name)


async def test_names_labels_and_buckets_are_the_documented_ones() -> None:
    async def script(guest: Any) -> Any:
        return await guest.run_tool("busy", {"a": 1})

    backends = {"mock": MockBackend.scripted(script)}
    everything = Policies(cache=Cached(), idempotency=Keyed(), breaker=Breaker(), retry=Retried())
    async with AsyncExec(backends=backends, metrics=True) as host:
        host.tool(name="busy", policies=everything)(add)
        host.tool(name="fails", policies=Policies(retry=Retried()))(fail)
        host.tool(name="limited", policies=Policies(rate_limit=Limited()))(add)
        await host.execute_code("…", profile="dev")
        await host.run_tool("fails")
        host.tool(add)
        await host.run_selected(ToolGroup("any", ["add"]), {"a": 1})
        with pytest.raises(ToolError):
            await host.run_tool("limited", {"a": 1})
        await host.health()
        families = list(text_string_to_metric_families(host.metrics_text()))
    found: dict[str, tuple[str, ...]] = {}
    for family in families:
        if not family.name.endswith("_created"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = tuple(key for key in family.samples[0].labels if key != "le")
    assert found == {name: tuple(sorted(labels)) for name, labels in NAMES.items()}
    (duration,) = [family for family in families if family.name == "tool_execution_duration_seconds"]
    limits = [
        sample.labels["le"]
        for sample in duration.samples
        if sample.labels.get("tool_name") == "busy" and "le" in sample.labels
    ]
    assert limits == BUCKETS


async def test_calls_are_counted_by_tool_status_and_role(host: AsyncExec) -> None:
    for _ in range(2):
        await host.run_tool("add", {"a": 1}, caller=CLERK)
    await host.run_tool("add", {"a": 1})
    with pytest.raises(ToolError):
        await host.run_tool("fail")
    with pytest.raises(ToolError):
        await host.run_tool("add", {"a": "x"})
    assert await told(host, "tool_calls_total", "add", "success", "clerk") == 2
    assert await told(host, "tool_calls_total", "add", "success", "") == 1
    assert await told(host, "tool_calls_total", "fail", "error", "") == 1
    assert await told(host, "tool_calls_total", "add", "invalid_input", "") == 1
    assert await told(host, "tool_errors_total", "fail", "tool_failed", "") == 1
    assert await told(host, "tool_execution_duration_seconds_count", "add", "clerk") == 2


@pytest.mark.parametrize("name", ["nowhere", "add:x", "a:b:c", "x" * 300, "\n", ""])
async def test_a_name_that_a_guest_made_up_is_no_label(host: AsyncExec, name: str) -> None:
    with pytest.raises(ToolError):
        await host.run_tool(name)
    assert await told(host, "tool_calls_total", "unknown", "not_found", "") == 1
    assert {labels[1] for labels in samples(host.metrics_text()) if labels[0] == "tool_calls_total"} == {"unknown"}


async def test_users_and_tenants_are_no_labels(host: AsyncExec) -> None:
    await host.run_tool("add", {"a": 1}, caller=CLERK)
    assert "ada-lovelace" not in host.metrics_text()
    assert "acme-inc" not in host.metrics_text()


async def test_a_tool_that_is_denied_is_forbidden() -> None:
    async with AsyncExec(backends={"mock": MockBackend}, metrics=True) as host:
        host.tool(roles=["admin"])(add)
        with pytest.raises(ToolError):
            await host.run_tool("add", {"a": 1}, caller=CLERK)
        assert await told(host, "tool_calls_total", "add", "forbidden", "clerk") == 1
        assert await told(host, "tool_inflight", "add") is None


async def test_calls_under_way_are_counted_down_again_however_they_end(host: AsyncExec) -> None:
    host.tool(name="hang")(anyio.sleep_forever)
    async with anyio.create_task_group() as calls:
        for _ in range(3):
            calls.start_soon(host.run_tool, "hang")
        await anyio.sleep(0.02)
        assert await told(host, "tool_inflight", "hang") == 3
        calls.cancel_scope.cancel()
    assert await told(host, "tool_inflight", "hang") == 0
    assert await told(host, "tool_calls_total", "hang", "cancelled", "") == 3


async def test_only_tools_with_a_cache_have_misses(host: AsyncExec) -> None:
    host.tool(name="kept", policies=Policies(cache=Cached()))(add)
    for arguments in ({"a": 1}, {"a": 1}, {"a": 1}, {"a": 2}):
        await host.run_tool("kept", arguments)
        await host.run_tool("add", arguments)
    assert await told(host, "tool_cache_operations_total", "kept", "hit") == 2
    assert await told(host, "tool_cache_operations_total", "kept", "miss") == 2
    assert await told(host, "tool_cache_hit_rate", "kept") == 0.5
    assert await told(host, "tool_calls_total", "kept", "cache_hit", "") == 2
    assert await told(host, "tool_calls_total", "kept", "success", "") == 2
    assert "add" not in {labels[1] for labels in samples(host.metrics_text()) if "cache" in labels[0]}


async def test_retries_limits_and_keys(host: AsyncExec) -> None:
    host.tool(name="again", policies=Policies(retry=Retried()))(fail)
    host.tool(name="limited", policies=Policies(rate_limit=Limited()))(add)
    host.tool(name="once", policies=Policies(idempotency=Keyed()))(add)
    assert await host.run_tool("again") == "at last"
    with pytest.raises(ToolError):
        await host.run_tool("limited", {"a": 1})
    for _ in range(3):
        await host.run_tool("once", {"a": 1})
    assert await told(host, "tool_retry_attempts_total", "again", "1") == 1
    assert await told(host, "tool_retry_attempts_total", "again", "2") == 1
    assert await told(host, "tool_rate_limited_total", "limited") == 1
    assert await told(host, "tool_calls_total", "limited", "rate_limited", "") == 1
    assert await told(host, "tool_idempotency_total", "once", "executed") == 1
    assert await told(host, "tool_idempotency_total", "once", "replayed") == 2


async def test_streams_pass_the_cache_by_and_are_no_misses(host: AsyncExec, caplog: pytest.LogCaptureFixture) -> None:
    @host.tool(read_only=True, policies=Policies(cache=ResultCache()))
    async def count(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    for _ in range(2):
        events = host.stream_tool("count", {"n": 2})
        assert [event.kind async for event in events][-1] == "done"
    assert "count" not in {labels[1] for labels in samples(host.metrics_text()) if "cache" in labels[0]}
    for _ in range(2):
        assert await host.run_tool("count", {"n": 2}) == [0, 1]
    assert await told(host, "tool_cache_operations_total", "count", "miss") == 1
    assert await told(host, "tool_cache_operations_total", "count", "hit") == 1
    assert caplog.records == []


async def test_a_call_that_finds_no_place_again_and_again_counts_once(host: AsyncExec) -> None:
    go = anyio.Event()
    crowded = Policies(
        concurrency=ConcurrencyLimit(max_in_flight=1, wait_seconds=0.01),
        retry=FixedRetry(max_attempts=3, delay_seconds=0.01),
    )
    host.tool(name="narrow", policies=crowded)(go.wait)
    async with anyio.create_task_group() as calls:
        calls.start_soon(host.run_tool, "narrow")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ToolError, match="narrow"):
            await host.run_tool("narrow")
        go.set()
    retries = {labels[2]: n for labels, n in samples(host.metrics_text()).items() if "retry" in labels[0]}
    assert retries == {"1": 1, "2": 1}
    assert await told(host, "tool_rate_limited_total", "narrow") == 1
    assert await told(host, "tool_calls_total", "narrow", "rate_limited", "") == 1


async def test_a_call_that_finds_its_place_later_was_not_refused(host: AsyncExec) -> None:
    class Once:
        """Refuses the first time."""

        refused = False

        async def apply(self, call: Call, proceed: Proceed) -> Encoded:
            if self.refused:
                return await proceed(call)
            self.refused = True
            return await Limited().apply(call, proceed)

    host.tool(
        name="later", read_only=True, policies=Policies(concurrency=Once(), retry=FixedRetry(delay_seconds=0.01))
    )(add)
    assert await host.run_tool("later", {"a": 1}) == 2
    assert await told(host, "tool_rate_limited_total", "later") is None
    assert await told(host, "tool_retry_attempts_total", "later", "1") == 1


async def test_a_limit_far_away_is_not_one_of_ours(host: AsyncExec) -> None:
    async def far() -> None:
        raise RateLimited("far", 1.0)

    host.tool(far)
    with pytest.raises(RateLimited):
        await host.run_tool("far")
    assert await told(host, "tool_rate_limited_total", "far") is None


async def test_what_is_remembered_of_calls_goes_with_them_and_is_bounded(
    host: AsyncExec, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = host._metrics
    assert metrics is not None
    host.tool(name="limited", policies=Policies(rate_limit=Limited()))(add)
    with pytest.raises(ToolError):
        await host.run_tool("limited", {"a": 1})
    assert len(metrics._under_way) == 0
    monkeypatch.setattr("gateway.metrics._MAX_UNDER_WAY", 2)
    started = CallStarted(
        execution_id="e", index=0, at=datetime.now(UTC), tool_id="limited", arguments=Blob.of(b"{}"), via="run_tool"
    )
    call = ToolCall.of(started, None)
    for number in range(5):
        metrics._watch(Notice("rate_limited", call, f"e{number}", CLERK, 0))
    assert len(metrics._under_way) == 2


async def test_circuits_are_looked_at_when_they_are_asked_for(host: AsyncExec) -> None:
    breaker = Breaker()
    host.tool(name="b", policies=Policies(breaker=breaker))(add)
    await host.run_tool("b", {"a": 1})
    assert await told(host, "tool_circuit_transitions_total", "b", "opened") == 1
    seen = []
    for state in ("open", "half_open", "closed"):
        breaker.now = state
        seen.append(await told(host, "tool_circuit_state", "b"))
    assert seen == [2, 1, 0]
    host.unregister("b")
    assert await told(host, "tool_circuit_state", "b") is None
    assert await told(host, "tool_calls_total", "b", "success", "") == 1


async def test_health_is_told_when_it_was_asked_for(host: AsyncExec) -> None:
    await host.health()
    assert await told(host, "tool_health_status", "add") == 1
    host.registry.disable("fail")
    host.unregister("add")
    assert await told(host, "tool_health_status", "add") is None


async def test_executions_and_pools() -> None:
    async def script(guest: Any) -> Any:
        if guest.code == "bad":
            raise ValueError("bad")
        return 1

    async with AsyncExec(backends={"mock": MockBackend.scripted(script)}, metrics=True, pool_size=1) as host:
        for code in ("good", "good", "bad"):
            await host.execute_code(code, profile="dev")
        assert await told(host, "toolexec_executions_total", "mock", "completed") == 2
        assert await told(host, "toolexec_executions_total", "mock", "raised") == 1
        assert await told(host, "toolexec_execution_duration_seconds_count", "mock", "completed") == 2
        (pool,) = await host.pool_metrics()
        assert await told(host, "toolexec_pool_hit_rate", "mock") == pool.hit_rate


async def test_a_registry_of_the_hosts_has_them_until_the_exec_is_closed() -> None:
    registry = CollectorRegistry()
    host = AsyncExec(backends={"mock": MockBackend}, metrics=registry)
    host.tool(add)
    await host.run_tool("add", {"a": 1})
    assert (
        registry.get_sample_value("tool_calls_total", {"tool_name": "add", "status": "success", "caller_role": ""}) == 1
    )
    assert host.metrics_text().count("tool_calls_total{") == 1
    with pytest.raises(InvalidRequest, match="another Exec"):
        AsyncExec(backends={"mock": MockBackend}, metrics=registry)
    await host.aclose()
    assert list(registry.collect()) == []
    async with AsyncExec(backends={"mock": MockBackend}, metrics=registry):
        assert list(registry.collect()) != []


async def test_metrics_are_off_unless_they_were_chosen() -> None:
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        with pytest.raises(InvalidRequest, match="metrics=True"):
            host.metrics_text()


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gateway.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"toolexec\[metrics\]"):
        make_metrics(None, None)  # type: ignore[arg-type]


def test_without_an_event_loop() -> None:
    with Exec(backends={"mock": MockBackend}, metrics=True) as exec:
        exec.tool(add)
        exec.run_tool("add", {"a": 1})
        assert samples(exec.metrics_text())["tool_calls_total", "add", "success", ""] == 1
