"""Ids of executions, and which execution and which call is at work here: for the lines of a log, in tools and in their
threads too."""

import time
from contextvars import ContextVar, Token
from os import urandom

from gateway.base import JsonValue
from gateway.context import Caller, ToolContext

_AT_WORK: ContextVar[ToolContext | None] = ContextVar("toolexec_at_work", default=None)


def new_execution_id() -> str:
    """32 hex digits, later ones above earlier ones, 80 of their bits by chance.

    In this order the indexes of a journal grow at one end: what is written touches few of their pages, however long.
    """
    return f"{time.time_ns() // 1_000_000:012x}{urandom(10).hex()}"


def current_ids() -> dict[str, JsonValue]:
    """`execution_id`, `tenant_id` where there is a tenant, and within a call `tool_id` and `call_index`."""
    context = _AT_WORK.get()
    if context is None:
        return {}
    ids = execution_ids(context.execution_id, context.caller)
    return ids | {"call_index": context.call_index, "tool_id": context.tool_id} if context.tool_id else ids


def execution_ids(execution_id: str, caller: Caller) -> dict[str, JsonValue]:
    """No user: a log that says who asked for what is the host's to keep, not ours."""
    return {"execution_id": execution_id} | ({"tenant_id": caller.tenant_id} if caller.tenant_id else {})


class within:  # noqa: N801 - a context manager, written as a class because every call enters one
    """Let this call, or an execution where it names no tool, be what is at work inside."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: ToolContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token: Token[ToolContext | None] = _AT_WORK.set(self._context)

    def __exit__(self, *_: object) -> None:
        _AT_WORK.reset(self._token)
