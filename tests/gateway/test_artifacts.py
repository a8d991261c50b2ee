"""What tools attach to their calls: for the host alone, bounded, recorded, and given back by a replay."""

import copy
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.artifacts import MAX_ARTIFACT_BYTES, MAX_ARTIFACTS, Artifact, ArtifactBudget, Attached
from gateway.context import ToolContext
from gateway.errors import InvalidRequest, PayloadTooLarge, ToolFailed, ToolTimeout
from gateway.journal.base import CallFinished
from gateway.journal.records import INLINE_BYTES
from gateway.policies.approval import Approval
from gateway.policies.base import Call, Policies, Proceed
from gateway.policies.cache import ResultCache
from gateway.policies.idempotency import Idempotency
from gateway.policies.retry import FixedRetry
from gateway.providers.function import function_tool
from gateway.secrets import SecretRef, mask_of
from runtimes.wasm.backend import WASM
from sandbox import AsyncExec, Exec, Outcome
from tests.conftest import require
from tests.gateway.policed import Host

pytestmark = pytest.mark.anyio

PDF = b"%PDF-1.7 \xff\x00" + bytes(INLINE_BYTES)
"""No text, and too large to be kept within its record."""


def report(context: ToolContext, title: str = "t") -> str:
    """Make a report."""
    context.attach("report.pdf", b"a draft")
    context.attach("notes/ü.txt", title.encode())
    context.attach("report.pdf", PDF)
    return title


MADE = (Artifact("report.pdf", PDF), Artifact("notes/ü.txt", b"t"))


@pytest.fixture(params=["memory", "sqlite"])
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncExec]:
    if not WASM.exists():
        require("wasm", "the guest is not built")
    journal = "memory" if request.param == "memory" else f"sqlite:///{tmp_path}/journal.db"
    async with AsyncExec(workers=1, pool_size=1, journal=journal) as exec:
        exec.tool(report)
        yield exec


async def run(host: AsyncExec, code: str) -> Any:
    return await host.execute_code(code, backend="wasm")


async def ends(host: AsyncExec, execution_id: str) -> list[CallFinished]:
    return [one for one in await host.journal.records(execution_id) if isinstance(one, CallFinished)]


async def test_it_is_in_the_result_and_in_the_record_and_not_in_the_guest(host: AsyncExec) -> None:
    code = "import os\n[tools.report(), os.listdir('.'), [n for n in dir(tools.report) if 'artifact' in n]]"
    result = await run(host, code)
    assert result.value == ["t", [], []]
    assert [call.artifacts for call in result.tool_calls] == [MADE]
    assert result.artifacts == ()
    (end,) = await ends(host, result.execution_id)
    assert list(end.artifacts) == ["report.pdf", "notes/ü.txt"]
    assert [await host.journal.read(blob) for blob in end.artifacts.values()] == [PDF, b"t"]
    assert "%PDF" not in repr(result)


async def test_a_replay_gives_them_back_and_calls_nothing(host: AsyncExec) -> None:
    result = await run(host, "tools.report()")
    host.unregister("report")
    again = await host.replay(result.execution_id)
    assert again.same
    assert [call.artifacts for call in again.result.tool_calls] == [MADE]


async def test_what_was_attached_before_a_wait_is_there_after_it(host: AsyncExec) -> None:
    @host.tool(policies=Policies(approval=Approval()))
    async def sign(context: ToolContext) -> str:
        context.attach("signed", b"yes")
        return "signed"

    waiting = await run(host, "[tools.report(), tools.sign()]")
    assert waiting.outcome is Outcome.SUSPENDED
    assert [call.artifacts for call in waiting.tool_calls] == [MADE, ()]
    (pending,) = await host.approvals()
    await host.approve(pending.id)
    done = await host.resume(waiting.execution_id)
    assert done.value == ["t", "signed"]
    assert [call.artifacts for call in done.tool_calls] == [MADE, (Artifact("signed", b"yes"),)]


async def test_what_was_attached_before_a_wait_counts_after_it(host: AsyncExec) -> None:
    @host.tool
    async def fill(context: ToolContext) -> None:
        context.attach("all", bytes(MAX_ARTIFACT_BYTES))

    @host.tool(policies=Policies(approval=Approval()))
    async def more(context: ToolContext) -> None:
        context.attach("more", b"1")

    code = "tools.fill()\ntry:\n    tools.more()\nexcept tools.ToolError as e:\n    out = e.code\nout"
    waiting = await run(host, code)
    (pending,) = await host.approvals()
    await host.approve(pending.id)
    assert (await host.resume(waiting.execution_id)).value == PayloadTooLarge.code


async def test_events_have_them(host: AsyncExec) -> None:
    calls = [event.tool_call async for event in host.stream_code("tools.report()", backend="wasm")]
    assert [call.artifacts for call in calls if call is not None] == [(), MADE]


def test_the_host_is_handed_those_of_its_own_calls() -> None:
    found: list[Artifact] = []
    with Exec() as exec:
        exec.tool(report)

        @exec.tool
        async def both(context: ToolContext) -> str:
            assert context.call_tool is not None
            context.attach("mine", b"1")
            return str(await context.call_tool("report", {}))

        assert exec.run_tool("both", on_artifact=found.append) == "t"
        assert exec.run_tool("report") == "t"
    assert found == [*MADE, Artifact("mine", b"1")]


async def test_only_the_attempt_that_succeeds_keeps_what_it_attached() -> None:
    tried = 0

    async def flaky(context: ToolContext) -> int:
        nonlocal tried
        tried += 1
        context.attach(f"try-{tried}", bytes(MAX_ARTIFACT_BYTES // 2 + 1))  # two of them do not fit
        context.attach("note", str(tried).encode())
        if tried < 3:
            raise ConnectionError("not now")
        return tried

    retry = FixedRetry(max_attempts=3, delay_seconds=0.001, retry_on=frozenset({ToolFailed.code}))
    host = Host(function_tool(flaky, idempotent=True, policies=Policies(retry=retry)))
    gateway = host.gateway()
    assert await gateway.run_tool("flaky", {}) == 3
    assert [artifact.path for artifact in gateway.calls[0].artifacts] == ["try-3", "note"]
    (end,) = await host.finished()
    assert (end.attempts, list(end.artifacts)) == (3, ["try-3", "note"])


class Spoilt:
    """A policy that fails a call whose tool has succeeded."""

    async def apply(self, call: Call, proceed: Proceed) -> Any:
        await proceed(call)
        raise ToolFailed("spoilt")


@pytest.mark.parametrize("policies", [Policies(), Policies(access=Spoilt())])
async def test_a_call_that_fails_keeps_nothing_and_leaves_room(policies: Policies) -> None:
    async def fail(context: ToolContext) -> None:
        context.attach("large", bytes(MAX_ARTIFACT_BYTES))
        if policies == Policies():
            raise ValueError("no")

    host = Host(function_tool(fail, policies=policies), function_tool(report))
    gateway = host.gateway()
    for _ in range(2):
        with pytest.raises(ToolFailed, match=r"no|spoilt"):
            await gateway.run_tool("fail", {})
    assert await gateway.run_tool("report", {}) == "t"
    assert [call.artifacts for call in gateway.calls] == [(), (), MADE]
    assert [bool(end.artifacts) for end in await host.finished()] == [False, False, True]


async def test_a_result_from_elsewhere_has_none() -> None:
    cached = function_tool(report, name="cached", read_only=True, policies=Policies(cache=ResultCache()))
    once = function_tool(report, name="once", policies=Policies(idempotency=Idempotency()))
    host = Host(cached, once)
    gateway = host.gateway()
    for tool_id in ("cached", "cached", "once", "once"):
        assert await gateway.run_tool(tool_id, {}) == "t"
    assert [len(call.artifacts) for call in gateway.calls] == [2, 0, 2, 0]


async def test_a_stream_keeps_what_was_attached_between_its_chunks() -> None:
    def pages(context: ToolContext) -> Iterator[int]:
        for number in range(3):
            context.attach(f"{number}.png", bytes([number]))
            yield number

    host = Host(function_tool(pages))
    assert [event.data for event in await host.stream("pages")][:3] == [0, 1, 2]
    (end,) = await host.finished()
    assert list(end.artifacts) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../up", "a/../b", "a//b", "./a", "a\0b", "x" * 256, "a\ud800", b"a", None]
)
async def test_a_name_that_is_no_plain_path_fails_the_call(name: Any) -> None:
    async def attach(context: ToolContext) -> None:
        context.attach(name, b"x")

    with pytest.raises(ToolFailed, match="InvalidRequest: an artifact's name must be a relative path"):
        await Host(function_tool(attach)).call("attach")


@pytest.mark.parametrize("data", ["text", 5, None, [1]])
async def test_anything_but_bytes_fails_the_call(data: Any) -> None:
    async def attach(context: ToolContext) -> None:
        context.attach("a", data)

    with pytest.raises(ToolFailed, match="must be bytes"):
        await Host(function_tool(attach)).call("attach")


async def test_data_is_as_it_was_when_it_was_attached() -> None:
    async def attach(context: ToolContext) -> None:
        data = bytearray(b"before")
        context.attach("a", data)
        context.attach("b", memoryview(data))
        data[:] = b"after!"

    gateway = Host(function_tool(attach)).gateway()
    await gateway.run_tool("attach", {})
    assert gateway.calls[0].artifacts == (Artifact("a", b"before"), Artifact("b", b"before"))


async def test_bounds_hold_for_all_calls_of_an_execution_together() -> None:
    async def attach(context: ToolContext, names: list[str], size: int) -> None:
        for name in names:
            context.attach(name, bytes(size))

    host = Host(function_tool(attach))
    gateway = host.gateway()
    half = MAX_ARTIFACT_BYTES // 2
    await gateway.run_tool("attach", {"names": ["a", "a", "a"], "size": half})
    await gateway.run_tool("attach", {"names": ["a"], "size": half})
    with pytest.raises(PayloadTooLarge, match=f"of {MAX_ARTIFACT_BYTES + 1} bytes is over the limit"):
        await gateway.run_tool("attach", {"names": ["b"], "size": 1})
    await gateway.run_tool("attach", {"names": [str(n) for n in range(MAX_ARTIFACTS - 2)], "size": 0})
    with pytest.raises(ToolFailed, match=f"at most {MAX_ARTIFACTS} artifacts"):
        await gateway.run_tool("attach", {"names": ["one too many"], "size": 0})
    await host.gateway().run_tool("attach", {"names": ["of another execution"], "size": half})


async def test_a_thread_that_outlives_its_call_is_told_so() -> None:
    go, late = threading.Event(), []
    told = threading.Event()

    def slow(context: ToolContext) -> None:
        context.attach("early", b"1")
        go.wait(30)
        try:
            context.attach("late", b"2")
        except InvalidRequest as error:
            late.append(str(error))
        told.set()

    gateway = Host(function_tool(slow, timeout_seconds=0.05)).gateway()
    with pytest.raises(ToolTimeout):
        await gateway.run_tool("slow", {})
    go.set()
    assert await anyio.to_thread.run_sync(told.wait, 30)
    assert late == ["the call has ended; attach before the tool returns"]
    assert gateway.calls[0].artifacts == ()


async def test_secrets_are_masked_in_texts_and_names() -> None:
    value, binary = "s3cret-value", b"\xff\xfe s3cret-value"
    async with AsyncExec(secrets={"KEY": value}) as exec:

        @exec.tool
        async def leak(context: ToolContext) -> None:
            key = SecretRef("KEY")()
            context.attach("log.txt", f"used {key}".encode())
            context.attach(f"of-{key}.txt", b"")
            context.attach("raw", binary)

        found: list[Artifact] = []
        await exec.run_tool("leak", on_artifact=found.append)
        mask = mask_of("KEY")
        assert found == [
            Artifact("log.txt", f"used {mask}".encode()),
            Artifact(f"of-{mask}.txt", b""),
            Artifact("raw", binary),
        ]


def test_without_a_gateway_names_are_checked_and_nothing_is_kept() -> None:
    ToolContext().attach("a", b"x")
    with pytest.raises(InvalidRequest):
        ToolContext().attach("../a", b"x")


def test_a_copy_of_the_context_attaches_to_the_same_call() -> None:
    attached = Attached()
    with attached.attempt() as attach:
        copy.deepcopy(ToolContext(on_attach=attach)).attach("a", b"x")
    assert attached.kept == (Artifact("a", b"x"),)


Step = st.tuples(st.sampled_from("abc"), st.integers(0, MAX_ARTIFACT_BYTES // 2))


@given(st.lists(st.tuples(st.booleans(), st.lists(Step, max_size=5)), max_size=6))
def test_what_is_counted_is_what_is_kept(attempts: list[tuple[bool, list[tuple[str, int]]]]) -> None:
    budget, calls = ArtifactBudget(), []
    for succeeds, steps in attempts:
        attached = Attached(budget)
        calls.append(attached)
        try:
            with attached.attempt() as attach:
                for name, size in steps:
                    attach(Artifact(name, bytes(size)))
                if not succeeds:
                    raise ValueError
        except (ValueError, PayloadTooLarge):
            assert attached.kept == ()
    kept = [len(artifact.data) for attached in calls for artifact in attached.kept]
    assert sum(kept) <= MAX_ARTIFACT_BYTES
    budget.take(MAX_ARTIFACTS - len(kept), MAX_ARTIFACT_BYTES - sum(kept))
    with pytest.raises(PayloadTooLarge):
        budget.take(0, 1)
    with pytest.raises(InvalidRequest):
        budget.take(1, 0)
