"""Background tasks of backends. What goes wrong in one ends what it belongs to, and nothing else: a task of a sandbox
its sandbox, one of a whole backend that backend, and never the host's other executions."""

import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from anyio.abc import TaskGroup

from gateway.attachment import Attachment
from gateway.errors import SandboxLost

_log = logging.getLogger(__name__)


async def contained(
    whose: str, on_failure: Callable[[Exception], None], func: Callable[..., Coroutine[Any, Any, Any]], *args: Any
) -> None:
    """Run it; what it raises, other than cancellation, is logged and handed to `on_failure`."""
    try:
        await func(*args)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not end what it does not belong to
        _log.error("what %s does failed", whose, exc_info=error)
        on_failure(error)


class SandboxTasks:
    """Tasks of one sandbox: when one fails the sandbox is lost, and who runs a snippet in it is told so at once.

    `attachment` is its guest's; None where the guest is gone, and nothing is left to be lost.
    """

    def __init__(self, tasks: "TaskGroup | BackendTasks", attachment: Attachment | None) -> None:
        self._tasks = tasks
        self._attachment = attachment

    def start_soon(self, func: Callable[..., Coroutine[Any, Any, Any]], /, *args: Any) -> None:
        self._tasks.start_soon(contained, "a sandbox in the background", self._lose, func, *args)

    def _lose(self, error: Exception) -> None:
        lost = SandboxLost(f"a background task of it failed: {said(error)}")
        lost.__cause__ = error
        if self._attachment is not None:
            self._attachment.fail(lost)


class BackendTasks:
    """Tasks of one backend: `on_failure` says that it cannot be used any more."""

    def __init__(self, kind: str, tasks: TaskGroup, on_failure: Callable[[Exception], None]) -> None:
        self._kind = kind
        self._tasks = tasks
        self._on_failure = on_failure

    def start_soon(self, func: Callable[..., Coroutine[Any, Any, Any]], /, *args: Any) -> None:
        self._tasks.start_soon(contained, f"backend {self._kind} in the background", self._on_failure, func, *args)


Tasks: TypeAlias = TaskGroup | BackendTasks | SandboxTasks
"""Where tasks are started; a bare task group, as tests have it, contains nothing."""


def said(error: Exception) -> str:
    """In one line, for a message; of a group with one member, that."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
