"""Which execution and which call is at work here: for the lines of a log, in tools and in their threads too."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from gateway.base import JsonValue
from gateway.context import Caller, ToolContext

_NONE: Mapping[str, JsonValue] = MappingProxyType({})
_IDS: ContextVar[Mapping[str, JsonValue]] = ContextVar("toolexec_ids", default=_NONE)


def current_ids() -> Mapping[str, JsonValue]:
    """`execution_id`, `tenant_id` where there is a tenant, and within a call `tool_id` and `call_index`."""
    return _IDS.get()


@contextmanager
def within(ids: Mapping[str, JsonValue]) -> Iterator[None]:
    """Let these be the ids of whatever happens inside."""
    token = _IDS.set(ids)
    try:
        yield
    finally:
        _IDS.reset(token)


def execution_ids(execution_id: str, caller: Caller) -> dict[str, JsonValue]:
    """No user: a log that says who asked for what is the host's to keep, not ours."""
    return {"execution_id": execution_id} | ({"tenant_id": caller.tenant_id} if caller.tenant_id else {})


def call_ids(context: ToolContext) -> dict[str, JsonValue]:
    ids = execution_ids(context.execution_id, context.caller)
    return ids | {"call_index": context.call_index, "tool_id": context.tool_id}
