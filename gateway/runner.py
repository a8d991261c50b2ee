"""Validates, calls and bounds one tool call."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar, cast

import anyio

from gateway.base import MAX_ARGUMENTS_BYTES, MAX_RESULT_BYTES, JsonValue
from gateway.context import ToolContext
from gateway.errors import (
    InvalidInput,
    InvalidOutput,
    PayloadTooLarge,
    ToolError,
    ToolFailed,
    ToolTimeout,
    ToolUnavailable,
)
from gateway.payload import Encoded, Malformed, NotJsonError, normalise, printable, recorded
from gateway.providers.base import StreamingProvider
from gateway.tools.registry import RegisteredTool, ToolRegistry
from gateway.tools.validation import SchemaValidator

_MAX_FAILURE_TEXT = 2000
_MAX_MISFIT_BYTES = 8 << 10
_END = object()

Answer = TypeVar("Answer")


class Runner:
    """Runs tools of one registry. Knows nothing of grants, budgets and records."""

    def __init__(self, registry: ToolRegistry) -> None:
        self.registry = registry

    async def run(
        self,
        tool: RegisteredTool,
        arguments: Mapping[str, JsonValue],
        context: ToolContext,
        *,
        timeout_seconds: float | None,
    ) -> JsonValue:
        """The result of one call, as plain JSON.

        The call may take the tool's own timeout or `timeout_seconds`, whichever is less; None means no other bound.
        Raises InvalidInput, InvalidOutput, ToolFailed, ToolTimeout, PayloadTooLarge, and any ToolError of the tool.
        """
        prepared = self.prepare(tool, encoded_arguments(arguments))
        return (await self.call(tool, prepared, context, timeout_seconds=timeout_seconds)).value

    def prepare(self, tool: RegisteredTool, arguments: Encoded) -> dict[str, JsonValue]:
        """The arguments as the provider gets them, defaults filled in. Raises PayloadTooLarge, InvalidInput."""
        if len(arguments.data) > MAX_ARGUMENTS_BYTES:
            raise PayloadTooLarge(f"the arguments of {tool.id}", len(arguments.data), MAX_ARGUMENTS_BYTES)
        prepared: dict[str, JsonValue] = tool.input.validate_input(arguments.value)
        return prepared

    async def call(
        self,
        tool: RegisteredTool,
        arguments: dict[str, JsonValue],
        context: ToolContext,
        *,
        timeout_seconds: float | None,
    ) -> Encoded:
        """Call the provider with prepared arguments; the result and its JSON."""
        return await _in_time(
            tool, timeout_seconds, lambda: _checked(tool, tool.tool.provider.call(arguments, context))
        )

    async def stream(
        self,
        tool: RegisteredTool,
        arguments: dict[str, JsonValue],
        context: ToolContext,
        emit: Callable[[Encoded], Awaitable[None]],
        *,
        timeout_seconds: Callable[[], float | None],
    ) -> None:
        """Call a provider that streams; `emit` takes each chunk.

        The bounds of `call` hold for each wait for a chunk; the time that `emit` takes does not count. A chunk may have
        the size of a result, and there may be any number of them.
        """
        provider = cast(StreamingProvider, tool.tool.provider)
        async with contextlib.aclosing(_closable(provider.stream(arguments, context))) as chunks:
            while (chunk := await _in_time(tool, timeout_seconds(), lambda: _next_chunk(tool, chunks))) is not None:
                await emit(chunk)


def encoded_arguments(arguments: JsonValue) -> Encoded:
    """A copy of the arguments that nobody else holds. Raises InvalidInput for anything but an object."""
    if isinstance(arguments, Malformed):
        raise InvalidInput(f"the arguments are not JSON: {arguments.reason}")
    if not isinstance(arguments, Mapping):
        raise InvalidInput(f"arguments must be an object, not {type(arguments).__name__}; pass them by name")
    try:
        return normalise(arguments if isinstance(arguments, dict) else dict(arguments))
    except NotJsonError as exc:
        raise InvalidInput(f"the arguments are not JSON: {exc}") from exc


async def _in_time(
    tool: RegisteredTool, timeout_seconds: float | None, work: Callable[[], Awaitable[Answer]]
) -> Answer:
    """What `work` gives. Raises ToolTimeout when it takes longer than the tool, or the caller, allows."""
    seconds = tool.tool.timeout_seconds
    if timeout_seconds is not None and timeout_seconds < seconds:
        seconds = timeout_seconds
    with anyio.move_on_after(seconds) as scope:
        try:
            return await work()
        except (ToolFailed, ToolUnavailable):
            # Some drivers turn the cancellation into an error of their own; it is our timeout all the same.
            if not scope.cancel_called:
                raise
    raise ToolTimeout(tool.id, seconds)


async def _checked(tool: RegisteredTool, answer: Awaitable[JsonValue]) -> Encoded:
    result = _normalised(tool, await _answer(answer))
    if tool.output is not None:
        _validate(tool.output, result)
    return result


async def _next_chunk(tool: RegisteredTool, chunks: AsyncIterator[JsonValue]) -> Encoded | None:
    chunk = await _answer(anext(chunks, _END))
    if chunk is _END:
        return None
    result = _normalised(tool, chunk)
    if tool.chunk is not None:
        _validate(tool.chunk, result)
    return result


def _validate(schema: SchemaValidator, result: Encoded) -> None:
    """Raise InvalidOutput, which keeps the value that does not fit."""
    try:
        schema.validate_output(result.value)
    except InvalidOutput as misfit:
        misfit.details["value"] = recorded(result.data, _MAX_MISFIT_BYTES)
        raise


async def _answer(answer: Awaitable[JsonValue]) -> JsonValue:
    """What the provider gives; what it raises as one of ours."""
    try:
        return await answer
    except ToolError:
        raise
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled us: the tool awaited something that was cancelled, which is its failure.
        raise ToolFailed(
            "CancelledError: the tool was cancelled from within", details={"type": "CancelledError"}
        ) from exc
    except Exception as exc:
        raise ToolFailed(_failure_text(exc), details={"type": type(exc).__name__}) from exc


def _normalised(tool: RegisteredTool, answer: JsonValue) -> Encoded:
    try:
        result = normalise(answer)
    except NotJsonError as exc:
        raise InvalidOutput(f"the result of {tool.id} is not JSON: {exc}") from exc
    if len(result.data) > MAX_RESULT_BYTES:
        raise PayloadTooLarge(f"the result of {tool.id}", len(result.data), MAX_RESULT_BYTES)
    return result


async def _closable(chunks: AsyncIterator[JsonValue]) -> AsyncGenerator[JsonValue, None]:
    """The same chunks; closing it closes what has `aclose`."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


def _failure_text(exc: Exception) -> str:
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - a tool's exception may raise anything when it is formatted
        text = "(its message cannot be formatted)"
    return printable(f"{type(exc).__name__}: {text}", _MAX_FAILURE_TEXT)
