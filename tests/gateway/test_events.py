"""Events of tool calls: what they say, in which order, and that no observer can hold up a call."""

import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import events
from gateway.errors import Closed, InvalidRequest, RateLimited, ToolFailed
from gateway.events import CallEvent
from gateway.masking import mask_fields
from gateway.payload import Encoded
from gateway.policies.base import Call, Policies, Proceed
from gateway.preview import PREVIEW_CHARS, preview
from runtimes.mock import MockBackend
from sandbox import AsyncExec, Caller, Exec, ToolError

pytestmark = pytest.mark.anyio

ADA = Caller(tenant_id="acme", user_id="ada", role="clerk")


class Talks:
    """A policy that tells two things and then goes on, or refuses."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        call.tell("retrying", attempt=1, delay_seconds=0.2)
        if self.refuses:
            call.tell("rate_limited", retry_after_seconds=2.0)
            raise RateLimited(call.tool.id, 2.0)
        return await proceed(call)


async def add(a: int, b: int = 1) -> int:
    """Add."""
    return a + b


async def fail() -> None:
    """Fail."""
    raise LookupError("no row for ada@example.com")


async def secrets() -> dict[str, Any]:
    """Give away too much."""
    return {"name": "Ada", "password": "hunter2", "inner": [{"api_key": "sk-1"}]}


@pytest.fixture
async def host() -> AsyncIterator[AsyncExec]:
    async with AsyncExec(backends={"mock": MockBackend}) as host:
        for function in (add, fail, secrets):
            host.tool(function)
        host.tool(name="talks", policies=Policies(retry=Talks()))(add)
        host.tool(name="refuses", policies=Policies(rate_limit=Talks(refuses=True)))(add)
        yield host


async def soon(true: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not true():  # noqa: ASYNC110 - listeners are told some time later, and nobody says when
            await anyio.sleep(0.001)


async def test_a_call_is_started_and_completed(host: AsyncExec) -> None:
    heard: list[CallEvent] = []
    host.observe(heard.append)
    assert await host.run_tool("add", {"a": 1}, caller=ADA) == 2
    await soon(lambda: len(heard) == 2)
    started, completed = heard
    assert (started.kind, started.sequence, started.latency_seconds, started.preview) == ("started", 1, None, "")
    assert (completed.kind, completed.sequence, completed.attempts, completed.preview) == ("completed", 2, 1, "2")
    assert completed.latency_seconds is not None
    assert completed.latency_seconds > 0
    assert started.at <= completed.at
    for event in heard:
        assert (event.tool_id, event.call_index, event.tenant_id, event.caller_role) == ("add", 0, "acme", "clerk")
        assert event.execution_id.startswith("host-")
        assert "ada" not in repr(event)


async def test_policies_are_heard_between_start_and_end(host: AsyncExec) -> None:
    heard: list[CallEvent] = []
    host.observe(heard.append)
    await host.run_tool("talks", {"a": 1})
    with pytest.raises(ToolError):
        await host.run_tool("refuses", {"a": 1})
    await soon(lambda: len(heard) == 7)
    assert [event.kind for event in heard] == [
        *("started", "retrying", "completed"),
        *("started", "retrying", "rate_limited", "refused"),
    ]
    assert heard[1].details == {"attempt": 1, "delay_seconds": 0.2}
    assert (heard[6].code, heard[6].attempts) == ("rate_limited", 0)
    assert [event.sequence for event in heard] == [1, 2, 3, 4, 5, 6, 7]


async def test_failed_and_refused_calls_have_a_code(host: AsyncExec) -> None:
    heard: list[CallEvent] = []
    host.observe(heard.append)
    for name, arguments in (("fail", {}), ("nowhere", {}), ("add", {"a": "x"})):
        with pytest.raises(ToolError):
            await host.run_tool(name, arguments)
    await soon(lambda: len(heard) == 5)
    assert (heard[1].preview, heard[1].masked) == ("LookupError: no row for ***", True)
    assert [(event.kind, event.tool_id, event.code) for event in heard] == [
        ("started", "fail", ""),
        ("failed", "fail", "tool_failed"),
        ("refused", "nowhere", "tool_not_found"),
        ("started", "add", ""),
        ("failed", "add", "invalid_input"),
    ]


async def test_a_cancelled_call_says_so(host: AsyncExec) -> None:
    async def hang() -> None:
        """Hang."""
        await anyio.sleep_forever()

    host.tool(hang)
    heard: list[CallEvent] = []
    host.observe(heard.append)
    with anyio.move_on_after(0.05):
        await host.run_tool("hang")
    await soon(lambda: len(heard) == 2)
    assert [(event.kind, event.code) for event in heard] == [("started", ""), ("cancelled", "cancelled")]


async def test_calls_of_snippets_are_heard_with_their_execution() -> None:
    async def script(guest: Any) -> Any:
        return await guest.run_tool("add", {"a": 1})

    async with AsyncExec(backends={"mock": MockBackend.scripted(script)}) as host:
        host.tool(add)
        async with anyio.create_task_group() as tasks:
            heard: list[CallEvent] = []
            stream = host.events()

            async def read() -> None:
                async for event in stream:
                    heard.append(event)
                    if event.kind == "completed":
                        break

            tasks.start_soon(read)
            result = await host.execute_code("…", profile="dev", caller=ADA)
        assert {event.execution_id for event in heard} == {result.execution_id}
        assert [event.kind for event in heard] == ["started", "completed"]


async def test_previews_are_short_and_masked(host: AsyncExec) -> None:
    heard: list[CallEvent] = []
    host.observe(heard.append)
    await host.run_tool("secrets")
    await host.run_tool("add", {"a": 10**150})
    await soon(lambda: len(heard) == 4)
    assert heard[1].masked
    assert "Ada" in heard[1].preview
    assert "hunter2" not in heard[1].preview
    assert "sk-1" not in heard[1].preview
    assert not heard[3].masked
    assert heard[3].preview == "1" + "0" * (PREVIEW_CHARS - 1) + "…"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=400),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5),
    max_leaves=30,
)


@given(json_values)
def test_a_preview_never_exceeds_its_length(value: Any) -> None:
    text, masked = preview(value)
    assert len(text) <= PREVIEW_CHARS + 1
    assert masked or mask_fields(value) == value or len(text) > PREVIEW_CHARS or "…" in text


def test_a_value_the_record_cut_off_is_told_by_its_size() -> None:
    """Its head is text, in which no mask finds the names of fields."""
    text, _ = preview({"truncated": True, "bytes": 70000, "head": '{"password": "hunter2"'})
    assert text == "(70000 bytes)"
    assert preview([[[[[[[[["deep"]]]]]]]]])[0].count("[") == 8


async def test_a_listener_may_be_async_and_anything_that_can_be_called(host: AsyncExec) -> None:
    heard: dict[str, list[str]] = {"async": [], "partial": [], "object": [], "lambda": []}

    async def listen(name: str, event: CallEvent) -> None:
        await anyio.lowlevel.checkpoint()
        heard[name].append(event.kind)

    class Listener:
        async def __call__(self, event: CallEvent) -> None:
            heard["object"].append(event.kind)

    async def plain(event: CallEvent) -> None:
        heard["async"].append(event.kind)

    for listener in (plain, partial(listen, "partial"), Listener(), lambda event: listen("lambda", event)):
        host.observe(listener)
    await host.run_tool("add", {"a": 1})
    await soon(lambda: all(kinds == ["started", "completed"] for kinds in heard.values()))


async def test_a_listener_that_raises_or_hangs_harms_nobody(
    host: AsyncExec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "LISTENER_SECONDS", 0.01)
    heard: list[CallEvent] = []
    released = threading.Event()

    def raises(event: CallEvent) -> None:
        raise RuntimeError(f"no {event.kind}")

    async def hangs(event: CallEvent) -> None:
        await anyio.sleep_forever()

    def blocks(event: CallEvent) -> None:
        released.wait(10)

    for listener in (raises, hangs, blocks, heard.append):
        host.observe(listener)
    try:
        assert await host.run_tool("add", {"a": 1}) == 2
        await soon(lambda: len(heard) == 2 and caplog.text.count("did not end") == 2)
    finally:
        released.set()
    assert caplog.text.count("a listener failed on started of tool add") == 1
    assert caplog.text.count("a listener failed on completed of tool add") == 1


async def test_a_slow_listener_loses_the_oldest_and_they_are_counted(
    host: AsyncExec, caplog: pytest.LogCaptureFixture
) -> None:
    held = anyio.Event()
    heard: list[int] = []

    async def slow(event: CallEvent) -> None:
        heard.append(event.sequence)
        await held.wait()

    observation = host.observe(slow, max_behind=2)
    for number in range(4):
        await host.run_tool("add", {"a": number})
        await soon(lambda: heard == [1])
    held.set()
    await soon(lambda: heard[-1:] == [8])
    assert heard == [1, 7, 8]
    assert observation.dropped == 5
    assert caplog.text.count("too slow") == 1


async def test_a_stream_that_is_behind_loses_the_oldest(host: AsyncExec) -> None:
    stream = host.events(max_behind=3)
    for number in range(3):
        await host.run_tool("add", {"a": number})
    assert [(await anext(stream)).sequence for _ in range(3)] == [4, 5, 6]
    assert stream.dropped == 3
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_nothing_is_heard_after_the_end_and_ending_twice_is_fine(host: AsyncExec) -> None:
    heard: list[CallEvent] = []
    stop = host.observe(heard.append)
    await host.run_tool("add", {"a": 1})
    await soon(lambda: len(heard) == 2)
    stop()
    stop()
    await host.run_tool("add", {"a": 1})
    await anyio.sleep(0.02)
    assert len(heard) == 2


async def test_nothing_is_made_while_nobody_listens(host: AsyncExec, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("an event was made")

    monkeypatch.setattr(events, "_event", never)
    host.observe(lambda _: None)()
    await host.run_tool("add", {"a": 1})


async def test_an_observer_leaves_no_task_when_it_has_heard_all(host: AsyncExec) -> None:
    heard: list[CallEvent] = []
    host.observe(heard.append)
    await host.run_tool("add", {"a": 1})
    await soon(lambda: len(heard) == 2)
    await anyio.sleep(0.01)
    gc.collect()
    assert not host._events._tasks


async def test_closing_lets_listeners_hear_the_last_and_ends_streams() -> None:
    heard: list[str] = []

    async def slow(event: CallEvent) -> None:
        await anyio.sleep(0.02)
        heard.append(event.kind)

    host = AsyncExec(backends={"mock": MockBackend})
    host.tool(add)
    host.observe(slow)
    stream = host.events()
    await host.run_tool("add", {"a": 1})
    await host.aclose()
    assert heard == ["started", "completed"]
    assert [event async for event in stream] == []
    with pytest.raises(Closed):
        host.observe(slow)
    with pytest.raises(Closed):
        host.events()


async def test_closing_does_not_wait_for_a_listener_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CLOSE_SECONDS", 0.02)
    released = threading.Event()

    async def hangs(event: CallEvent) -> None:
        await anyio.sleep_forever()

    host = AsyncExec(backends={"mock": MockBackend})
    host.tool(add)
    host.observe(hangs)
    host.observe(lambda _: released.wait(10))
    await host.run_tool("add", {"a": 1})
    try:
        with anyio.fail_after(3):
            await host.aclose()
    finally:
        released.set()


@pytest.mark.parametrize("max_behind", [0, -1])
async def test_arguments_that_make_no_sense_are_refused(host: AsyncExec, max_behind: int) -> None:
    with pytest.raises(InvalidRequest, match="max_behind"):
        host.observe(print, max_behind=max_behind)
    with pytest.raises(InvalidRequest, match="max_behind"):
        host.events(max_behind=max_behind)
    with pytest.raises(InvalidRequest, match="function"):
        host.observe("print")  # type: ignore[arg-type]


def test_without_an_event_loop() -> None:
    heard: list[str] = []
    done = threading.Event()

    def listen(event: CallEvent) -> None:
        heard.append(event.kind)
        if event.kind == "completed":
            done.set()

    with Exec(backends={"mock": MockBackend}) as exec:
        exec.tool(add)
        stop = exec.observe(listen)
        stream = exec.events()
        exec.run_tool("add", {"a": 1})
        assert done.wait(5)
        stop()
        assert [next(stream).kind, next(stream).kind] == heard == ["started", "completed"]
        stream.close()  # type: ignore[attr-defined]  # it is a generator


async def test_a_watch_that_raises_fails_no_call(host: AsyncExec, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Any) -> None:
        raise ToolFailed("the watch")

    host._events._feed.add(broken)
    with caplog.at_level(logging.ERROR):
        assert await host.run_tool("add", {"a": 1}) == 2
    assert "a watch of tool calls failed" in caplog.text
