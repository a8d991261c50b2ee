"""`Exec`: `AsyncExec` for callers without an event loop. One thread runs one loop; every method passes through."""

import atexit
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, Unpack, overload

from anyio.from_thread import BlockingPortal, start_blocking_portal

from gateway.errors import Closed
from gateway.events import MAX_BEHIND, Listener, Subscription
from gateway.providers.function import ToolOptions
from gateway.selection import Selection, ToolGroup
from gateway.tools.model import Tool
from gateway.tools.registry import ToolRegistry
from runtimes.limits import Limits
from sandbox.exec import AsyncExec
from sandbox.session import Session

Function = TypeVar("Function", bound=Callable[..., Any])
Answer = TypeVar("Answer")
Item = TypeVar("Item")
P = ParamSpec("P")


class _Mirror(Protocol):
    """Something with an original, whose methods run in the loop's thread."""

    _original: Any

    def _call(self, function: Callable[..., Awaitable[Answer]], *args: Any, **options: Any) -> Answer: ...


def _awaited(
    method: Callable[Concatenate[Any, P], Awaitable[Answer]],
) -> Callable[Concatenate[_Mirror, P], Answer]:
    """The same method, which waits for its answer."""

    @wraps(method)
    def call(self: _Mirror, /, *args: P.args, **options: P.kwargs) -> Answer:
        return self._call(method, self._original, *args, **options)

    return call


def _iterated(
    method: Callable[Concatenate[AsyncExec, P], AsyncGenerator[Item, None]],
) -> Callable[Concatenate["Exec", P], Iterator[Item]]:
    """The same method, which gives its items to a plain loop."""

    @wraps(method)
    def each(self: "Exec", /, *args: P.args, **options: P.kwargs) -> Iterator[Item]:
        return self._each(method(self._original, *args, **options))

    return each


def _built(
    init: Callable[Concatenate[AsyncExec, P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate["Exec", P], None]]:
    """Gives a constructor the arguments of the original's."""
    return wraps(init)


def _opened(
    method: Callable[Concatenate[AsyncExec, P], Session],
) -> Callable[Concatenate["Exec", P], "SyncSession"]:
    """The same method, which gives a session for plain callers."""

    @wraps(method)
    def opened(self: "Exec", /, *args: P.args, **options: P.kwargs) -> "SyncSession":
        return SyncSession(self._call, method(self._original, *args, **options))

    return opened


class SyncSession:
    """`Session` without the awaits; see there."""

    def __init__(self, call: Callable[..., Any], session: Session) -> None:
        self._call = call
        self._original = session

    @property
    def last(self) -> str:
        return self._original.last

    execute_code = _awaited(Session.execute_code)
    close = _awaited(Session.aclose)

    def fork(self) -> "SyncSession":
        return SyncSession(self._call, self._original.fork())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class Exec:
    """`AsyncExec` without the awaits; see there for arguments, defaults and errors.

    Use it as `with Exec() as exec`, or call `close` when done. Safe to use from many threads at once. Async tools run
    in its own event loop.
    """

    @_built(AsyncExec.__init__)
    def __init__(self, **options: Any) -> None:
        self._original = AsyncExec(**options)
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = self._stack.enter_context(
            start_blocking_portal("asyncio", backend_options={"use_uvloop": True}, name="toolexec")
        )
        atexit.register(self.close)  # while the loop's thread still runs: an interpreter on its way out freezes it

    @property
    def registry(self) -> ToolRegistry:
        return self._original.registry

    @property
    def default_profile(self) -> str:
        return self._original.default_profile

    @property
    def default_limits(self) -> Limits:
        return self._original.default_limits

    @overload
    def tool(self, function: Function, /) -> Function: ...

    @overload
    def tool(self, function: None = None, /, **options: Unpack[ToolOptions]) -> Callable[[Function], Function]: ...

    def tool(self, function: Any = None, /, **options: Any) -> Any:
        return self._original.tool(function, **options)

    def register(self, *tools: Tool) -> None:
        self._original.register(*tools)

    def unregister(self, *tool_ids: str) -> None:
        self._original.unregister(*tool_ids)

    @property
    def selection(self) -> Selection:
        return self._original.selection

    def register_group(
        self, group: ToolGroup, *, description: str = "", input_schema: Mapping[str, Any] | None = None
    ) -> None:
        self._original.register_group(group, description=description, input_schema=input_schema)

    execute_code = _awaited(AsyncExec.execute_code)
    stream_code = _iterated(AsyncExec.stream_code)
    replay = _awaited(AsyncExec.replay)
    unfinished = _awaited(AsyncExec.unfinished)
    resume = _awaited(AsyncExec.resume)

    session = _opened(AsyncExec.session)
    approvals = _awaited(AsyncExec.approvals)
    approve = _awaited(AsyncExec.approve)
    reject = _awaited(AsyncExec.reject)
    edit = _awaited(AsyncExec.edit)
    run_tool = _awaited(AsyncExec.run_tool)
    stream_tool = _iterated(AsyncExec.stream_tool)
    run_chain = _awaited(AsyncExec.run_chain)
    stream_chain = _iterated(AsyncExec.stream_chain)
    run_parallel = _awaited(AsyncExec.run_parallel)
    select_tool = _awaited(AsyncExec.select_tool)
    record_feedback = _awaited(AsyncExec.record_feedback)
    run_selected = _awaited(AsyncExec.run_selected)
    search_tools = _awaited(AsyncExec.search_tools)
    list_tools = _awaited(AsyncExec.list_tools)
    describe_tool = _awaited(AsyncExec.describe_tool)
    list_namespaces = _awaited(AsyncExec.list_namespaces)
    list_tool_examples = _awaited(AsyncExec.list_tool_examples)
    export_tools = _awaited(AsyncExec.export_tools)
    tool_stubs = _awaited(AsyncExec.tool_stubs)
    check_code = _awaited(AsyncExec.check_code)
    check_tool = _awaited(AsyncExec.check_tool)
    rate_limits = _awaited(AsyncExec.rate_limits)
    reset_rate_limits = _awaited(AsyncExec.reset_rate_limits)
    cache_statistics = _awaited(AsyncExec.cache_statistics)
    clear_cache = _awaited(AsyncExec.clear_cache)
    circuits = _awaited(AsyncExec.circuits)
    reset_circuit = _awaited(AsyncExec.reset_circuit)
    connect = _awaited(AsyncExec.connect)
    disconnect = _awaited(AsyncExec.disconnect)
    refresh = _awaited(AsyncExec.refresh)
    sources = _awaited(AsyncExec.sources)
    check_sources = _awaited(AsyncExec.check_sources)
    probe = _awaited(AsyncExec.probe)
    pool_metrics = _awaited(AsyncExec.pool_metrics)
    events = _iterated(AsyncExec.events)
    health = _awaited(AsyncExec.health)
    tool_health = _awaited(AsyncExec.tool_health)

    def observe(self, listener: Listener, *, max_behind: int = MAX_BEHIND) -> Subscription:
        return self._original.observe(listener, max_behind=max_behind)

    def metrics_text(self) -> str:
        return self._original.metrics_text()

    def close(self) -> None:
        atexit.unregister(self.close)
        portal, self._portal = self._portal, None
        if portal is not None:
            try:
                portal.call(self._original.aclose)
            finally:
                self._stack.close()

    def __enter__(self) -> Self:
        self._call(self._original.__aenter__)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, function: Callable[..., Awaitable[Answer]], *args: Any, **options: Any) -> Answer:
        if self._portal is None:
            raise Closed("Exec")
        return self._portal.call(partial(function, *args, **options))

    def _each(self, items: AsyncGenerator[Item, None]) -> Iterator[Item]:
        try:
            while (item := self._call(_next, items)) is not None:
                yield item
        finally:
            if self._portal is not None:
                self._call(items.aclose)


async def _next(items: AsyncGenerator[Item, None]) -> Item | None:
    return await anext(items, None)
