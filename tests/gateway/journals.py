"""Records for the tests of journals."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from gateway.journal.base import (
    Blob,
    CallFinished,
    CallStarted,
    CallStatus,
    ExecutionFinished,
    ExecutionStarted,
    Journal,
    Record,
)
from gateway.journal.owner import this_process
from gateway.journal.sql import SqlJournal

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def ended_process() -> str:
    """The name of a process like this one that was here before: its pid is another's now."""
    place, pid, born, rest = this_process().split(":")
    return f"{place}:{pid}:{int(born) - 1}:{rest}"


def started(execution_id: str, tenant_id: str = "acme") -> ExecutionStarted:
    return ExecutionStarted(
        execution_id=execution_id,
        tenant_id=tenant_id,
        at=NOW,
        code=Blob.of_text("1"),
        language="python",
        profile="standard",
        backend="wasm",
        limits={},
        allowed_tools=None,
    )


def call(execution_id: str, index: int, tenant_id: str = "acme", size: int = 0) -> CallStarted:
    return CallStarted(
        execution_id=execution_id,
        tenant_id=tenant_id,
        index=index,
        at=NOW,
        tool_id="math:add",
        arguments=Blob.of_json({"a": index, "padding": "x" * size}),
        via="run_tool",
    )


def answer(execution_id: str, index: int, tenant_id: str = "acme") -> CallFinished:
    return CallFinished(
        execution_id=execution_id,
        tenant_id=tenant_id,
        index=index,
        at=NOW,
        status=CallStatus.COMPLETED,
        result=Blob.of_json(index),
        error=None,
        attempts=1,
        duration_seconds=0.5,
    )


def ended(execution_id: str, tenant_id: str = "acme") -> ExecutionFinished:
    return ExecutionFinished(
        execution_id=execution_id,
        tenant_id=tenant_id,
        at=NOW,
        outcome="completed",
        duration_seconds=1.0,
        stdout=Blob.of(b"\xff" * 20_000),
    )


def whole(execution_id: str, tenant_id: str = "acme") -> list[Record]:
    middle = [call(execution_id, 0, tenant_id), answer(execution_id, 0, tenant_id)]
    return [started(execution_id, tenant_id), *middle, ended(execution_id, tenant_id)]


def at(path: Path) -> SqlJournal:
    return SqlJournal(f"sqlite:///{path}")


async def filled(journal: Journal, executions: int) -> None:
    for number in range(executions):
        await journal.append(*whole(f"e{number}", "acme" if number % 2 else "other"))


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as somebody sees it who wants to change it."""
    connection = sqlite3.connect(path)
    with connection:
        yield connection
    connection.close()
