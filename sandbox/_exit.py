"""How a command ends: what it was asked for, or a message and an exit code."""

import asyncio
import json
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, TypeVar

import typer

from gateway.errors import (
    BackendUnavailable,
    InvalidInput,
    InvalidRequest,
    InvalidToolId,
    NotRecorded,
    PolicyDenied,
    SandboxError,
    ToolError,
    ToolNotFound,
)
from runtimes.base import Outcome
from sandbox._render import Screen
from sandbox.result import ExecutionResult

Answer = TypeVar("Answer")

MAX_OWN_CODE = 125
"""Shells use the codes above for what they have to say themselves."""


class ExitCode(IntEnum):
    """What the command's exit code says; a snippet that exits with a code of its own passes it on, up to 125."""

    COMPLETED = 0
    RAISED = 1
    USAGE = 2
    REFUSED = 3
    STOPPED = 4
    HOST_FAILED = 5
    INTERRUPTED = 130


def exit_code(result: ExecutionResult) -> int:
    """The command's exit code for how the snippet ended."""
    match result.outcome:
        case Outcome.COMPLETED:
            return ExitCode.COMPLETED
        case Outcome.RAISED:
            return ExitCode.RAISED
        case Outcome.EXITED:
            own = result.exit_code or 0
            return own if 0 <= own <= MAX_OWN_CODE else MAX_OWN_CODE
        case _:
            return ExitCode.STOPPED


def complete(work: Coroutine[Any, Any, Answer], screen: Screen, *, json_output: bool) -> Answer:
    """Run it to its end; what is wrong on this side becomes a message and an exit code."""
    try:
        return asyncio.run(work)
    except SandboxError as error:
        execution = {"execution_id": error.execution_id} if error.execution_id else {}
        if json_output:
            about = {"code": error.code, "message": str(error)} | execution
            print(json.dumps({"error": about}, ensure_ascii=False))
        screen.complain(f"{error} (execution {error.execution_id})" if execution else str(error))
        raise typer.Exit(_failure_code(error)) from error
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _failure_code(error: SandboxError) -> ExitCode:
    match error:
        case InvalidRequest() | InvalidToolId() | InvalidInput() | ToolNotFound() | NotRecorded():
            return ExitCode.USAGE
        case PolicyDenied() | BackendUnavailable():
            return ExitCode.REFUSED
        case ToolError():
            return ExitCode.RAISED
        case _:
            return ExitCode.HOST_FAILED
