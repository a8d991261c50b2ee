"""Python functions as tools."""

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Unpack

import anyio
import anyio.to_thread

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import InvalidRequest
from gateway.tools.model import Tool, ToolFields, ToolId
from gateway.tools.schema import description as docstring
from gateway.tools.schema import func_name, is_generator, signature_schemas

MAX_THREADS = 40
"""Calls of one synchronous function that run at the same time, each in a worker thread; more of them wait."""

CLOSE_SECONDS = 5.0
"""How long a generator may take to clean up after a call that was given up."""

_END = object()


class FunctionProvider:
    """Answers calls with a Python function; arguments are converted to the types that its signature names.

    Async functions are awaited, others run in a worker thread. A thread cannot be stopped: when its call is cancelled
    it is abandoned, and runs on until the function returns. Callables of any kind work. A parameter annotated
    `ToolContext` gets the call's context. Raises InvalidRequest when the signature has no JSON form.
    """

    def __init__(self, func: Callable[..., Any], *, max_threads: int = MAX_THREADS) -> None:
        if max_threads < 1:
            raise InvalidRequest(f"max_threads must be at least 1, not {max_threads}")
        self.input_schema, self.output_schema, self._adapter = signature_schemas(func)
        self._func = func
        self._is_async = _is_async(func)
        self._max_threads = max_threads
        self._limiter: anyio.CapacityLimiter | None = None

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        found = self._arguments(arguments, context)
        result = await self._func(**found) if self._is_async else await self._in_thread(self._func, **found)
        return self._adapter.result(result)

    async def health(self) -> None:
        """A function is always there."""

    async def aclose(self) -> None:
        """Nothing is held."""

    def _arguments(self, arguments: dict[str, JsonValue], context: ToolContext) -> dict[str, Any]:
        found = self._adapter.arguments(arguments)
        if self._adapter.context_name:
            found[self._adapter.context_name] = context
        return found

    async def _in_thread(self, func: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._max_threads)  # here, because it belongs to the running loop
        call = functools.partial(func, *args, **options)
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)


class GeneratorProvider(FunctionProvider):
    """Answers calls with a generator function, sync or async: what it yields are the chunks of the result."""

    async def call(self, arguments: dict[str, JsonValue], context: ToolContext) -> JsonValue:
        return [chunk async for chunk in self.stream(arguments, context)]

    async def stream(self, arguments: dict[str, JsonValue], context: ToolContext) -> AsyncGenerator[JsonValue, None]:
        chunks = self._func(**self._arguments(arguments, context))
        if not isinstance(chunks, AsyncGenerator):
            chunks = self._threaded(chunks)
        try:
            async for chunk in chunks:
                yield self._adapter.result(chunk)
        finally:
            await chunks.aclose()

    async def _threaded(self, chunks: Generator[Any, None, None]) -> AsyncGenerator[Any, None]:
        """The same chunks, each made in a worker thread."""
        try:
            while (chunk := await self._in_thread(next, chunks, _END)) is not _END:
                yield chunk
        finally:
            # One that is still at work in its thread cannot be closed: that is a ValueError, and the thread goes on.
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_SECONDS), contextlib.suppress(ValueError):
                await self._in_thread(chunks.close)


class ToolOptions(ToolFields, total=False):
    """What `function_tool` may be told beside the function; see `Tool` for what each means.

    `name`, `description` and the schemas come from the function's `def`, docstring and annotations.
    """

    name: str
    namespace: str
    version: str


def function_tool(func: Callable[..., Any], **options: Unpack[ToolOptions]) -> Tool:
    """A tool from a function. Raises InvalidToolId, and InvalidRequest when the signature has no JSON form."""
    provider = GeneratorProvider(func) if is_generator(func) else FunctionProvider(func)
    given: dict[str, Any] = {"description": docstring(func), **options}
    tool_id = ToolId(given.pop("name", None) or _name(func), given.pop("namespace", ""), given.pop("version", ""))
    return Tool(
        id=tool_id,
        provider=provider,
        input_schema=provider.input_schema,
        output_schema=provider.output_schema,
        **given,
    )


def _name(func: Callable[..., Any]) -> str:
    name = func_name(func)
    if name == "<lambda>":
        raise InvalidRequest("a lambda has no name; pass name=")
    return name


def _is_async(func: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004
