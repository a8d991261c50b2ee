"""`Exec`: `AsyncExec` for callers without an event loop. One thread runs one loop; every method passes through."""

import atexit
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from anyio.from_thread import BlockingPortal, start_blocking_portal

from gateway.base import (
    CallOutcome,
    ChainResult,
    ChainStep,
    DetailLevel,
    JsonValue,
    ParallelCall,
    ToolEvent,
    ToolPage,
    ToolSummary,
)
from gateway.context import ANYBODY, Caller
from gateway.errors import Closed
from gateway.journal.base import Journal
from gateway.providers.function import ToolOptions
from gateway.sources import SourceReport, ToolSource
from gateway.tools.export import Exported, ExportFormat
from gateway.tools.model import Tool
from gateway.tools.registry import ToolRegistry
from runtimes.base import Backend, Capabilities
from runtimes.limits import Limits
from runtimes.pool import PoolMetrics
from sandbox.exec import AsyncExec
from sandbox.result import Event, ExecutionResult

if TYPE_CHECKING:
    from gateway.tools.semantic import Embedder
    from runtimes.check import Diagnostic

Function = TypeVar("Function", bound=Callable[..., Any])
Answer = TypeVar("Answer")
Item = TypeVar("Item")


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
        embedder: "Embedder | None" = None,
        alpha: float = 0.5,
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
            embedder=embedder,
            alpha=alpha,
            backends=backends,
            backend_options=backend_options,
        )
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = self._stack.enter_context(
            start_blocking_portal("asyncio", backend_options={"use_uvloop": True}, name="toolexec")
        )
        atexit.register(self.close)  # while the loop's thread still runs: an interpreter on its way out freezes it

    @property
    def registry(self) -> ToolRegistry:
        return self._exec.registry

    @overload
    def tool(self, function: Function, /) -> Function: ...

    @overload
    def tool(self, function: None = None, /, **options: Unpack[ToolOptions]) -> Callable[[Function], Function]: ...

    def tool(self, function: Any = None, /, **options: Any) -> Any:
        return self._exec.tool(function, **options)

    def register(self, *tools: Tool) -> None:
        self._exec.register(*tools)

    def unregister(self, *tool_ids: str) -> None:
        self._exec.unregister(*tool_ids)

    def execute_code(
        self,
        code: str,
        *,
        language: str | None = None,
        profile: str | None = None,
        backend: str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        allowed_tools: Iterable[str] | None = None,
        caller: Caller = ANYBODY,
        check: bool = False,
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
            caller=caller,
            check=check,
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
        caller: Caller = ANYBODY,
        check: bool = False,
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
            caller=caller,
            check=check,
            env=env,
            files=files,
        )
        return self._each(events)

    def run_tool(
        self,
        tool_id: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        caller: Caller = ANYBODY,
        timeout_seconds: float | None = None,
    ) -> JsonValue:
        return self._call(self._exec.run_tool, tool_id, arguments, caller=caller, timeout_seconds=timeout_seconds)

    def stream_tool(
        self,
        tool_id: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        caller: Caller = ANYBODY,
        timeout_seconds: float | None = None,
    ) -> Iterator[ToolEvent]:
        return self._each(self._exec.stream_tool(tool_id, arguments, caller=caller, timeout_seconds=timeout_seconds))

    def run_chain(
        self, steps: Sequence[ChainStep], *, caller: Caller = ANYBODY, timeout_seconds: float | None = None
    ) -> ChainResult:
        return self._call(self._exec.run_chain, steps, caller=caller, timeout_seconds=timeout_seconds)

    def run_parallel(
        self,
        calls: Sequence[ParallelCall],
        *,
        caller: Caller = ANYBODY,
        max_concurrent: int | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[CallOutcome, ...]:
        return self._call(
            self._exec.run_parallel,
            calls,
            caller=caller,
            max_concurrent=max_concurrent,
            timeout_seconds=timeout_seconds,
        )

    def search_tools(
        self,
        query: str,
        limit: int = 10,
        *,
        namespace: str | None = None,
        tags: Sequence[str] = (),
        caller: Caller = ANYBODY,
    ) -> tuple[ToolSummary, ...]:
        return self._call(self._exec.search_tools, query, limit, namespace=namespace, tags=tags, caller=caller)

    def list_tools(
        self,
        limit: int = 100,
        cursor: str | None = None,
        *,
        query: str = "",
        namespace: str | None = None,
        tags: Sequence[str] = (),
        caller: Caller = ANYBODY,
    ) -> ToolPage:
        return self._call(
            self._exec.list_tools, limit, cursor, query=query, namespace=namespace, tags=tags, caller=caller
        )

    def describe_tool(
        self, tool_id: str, level: DetailLevel = "summary", *, caller: Caller = ANYBODY
    ) -> dict[str, JsonValue]:
        return self._call(self._exec.describe_tool, tool_id, level, caller=caller)

    def list_namespaces(self, *, caller: Caller = ANYBODY) -> tuple[str, ...]:
        return self._call(self._exec.list_namespaces, caller=caller)

    def list_tool_examples(
        self, tool_id: str, limit: int = 5, *, caller: Caller = ANYBODY
    ) -> tuple[dict[str, JsonValue], ...]:
        return self._call(self._exec.list_tool_examples, tool_id, limit, caller=caller)

    def export_tools(
        self, form: ExportFormat, *, allowed_tools: Iterable[str] | None = None, caller: Caller = ANYBODY
    ) -> Exported:
        return self._call(self._exec.export_tools, form, allowed_tools=allowed_tools, caller=caller)

    def tool_stubs(self, *, allowed_tools: Iterable[str] | None = None, caller: Caller = ANYBODY) -> str:
        return self._call(self._exec.tool_stubs, allowed_tools=allowed_tools, caller=caller)

    def check_code(
        self, code: str, *, allowed_tools: Iterable[str] | None = None, caller: Caller = ANYBODY
    ) -> "tuple[Diagnostic, ...]":
        return self._call(self._exec.check_code, code, allowed_tools=allowed_tools, caller=caller)

    def check_tool(self, tool_id: str) -> None:
        self._call(self._exec.check_tool, tool_id)

    def connect(self, *sources: ToolSource) -> tuple[SourceReport, ...]:
        return self._call(self._exec.connect, *sources)

    def disconnect(self, name: str) -> None:
        self._call(self._exec.disconnect, name)

    def refresh(self, name: str | None = None) -> tuple[SourceReport, ...]:
        return self._call(self._exec.refresh, name)

    def sources(self) -> tuple[SourceReport, ...]:
        return self._call(self._exec.sources)

    def check_sources(self) -> dict[str, str]:
        return self._call(self._exec.check_sources)

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

    def _each(self, items: AsyncGenerator[Item, None]) -> Iterator[Item]:
        try:
            while (item := self._call(_next, items)) is not None:
                yield item
        finally:
            if self._portal is not None:
                self._call(items.aclose)


async def _next(items: AsyncGenerator[Item, None]) -> Item | None:
    return await anext(items, None)
