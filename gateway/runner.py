"""Validates, calls and bounds one tool call."""

import asyncio
from collections.abc import Mapping

import anyio

from gateway.base import MAX_ARGUMENTS_BYTES, MAX_RESULT_BYTES, JsonValue
from gateway.errors import InvalidInput, InvalidOutput, PayloadTooLarge, ToolError, ToolFailed, ToolTimeout
from gateway.payload import Encoded, NotJsonError, normalise, printable
from gateway.tools.registry import RegisteredTool, ToolRegistry

_MAX_FAILURE_TEXT = 2000


class Runner:
    """Runs tools of one registry. Knows nothing of grants, budgets and records."""

    def __init__(self, registry: ToolRegistry) -> None:
        self.registry = registry

    async def run(
        self, tool: RegisteredTool, arguments: Mapping[str, JsonValue], *, timeout_seconds: float | None
    ) -> JsonValue:
        """The result of one call, as plain JSON.

        The call may take the tool's own timeout or `timeout_seconds`, whichever is less; None means no other bound.
        Raises InvalidInput, InvalidOutput, ToolFailed, ToolTimeout, PayloadTooLarge, and any ToolError of the tool.
        """
        prepared = self.prepare(tool, encoded_arguments(arguments))
        return (await self.call(tool, prepared, timeout_seconds=timeout_seconds)).value

    def prepare(self, tool: RegisteredTool, arguments: Encoded) -> dict[str, JsonValue]:
        """The arguments as the provider gets them, defaults filled in. Raises PayloadTooLarge, InvalidInput."""
        if len(arguments.data) > MAX_ARGUMENTS_BYTES:
            raise PayloadTooLarge(f"the arguments of {tool.id}", len(arguments.data), MAX_ARGUMENTS_BYTES)
        prepared: dict[str, JsonValue] = tool.input.validate_input(arguments.value)
        return prepared

    async def call(
        self, tool: RegisteredTool, arguments: dict[str, JsonValue], *, timeout_seconds: float | None
    ) -> Encoded:
        """Call the provider with prepared arguments; the result and its JSON."""
        seconds = tool.tool.timeout_seconds
        if timeout_seconds is not None and timeout_seconds < seconds:
            seconds = timeout_seconds
        with anyio.move_on_after(seconds) as scope:
            try:
                return _checked(tool, await _answer(tool, arguments))
            except ToolFailed:
                # Some drivers turn the cancellation into an error of their own; it is our timeout all the same.
                if not scope.cancel_called:
                    raise
        raise ToolTimeout(tool.id, seconds)


def encoded_arguments(arguments: JsonValue) -> Encoded:
    """A copy of the arguments that nobody else holds. Raises InvalidInput for anything but an object."""
    if not isinstance(arguments, Mapping):
        raise InvalidInput(f"arguments must be an object, not {type(arguments).__name__}; pass them by name")
    try:
        return normalise(arguments if isinstance(arguments, dict) else dict(arguments))
    except NotJsonError as exc:
        raise InvalidInput(f"the arguments are not JSON: {exc}") from exc


async def _answer(tool: RegisteredTool, arguments: dict[str, JsonValue]) -> JsonValue:
    try:
        return await tool.tool.provider.call(arguments)
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


def _checked(tool: RegisteredTool, answer: JsonValue) -> Encoded:
    try:
        result = normalise(answer)
    except NotJsonError as exc:
        raise InvalidOutput(f"the result of {tool.id} is not JSON: {exc}") from exc
    if len(result.data) > MAX_RESULT_BYTES:
        raise PayloadTooLarge(f"the result of {tool.id}", len(result.data), MAX_RESULT_BYTES)
    if tool.output is not None:
        tool.output.validate_output(result.value)
    return result


def _failure_text(exc: Exception) -> str:
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - a tool's exception may raise anything when it is formatted
        text = "(its message cannot be formatted)"
    return printable(f"{type(exc).__name__}: {text}", _MAX_FAILURE_TEXT)
