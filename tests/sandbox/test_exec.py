"""The facade: what its caller sees, including when it is closed, cancelled or left early."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

from gateway.errors import BudgetExceeded, InvalidInput, ToolDenied, ToolFailed, ToolNotFound
from gateway.frames import Finished, FinishedKind
from gateway.journal.base import CallFinished, CallStatus, ExecutionFinished, ExecutionStarted, Lease, Record
from gateway.journal.memory import MemoryJournal
from runtimes.mock import MockBackend, MockGuest
from sandbox import (
    AsyncExec,
    BackendUnavailable,
    ChainStep,
    Closed,
    ExecutionFailed,
    InvalidRequest,
    Outcome,
    ParallelCall,
    SandboxError,
    ToolExample,
)

pytestmark = pytest.mark.anyio

UNSAFE: dict[str, Any] = {"profile": "dev", "backend": "unsafe"}


class KeepingJournal(MemoryJournal):
    """Keeps every record, whoever it is about, for tests that never learn the execution's id."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Record] = []

    async def append(self, *records: Record, lease: Lease | None = None) -> None:
        self.kept += records
        await super().append(*records, lease=lease)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        yield Path(folder)


@pytest.fixture
def journal() -> KeepingJournal:
    return KeepingJournal()


@pytest.fixture
async def real(journal: KeepingJournal) -> AsyncIterator[AsyncExec]:
    """Real processes, without isolation: what these tests do to them they do to every backend."""
    async with AsyncExec(allow_unsafe=True, journal=journal, pool_size=1) as exec:
        yield exec


def mocked(script: Any, **arguments: Any) -> AsyncExec:
    return AsyncExec(backends={"mock": MockBackend.scripted(script)}, **arguments)


async def hang(guest: MockGuest) -> None:
    await guest.write("begun")
    await anyio.sleep_forever()


# Running


async def test_a_result_says_what_was_in_force(real: AsyncExec) -> None:
    result = await real.execute_code("print('out'); 6 * 7", **UNSAFE, limits={"tool_calls": 3})
    assert (result.outcome, result.value, result.stdout) == (Outcome.COMPLETED, 42, "out\n")
    assert (result.profile, result.backend, result.limits.tool_calls) == ("dev", "unsafe", 3)
    assert {"wall_seconds", "memory_bytes", "tool_calls", "output_bytes"} <= result.enforced
    assert result.evidence["isolation"] == "none"
    assert result.ok
    result.raise_for_outcome()


async def test_records_tell_the_execution_from_start_to_end(real: AsyncExec, journal: KeepingJournal) -> None:
    real.tool(_add)
    result = await real.execute_code("tools.add(a=1, b=2)", **UNSAFE, allowed_tools=["add", "b:*"])
    assert result.value == 3
    records = await journal.records(result.execution_id)
    assert [type(record).__name__ for record in records] == [
        "ExecutionStarted",
        "CallStarted",
        "CallFinished",
        "ExecutionFinished",
    ]
    started, *_, finished = records
    assert isinstance(started, ExecutionStarted)
    assert isinstance(finished, ExecutionFinished)
    assert started.code.as_text() == "tools.add(a=1, b=2)"
    assert (started.backend, started.allowed_tools) == ("unsafe", ("add", "b:*"))
    assert finished.outcome == "completed"


async def test_a_raising_guest_is_a_value(real: AsyncExec) -> None:
    result = await real.execute_code("print('a')\n1 / 0", **UNSAFE)
    assert (result.outcome, result.stdout) == (Outcome.RAISED, "a\n")
    assert result.error is not None
    assert (result.error.type, result.error.line) == ("ZeroDivisionError", 2)
    with pytest.raises(ExecutionFailed, match=r"raised: ZeroDivisionError.*line 2") as caught:
        result.raise_for_outcome()
    assert caught.value.result is result


# Streaming


async def test_events_come_in_order(real: AsyncExec) -> None:
    real.tool(_add)
    code = "print('one')\nx = tools.add(a=1, b=2)\nprint('two')\nopen('a.txt', 'w').write('hi')\nx"
    events = [event async for event in real.stream_code(code, **UNSAFE)]
    kinds = [event.kind for event in events if event.kind != "output"]
    assert kinds == ["started", "tool_call_started", "tool_call_finished", "artifact", "finished"]
    # Output and calls come by ways of their own, and keep the order of each.
    assert "".join(event.text for event in events if event.kind == "output") == "one\ntwo\n"
    first, last = events[0], events[-1]
    assert last.result is not None
    assert (last.result.value, last.result.stdout) == (3, "one\ntwo\n")
    assert (first.execution_id, first.backend) == (last.result.execution_id, "unsafe")
    called = next(event.tool_call for event in events if event.kind == "tool_call_finished")
    assert called == last.result.tool_calls[0]
    written = next(event.artifact for event in events if event.kind == "artifact")
    assert written == last.result.artifacts[0]


async def test_output_arrives_while_the_guest_runs() -> None:
    goes_on = anyio.Event()

    async def script(guest: MockGuest) -> str:
        await guest.write("first")
        await goes_on.wait()
        return "done"

    async with mocked(script) as exec:
        async for event in exec.stream_code(""):
            if event.kind == "output":
                goes_on.set()
        assert event.result is not None
        assert event.result.value == "done"


async def test_a_character_split_over_two_chunks_arrives_whole(real: AsyncExec) -> None:
    code = "import os, time\nos.write(1, b'\\xc3'); time.sleep(0.2); os.write(1, b'\\xbc')\nNone"
    texts = [event.text async for event in real.stream_code(code, **UNSAFE) if event.kind == "output"]
    assert texts == ["ü"]


@pytest.mark.parametrize("how", ["break", "raise", "cancel"])
async def test_leaving_the_loop_early_ends_the_execution(real: AsyncExec, journal: KeepingJournal, how: str) -> None:
    code = (
        "import os, time\nprint(os.getpid())\nwhile True:\n    os.write(1, b'.'); os.write(2, b'.'); time.sleep(0.001)"
    )
    pid = 0
    events = real.stream_code(code, **UNSAFE, limits={"wall_seconds": 60})
    with anyio.CancelScope() as scope:
        try:
            async for event in events:
                if event.text.strip(".\n"):
                    pid = int(event.text.strip(".\n"))
                    if how == "raise":
                        raise LookupError
                    if how == "cancel":
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()
                    break
        except LookupError:
            pass
        finally:
            with anyio.CancelScope(shield=True):
                await events.aclose()
    assert pid
    assert not alive(pid)
    ended = journal.kept[-1]
    assert isinstance(ended, ExecutionFinished)
    assert ended.outcome == "cancelled"
    assert (await real.execute_code("1 + 1", **UNSAFE)).value == 2  # and nothing else broke


async def test_a_stream_that_cannot_start_raises() -> None:
    async with mocked(hang) as exec:
        with pytest.raises(InvalidRequest, match="unknown backend"):
            await anext(exec.stream_code("", backend="nothing"))


# Tools from the host


def _add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


_add.__name__ = "add"


@pytest.fixture
async def host() -> AsyncIterator[AsyncExec]:
    async with mocked(hang) as exec:
        exec.tool(namespace="math", examples=[ToolExample("small", {"a": 1, "b": 2}, "3")], notes="Exact.")(_add)

        @exec.tool(namespace="bad", name="fail")
        def _fail() -> None:
            """Always raise."""
            raise LookupError("no row")

        yield exec


async def test_tools_can_be_called_from_the_host(host: AsyncExec) -> None:
    assert await host.run_tool("math:add", {"a": 1, "b": 2}) == 3
    chain = await host.run_chain([ChainStep("math:add", {"a": 1, "b": 2}), ChainStep("bad:fail", {})])
    assert (chain.value, [step.ok for step in chain.steps]) == (None, [True, False])
    outcomes = await host.run_parallel([ParallelCall("math:add", {"a": n, "b": n}) for n in range(3)])
    assert [outcome.value for outcome in outcomes] == [0, 2, 4]


async def test_host_calls_fail_with_the_classes_of_guests(host: AsyncExec) -> None:
    with pytest.raises(InvalidInput):
        await host.run_tool("math:add", {"a": "one"})
    with pytest.raises(ToolNotFound, match="math:add"):
        await host.run_tool("math:ad", {})
    with pytest.raises(ToolFailed, match="no row"):
        await host.run_tool("bad:fail")


async def test_tools_can_be_found_and_read_about(host: AsyncExec) -> None:
    assert (await host.search_tools("add numbers"))[0].id == "math:add"
    assert (await host.describe_tool("math:add", "full"))["notes"] == "Exact."
    assert await host.list_namespaces() == ("bad", "math")
    (example,) = await host.list_tool_examples("math:add")
    assert example["arguments"] == {"a": 1, "b": 2}


async def test_host_calls_are_recorded(journal: KeepingJournal) -> None:
    async with mocked(hang, journal=journal) as exec:
        exec.tool(_add)
        await exec.run_tool("add", {"a": 1, "b": 2})
    assert [type(record).__name__ for record in journal.kept] == ["CallStarted", "CallFinished"]


async def test_every_form_of_the_decorator_leaves_the_function_as_it_was() -> None:
    exec = AsyncExec(backends={})

    @exec.tool
    def plain(a: int) -> int:
        """Plain."""
        return a

    @exec.tool()
    async def called(a: int) -> int:
        """Called."""
        return a

    @exec.tool(name="renamed", namespace="ns", version="1.0.0", description="Described.", tags=["t"])
    def optioned(a: int) -> int:
        return a

    assert (plain(1), await called(2), optioned(3)) == (1, 2, 3)
    assert [found.id for found in await exec.search_tools("")] == ["called", "ns:renamed:1.0.0", "plain"]


async def test_registering_is_all_or_nothing() -> None:
    exec = AsyncExec(backends={})
    exec.tool(_add)
    other = AsyncExec(backends={})
    other.tool(name="first")(_add)
    other.tool(_add)
    first, taken = (other.registry.find(name) for name in ("first", "add"))
    assert first is not None
    assert taken is not None
    with pytest.raises(InvalidRequest):
        exec.register(first.tool, taken.tool)
    assert [found.id for found in await exec.search_tools("")] == ["add"]


# The mock


async def test_a_script_stands_for_a_guest(journal: KeepingJournal) -> None:
    async def script(guest: MockGuest) -> Any:
        await guest.write(f"{guest.code} {guest.env['A']} {guest.files['f']!r}")
        await guest.write("err", "stderr")
        guest.leave("out/a.txt", b"hi")
        return await guest.run_tool("add", {"a": 1, "b": 2}), await guest.ask("list_namespaces", {})

    async with mocked(script, journal=journal) as exec:
        exec.tool(_add)
        result = await exec.execute_code("code", profile="hardened", env={"A": "a"}, files={"f": "text"})
    assert (result.value, result.stdout, result.stderr) == ([3, [""]], "code a b'text'", "err")
    assert [(artifact.path, artifact.data) for artifact in result.artifacts] == [("out/a.txt", b"hi")]
    assert [call.status for call in result.tool_calls] == [CallStatus.COMPLETED]
    assert result.evidence["mock"] is True
    assert len(journal.kept) == 4


@pytest.mark.parametrize(
    ("returned", "outcome", "value"),
    [
        (object, Outcome.COMPLETED, "<class 'object'>"),
        (Finished(FinishedKind.EXITED, exit_code=3), Outcome.EXITED, None),
        (Finished(FinishedKind.TOO_LARGE), Outcome.LIMIT_EXCEEDED, None),
    ],
)
async def test_a_script_ends_as_it_likes(returned: Any, outcome: Outcome, value: Any) -> None:
    async def script(guest: MockGuest) -> Any:
        return returned

    async with mocked(script) as exec:
        result = await exec.execute_code("")
    assert (result.outcome, result.value, result.value_is_repr) == (outcome, value, value is not None)


async def test_a_script_is_held_to_limits_and_grant() -> None:
    async def script(guest: MockGuest) -> list[str]:
        errors = []
        for tool_id in ("other", "add", "add"):
            try:
                await guest.run_tool(tool_id, {"a": 1, "b": 2})
            except (ToolDenied, ToolNotFound, BudgetExceeded) as error:
                errors.append(error.code)
        await guest.write("x" * 100)
        return errors

    async with mocked(script) as exec:
        exec.tool(_add)
        exec.tool(name="other")(_add)
        limits = {"tool_calls": 1, "output_bytes": 10}
        result = await exec.execute_code("", allowed_tools=["add"], limits=limits)
        assert (result.value, result.stdout) == (["tool_denied", "budget_exceeded"], "x" * 10)
        assert result.truncated == frozenset({"stdout"})


async def test_a_script_that_hangs_is_timed_out() -> None:
    async with mocked(hang) as exec:
        result = await exec.execute_code("", limits={"wall_seconds": 0.1})
    assert (result.outcome, result.limit, result.stdout) == (Outcome.TIMED_OUT, "wall_seconds", "begun")


async def test_a_script_that_misbehaves_is_killed() -> None:
    async def script(guest: MockGuest) -> None:
        guest.leave("../up", b"")

    async with mocked(script) as exec:
        result = await exec.execute_code("")
    assert result.outcome is Outcome.KILLED
    assert result.error is not None
    assert result.error.type == "ProtocolError"


async def test_a_raising_script_is_a_raising_snippet() -> None:
    async def script(guest: MockGuest) -> None:
        raise LookupError("no row")

    async with mocked(script) as exec:
        result = await exec.execute_code("")
    assert result.summary() == "raised: LookupError: no row"


async def test_the_plain_mock_gives_back_its_code() -> None:
    async with AsyncExec(backends={"mock": MockBackend}) as exec:
        assert (await exec.execute_code("some code")).value == "some code"


# Floods


@pytest.mark.parametrize("flood", ["output", "refused calls"])
async def test_a_flooding_guest_is_ended(flood: str) -> None:
    async def script(guest: MockGuest) -> None:
        while True:
            if flood == "output":
                await guest.write("x" * 100_000)
            else:
                with pytest.raises((ToolNotFound, BudgetExceeded)):
                    await guest.run_tool("nothing")

    async with mocked(script) as exec:
        result = await exec.execute_code("", limits={"output_bytes": 1000})
    assert (result.outcome, result.limit) == (
        Outcome.LIMIT_EXCEEDED,
        "output_bytes" if flood == "output" else "tool_calls",
    )


# Ends


async def test_cancellation_kills_the_guest_and_is_recorded(real: AsyncExec, journal: KeepingJournal) -> None:
    started = anyio.Event()
    pids: list[int] = []

    @real.tool
    async def tell(pid: int) -> None:
        """Tell a process id, and never return."""
        pids.append(pid)
        started.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: real.execute_code("import os; tools.tell(pid=os.getpid())", **UNSAFE))
        with anyio.fail_after(20):
            await started.wait()
        tasks.cancel_scope.cancel()
    assert not alive(pids[0])
    *_, call, end = journal.kept
    assert isinstance(call, CallFinished)
    assert call.status is CallStatus.CANCELLED
    assert isinstance(end, ExecutionFinished)
    assert end.outcome == "cancelled"


@pytest.mark.parametrize("backend", ["mock", "unsafe", "wasm"])
async def test_closing_ends_what_runs_and_tells_its_callers(backend: str, journal: KeepingJournal) -> None:
    backends = {"mock": MockBackend.scripted(hang)} if backend == "mock" else None
    exec = AsyncExec(allow_unsafe=True, backends=backends, journal=journal, pool_size=1)
    running = anyio.Event()
    told: list[BaseException] = []

    async def run() -> None:
        try:
            async for _ in exec.stream_code("print('begun')\nwhile True: pass", profile="dev", backend=backend):
                running.set()
        except SandboxError as error:
            told.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        with anyio.fail_after(30):
            await running.wait()
        with anyio.fail_after(8):
            await exec.aclose()
    assert [type(error) for error in told] == [Closed]
    assert str(told[0]) == "this Exec is closed; make a new one"
    assert [type(record) for record in journal.kept] == [ExecutionStarted, ExecutionFinished]


async def test_closing_turns_away_who_waits_for_a_sandbox() -> None:
    class Slow(MockBackend):
        async def start(self, spec: Any, endpoint: Any) -> Any:
            await anyio.sleep_forever()

    exec = AsyncExec(backends={"mock": Slow})
    told: list[str] = []

    async def run() -> None:
        with pytest.raises(Closed) as caught:
            await exec.execute_code("")
        told.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(run)
        await anyio.sleep(0.1)
        with anyio.fail_after(5):
            await exec.aclose()
    assert told == ["this Exec is closed; make a new one"] * 3


async def test_nothing_works_after_close() -> None:
    exec = mocked(hang)
    exec.tool(_add)
    async with exec:
        pass
    await exec.aclose()
    with pytest.raises(Closed, match="this Exec is closed; make a new one"):
        await exec.execute_code("1")
    with pytest.raises(Closed):
        await anext(exec.stream_code("1"))
    for call in (
        exec.run_tool("add", {}),
        exec.run_chain([]),
        exec.run_parallel([]),
        exec.search_tools(""),
        exec.describe_tool("add"),
        exec.list_namespaces(),
        exec.list_tool_examples("add"),
        exec.probe(),
        exec.__aenter__(),
    ):
        with pytest.raises(Closed):
            await call


async def test_close_without_use_and_twice_at_once() -> None:
    await mocked(hang).aclose()
    exec = mocked(hang)
    await exec.probe()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exec.aclose)
        tasks.start_soon(exec.aclose)


async def test_a_cancelled_first_use_does_not_spoil_the_second() -> None:
    async with MockExec() as exec:
        for patience in (0, 0.001, 0.005):
            with anyio.move_on_after(patience):
                await exec.execute_code("1")
        assert (await exec.execute_code("2")).value == "2"


class MockExec(AsyncExec):
    """Not opened on entry, but by its first use."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(backends={"mock": MockBackend}, **arguments)

    async def __aenter__(self) -> "MockExec":
        return self


# Many at once


async def test_many_first_uses_at_once_all_find_every_backend() -> None:
    class Late(MockBackend):
        kind: ClassVar[str] = "late"

        async def probe(self) -> Any:
            await anyio.sleep(0.1)
            found = await super().probe()
            return type(found)("late", usable=True, boundaries=2, languages=found.languages, enforces=found.enforces)

    values: list[Any] = []
    async with AsyncExec(backends={"mock": MockBackend, "late": Late}) as exec:

        async def run(delay: float) -> None:
            await anyio.sleep(delay)
            values.append((await exec.execute_code(f"{delay}", backend="late")).value)

        async with anyio.create_task_group() as tasks:
            for delay in (0, 0.01, 0.05):
                tasks.start_soon(run, delay)
    assert sorted(values) == ["0", "0.01", "0.05"]


async def test_what_a_new_probe_finds_counts_from_then_on() -> None:
    class Changing(MockBackend):
        kind: ClassVar[str] = "changing"
        usable: ClassVar[bool] = True

        async def probe(self) -> Any:
            found = await super().probe()
            return replace(found, kind="changing", usable=self.usable, reason="" if self.usable else "it is gone")

    async with AsyncExec(backends={"changing": Changing}) as exec:
        assert (await exec.execute_code("1")).value == "1"
        assert (await exec.execute_code("2")).value == "2"
        Changing.usable = False
        assert (await exec.execute_code("3")).value == "3", "it was not probed again"
        await exec.probe()
        with pytest.raises(BackendUnavailable, match="it is gone"):
            await exec.execute_code("4")
        Changing.usable = True
        await exec.probe()
        assert (await exec.execute_code("5")).value == "5"


async def test_five_hundred_at_once() -> None:
    async with AsyncExec(pool_size=8) as exec:

        @exec.tool
        async def double(n: int) -> int:
            """Twice as much."""
            return 2 * n

        async def run(n: int) -> None:
            result = await exec.execute_code(f"print({n}); tools.double(n={n})", limits={"wall_seconds": 60})
            assert (result.value, result.stdout, len(result.tool_calls)) == (2 * n, f"{n}\n", 1)
            done.append(n)

        done: list[int] = []
        async with anyio.create_task_group() as tasks:
            for n in range(500):
                tasks.start_soon(run, n)
    assert sorted(done) == list(range(500))


# What cannot start


async def test_no_backends_at_all() -> None:
    async with AsyncExec(backends={}) as exec:
        with pytest.raises(SandboxError, match="no backend"):
            await exec.execute_code("1")


async def test_a_backend_that_cannot_start_says_why() -> None:
    class Broken(MockBackend):
        async def start(self, spec: Any, endpoint: Any) -> Any:
            raise BackendUnavailable("mock", "its engine is on fire", "Put it out")

    async with AsyncExec(backends={"mock": Broken}) as exec:
        for _ in range(2):
            with pytest.raises(BackendUnavailable, match=r"its engine is on fire\. Put it out"):
                await exec.execute_code("1")


async def test_a_folder_that_others_can_enter_is_refused_and_the_next_try_works(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    base = short_folder / "toolexec"
    base.mkdir()
    base.chmod(0o755)
    async with MockExec() as exec:
        with pytest.raises(PermissionError, match="is not a private folder of ours"):
            await exec.execute_code("1")
        base.chmod(0o700)
        assert (await exec.execute_code("1")).value == "1"


async def test_a_journal_that_cannot_write_ends_the_execution_before_its_first_call() -> None:
    class Full(MemoryJournal):
        async def append(self, *records: Record, lease: Lease | None = None) -> None:
            raise OSError("disk full")

    called: list[str] = []

    async def script(guest: MockGuest) -> None:
        if guest.code == "call":
            await guest.run_tool("effect")

    async with mocked(script, journal=Full()) as exec:
        exec.tool(name="effect")(lambda: called.append("effect"))
        for code in ("call", "nothing"):
            with pytest.raises(OSError, match="disk full"):
                await exec.execute_code(code)
    assert called == []


async def test_a_journal_that_fails_in_the_middle_is_the_hosts_failure() -> None:
    class Filling(MemoryJournal):
        full = False

        async def append(self, *records: Record, lease: Lease | None = None) -> None:
            if self.full:
                raise OSError("disk full")
            await super().append(*records, lease=lease)

    journal = Filling()

    async def script(guest: MockGuest) -> Any:
        journal.full = True
        try:
            return await guest.run_tool("add", {"a": 1, "b": 2})
        except OSError:
            return "swallowed"

    called: list[Mapping[str, Any]] = []
    async with mocked(script, journal=journal) as exec:

        @exec.tool
        def add(a: int, b: int) -> int:
            """Add."""
            called.append({"a": a, "b": b})
            return a + b

        with pytest.raises(OSError, match="disk full"):
            await exec.execute_code("1")
    assert called == []


async def test_it_can_be_used_in_one_event_loop_after_another() -> None:
    def use() -> Any:
        async def main() -> Any:
            async with AsyncExec(allow_unsafe=True, pool_size=0) as exec:
                return (await exec.execute_code("1 + 1", **UNSAFE)).value

        return asyncio.run(main())

    assert [await anyio.to_thread.run_sync(use) for _ in range(2)] == [2, 2]


async def test_a_snippet_does_not_see_the_hosts_environment(real: AsyncExec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    assert os.environ["SECRET"]
    result = await real.execute_code("import os; dict(os.environ)", **UNSAFE, env={"A": "b"})
    assert result.value["A"] == "b"
    assert "SECRET" not in result.value
    assert not [name for name in result.value if name.startswith("TOOLEXEC")]


async def test_the_warm_sandboxes_can_be_counted() -> None:
    async def script(guest: MockGuest) -> str:
        return guest.code

    async with mocked(script, pool_size=1) as exec:
        assert await exec.pool_metrics() == ()
        for _ in range(3):
            await exec.execute_code("1")
        (pool,) = await exec.pool_metrics()
    assert (pool.backend, pool.spec.language, pool.size, pool.claims) == ("mock", "python", 1, 3)
    assert pool.hits <= 2
    assert pool.failed == 0
