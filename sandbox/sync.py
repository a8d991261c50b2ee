"""`Exec`: `AsyncExec` for callers without an event loop. One thread runs one loop; every method passes through."""

import atexit
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from anyio.from_thread import BlockingPortal, start_blocking_portal

from gateway.base import CallOutcome, ChainResult, ChainStep, DetailLevel, JsonValue, ParallelCall, ToolSummary
from gateway.errors import Closed
from gateway.journal.base import Journal
from gateway.tools.model import Tool, ToolExample
from runtimes.base import Backend, Capabilities
from runtimes.limits import Limits
from runtimes.pool import PoolMetrics
from sandbox.exec import AsyncExec
from sandbox.result import Event, ExecutionResult

Function = TypeVar("Function", bound=Callable[..., Any])
Answer = TypeVar("Answer")


class Exec:
    """`AsyncExec` without the awaits; see there for arguments, defaults and errors.

    Use it as `with Exec() as exec`, or call `close` when done. Safe to use from many threads at once. Async tools run
    in its own event loop.
    """

    def __init__(
        self,
        *,
        profile: str | None = None,
        language: str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        allow_unsafe: bool | None = None,
        workers: int | None = None,
        pool_size: int | None = None,
        pool_idle_seconds: float | None = None,
        journal: Journal | None = None,
        backends: Mapping[str, type[Backend]] | None = None,
        backend_options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._exec = AsyncExec(
            profile=profile,
            language=language,
            limits=limits,
            allow_unsafe=allow_unsafe,
            workers=workers,
            pool_size=pool_size,
            pool_idle_seconds=pool_idle_seconds,
            journal=journal,
            backends=backends,
            backend_options=backend_options,
        )
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = self._stack.enter_context(
            start_blocking_portal("asyncio", backend_options={"use_uvloop": True}, name="toolexec")
        )
        atexit.register(self.close)  # while the loop's thread still runs: an interpreter on its way out freezes it

    @overload
    def tool(self, function: Function, /) -> Function: ...

    @overload
    def tool(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        namespace: str = "",
        version: str = "",
        description: str | None = None,
        tags: Iterable[str] = (),
        examples: Iterable[ToolExample] = (),
        notes: str = "",
        timeout_seconds: float = 30.0,
    ) -> Callable[[Function], Function]: ...

    def tool(self, function: Any = None, /, **options: Any) -> Any:
        return self._exec.tool(function, **options)

    def register(self, *tools: Tool) -> None:
        self._exec.register(*tools)

    def execute_code(
        self,
        code: str,
        *,
        language: str | None = None,
        profile: str | None = None,
        backend: str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        allowed_tools: Iterable[str] | None = None,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, bytes | str] | None = None,
    ) -> ExecutionResult:
        return self._call(
            self._exec.execute_code,
            code,
            language=language,
            profile=profile,
            backend=backend,
            limits=limits,
            allowed_tools=allowed_tools,
            env=env,
            files=files,
        )

    def stream_code(
        self,
        code: str,
        *,
        language: str | None = None,
        profile: str | None = None,
        backend: str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        allowed_tools: Iterable[str] | None = None,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, bytes | str] | None = None,
    ) -> Iterator[Event]:
        events = self._exec.stream_code(
            code,
            language=language,
            profile=profile,
            backend=backend,
            limits=limits,
            allowed_tools=allowed_tools,
            env=env,
            files=files,
        )
        try:
            while (event := self._call(_next, events)) is not None:
                yield event
        finally:
            if self._portal is not None:
                self._call(events.aclose)

    def run_tool(self, tool_id: str, arguments: Mapping[str, JsonValue] | None = None) -> JsonValue:
        return self._call(self._exec.run_tool, tool_id, arguments)

    def run_chain(self, steps: Sequence[ChainStep]) -> ChainResult:
        return self._call(self._exec.run_chain, steps)

    def run_parallel(self, calls: Sequence[ParallelCall]) -> tuple[CallOutcome, ...]:
        return self._call(self._exec.run_parallel, calls)

    def search_tools(self, query: str, limit: int = 10) -> tuple[ToolSummary, ...]:
        return self._call(self._exec.search_tools, query, limit)

    def describe_tool(self, tool_id: str, level: DetailLevel = "summary") -> dict[str, JsonValue]:
        return self._call(self._exec.describe_tool, tool_id, level)

    def list_namespaces(self) -> tuple[str, ...]:
        return self._call(self._exec.list_namespaces)

    def list_tool_examples(self, tool_id: str, limit: int = 5) -> tuple[dict[str, JsonValue], ...]:
        return self._call(self._exec.list_tool_examples, tool_id, limit)

    def probe(self) -> dict[str, Capabilities]:
        return self._call(self._exec.probe)

    def pool_metrics(self) -> tuple[PoolMetrics, ...]:
        return self._call(self._exec.pool_metrics)

    def close(self) -> None:
        atexit.unregister(self.close)
        portal, self._portal = self._portal, None
        if portal is not None:
            try:
                portal.call(self._exec.aclose)
            finally:
                self._stack.close()

    def __enter__(self) -> Self:
        self._call(self._exec.__aenter__)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, function: Callable[..., Awaitable[Answer]], *args: Any, **options: Any) -> Answer:
        if self._portal is None:
            raise Closed("Exec")
        return self._portal.call(partial(function, *args, **options))


async def _next(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)
