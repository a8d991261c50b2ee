"""Python functions as tools."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import anyio
import anyio.to_thread

from gateway.base import JsonValue
from gateway.errors import InvalidRequest
from gateway.tools.model import Tool, ToolExample, ToolId
from gateway.tools.schema import description as docstring
from gateway.tools.schema import func_name, signature_schemas

MAX_THREADS = 40
"""Calls of one synchronous function that run at the same time, each in a worker thread; more of them wait."""


class FunctionProvider:
    """Answers calls with a Python function; arguments are converted to the types that its signature names.

    Async functions are awaited, others run in a worker thread. A thread cannot be stopped: when its call is cancelled
    it is abandoned, and runs on until the function returns. Callables of any kind work. Raises InvalidRequest when the
    signature has no JSON form.
    """

    def __init__(self, func: Callable[..., Any], *, max_threads: int = MAX_THREADS) -> None:
        if max_threads < 1:
            raise InvalidRequest(f"max_threads must be at least 1, not {max_threads}")
        self.input_schema, self.output_schema, self._adapter = signature_schemas(func)
        self._func = func
        self._is_async = _is_async(func)
        self._max_threads = max_threads
        self._limiter: anyio.CapacityLimiter | None = None

    async def call(self, arguments: dict[str, JsonValue]) -> JsonValue:
        found = self._adapter.arguments(arguments)
        result = await self._func(**found) if self._is_async else await self._in_thread(found)
        return self._adapter.result(result)

    async def aclose(self) -> None:
        """Nothing is held."""

    async def _in_thread(self, arguments: dict[str, Any]) -> Any:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._max_threads)  # here, because it belongs to the running loop
        call = functools.partial(self._func, **arguments)
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)


def function_tool(
    func: Callable[..., Any],
    *,
    name: str | None = None,
    namespace: str = "",
    version: str = "",
    description: str | None = None,
    tags: Iterable[str] = (),
    examples: Iterable[ToolExample] = (),
    notes: str = "",
    timeout_seconds: float = 30.0,
) -> Tool:
    """A tool from a function: name, description and schemas come from its `def`, docstring and annotations.

    `timeout_seconds` bounds one call. Raises InvalidToolId, and InvalidRequest when the signature has no JSON form.
    """
    provider = FunctionProvider(func)
    return Tool(
        id=ToolId(_name(func) if name is None else name, namespace, version),
        provider=provider,
        description=docstring(func) if description is None else description,
        input_schema=provider.input_schema,
        output_schema=provider.output_schema,
        tags=tuple(tags),
        examples=tuple(examples),
        notes=notes,
        timeout_seconds=timeout_seconds,
    )


def _name(func: Callable[..., Any]) -> str:
    name = func_name(func)
    if name == "<lambda>":
        raise InvalidRequest("a lambda has no name; pass name=")
    return name


def _is_async(func: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004
