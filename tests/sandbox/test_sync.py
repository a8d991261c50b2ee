"""`Exec` is `AsyncExec` without the awaits, method by method, and safe in many threads."""

import inspect
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from runtimes.mock import MockBackend, MockGuest
from sandbox import AsyncExec, ChainStep, Closed, Exec, InvalidRequest, ParallelCall

RENAMED = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}


def methods(kind: type) -> dict[str, Any]:
    ours = [one for one in reversed(kind.__mro__) if one is not object]
    public = {name: value for one in ours for name, value in vars(one).items() if inspect.isfunction(value)}
    return {name: value for name, value in public.items() if not name.startswith("_") or name.endswith("__")}


@pytest.mark.parametrize("name", sorted(methods(AsyncExec)))
def test_every_method_takes_the_same_arguments(name: str) -> None:
    asynchronous = inspect.signature(methods(AsyncExec)[name])
    synchronous = inspect.signature(methods(Exec)[RENAMED.get(name, name)])
    assert synchronous.parameters == asynchronous.parameters
    if not name.startswith("stream_"):
        assert synchronous.return_annotation == asynchronous.return_annotation


def test_neither_has_methods_of_its_own() -> None:
    assert {RENAMED.get(name, name) for name in methods(AsyncExec)} == set(methods(Exec))


def test_every_public_method_of_the_original_is_documented() -> None:
    undocumented = [
        name for name, method in methods(AsyncExec).items() if not name.startswith("_") and not method.__doc__
    ]
    assert undocumented == []
    assert "AsyncExec" in (Exec.__doc__ or "")


async def _script(guest: MockGuest) -> Any:
    await guest.write(guest.code)
    return await guest.run_tool("thread_of", {"n": int(guest.code)})


@pytest.fixture
def host() -> Iterator[Exec]:
    with Exec(backends={"mock": MockBackend.scripted(_script)}) as exec:

        @exec.tool
        def thread_of(n: int) -> int:
            """Give back n after a while."""
            time.sleep(0.001)
            return n

        @exec.tool(namespace="a", name="later")
        async def later(n: int) -> int:
            """Give back n."""
            await anyio.lowlevel.checkpoint()
            return n

        yield exec


def test_everything_works_without_an_event_loop(host: Exec) -> None:
    result = host.execute_code("7", files={"a": "b"}, env={"A": "B"}, allowed_tools=["thread_of"])
    assert (result.value, result.stdout) == (7, "7")
    assert [event.kind for event in host.stream_code("8")] == [
        "started",
        "output",
        "tool_call_started",
        "tool_call_finished",
        "finished",
    ]
    assert host.run_tool("a:later", {"n": 1}) == 1
    assert host.run_chain([ChainStep("thread_of", {"n": 2})]).value == 2
    assert [found.value for found in host.run_parallel([ParallelCall("a:later", {"n": n}) for n in (1, 2)])] == [1, 2]
    assert host.search_tools("later")[0].id == "a:later"
    assert host.describe_tool("a:later")["id"] == "a:later"
    assert host.list_namespaces() == ("", "a")
    assert host.list_tool_examples("a:later") == ()
    assert host.probe()["mock"].usable


def test_errors_come_out_as_they_are(host: Exec) -> None:
    with pytest.raises(InvalidRequest, match="unknown profile"):
        host.execute_code("1", profile="none")
    with pytest.raises(InvalidRequest, match="unknown backend"):
        next(host.stream_code("1", backend="none"))


def test_eight_threads_at_once(host: Exec) -> None:
    def run(thread: int) -> list[Any]:
        return [host.execute_code(str(thread * 100 + n)).value for n in range(20)]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(run, range(8)))
    assert answers == [[thread * 100 + n for n in range(20)] for thread in range(8)]


def test_leaving_a_stream_early_ends_it() -> None:
    ended = threading.Event()

    async def script(guest: MockGuest) -> None:
        try:
            await guest.write("begun")
            await anyio.sleep_forever()
        finally:
            ended.set()

    with Exec(backends={"mock": MockBackend.scripted(script)}) as exec:
        events = exec.stream_code("1")
        assert [next(events).kind, next(events).kind] == ["started", "output"]
        events.close()  # type: ignore[attr-defined]  # a generator
        assert ended.wait(5)


def test_a_stream_that_outlives_its_exec_ends_with_closed() -> None:
    with Exec(backends={"mock": MockBackend}) as exec:
        events = exec.stream_code("1")
        assert next(events).kind == "started"
    with pytest.raises(Closed):
        list(events)


def test_a_stream_dropped_after_close_makes_no_noise(host: Exec) -> None:
    events = host.stream_code("1")
    next(events)
    host.close()
    events.close()  # type: ignore[attr-defined]  # a generator


def test_close_is_idempotent_and_final() -> None:
    exec = Exec(backends={"mock": MockBackend})
    exec.close()
    exec.close()
    for call in (exec.__enter__, exec.probe, exec.list_namespaces, lambda: exec.execute_code("1")):
        with pytest.raises(Closed, match="this Exec is closed; make a new one"):
            call()


def test_close_tells_other_threads() -> None:
    async def script(guest: MockGuest) -> None:
        running.set()
        await anyio.sleep_forever()

    running = threading.Event()
    exec = Exec(backends={"mock": MockBackend.scripted(script)})
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(exec.execute_code, "1") for _ in range(4)]
        assert running.wait(10)
        exec.close()
        assert [type(future.exception(10)) for future in futures] == [Closed] * 4


def test_a_bad_argument_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with pytest.raises(InvalidRequest):
        Exec(profile="none")
    assert threading.active_count() == before


def test_it_works_where_an_event_loop_already_runs() -> None:
    async def main() -> Any:
        with Exec(backends={"mock": MockBackend}) as exec:
            return exec.execute_code("in a notebook").value

    assert anyio.run(main) == "in a notebook"


def test_a_tool_may_use_the_exec_it_belongs_to(host: Exec) -> None:
    @host.tool
    def outer(n: int) -> Any:
        """Call another tool from a worker thread."""
        return host.run_tool("a:later", {"n": n})

    assert host.run_tool("outer", {"n": 3}) == 3
