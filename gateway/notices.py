"""What happens to tool calls, told as it happens to those parts that count it, log it or pass it on."""

import logging
from collections.abc import Callable, Mapping
from threading import Lock
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from gateway.base import JsonValue
from gateway.context import Caller
from gateway.ids import execution_ids
from gateway.journal.base import CallStatus, ToolCall

NOTHING: Mapping[str, JsonValue] = MappingProxyType({})

ENDS = frozenset(CallStatus)
"""The kinds that are the last of a call; the first is `started`, and what policies tell comes between."""

_LEVELS = {
    "started": logging.DEBUG,
    "failed": logging.WARNING,
    "refused": logging.WARNING,
    "circuit_opened": logging.WARNING,
}

_calls = logging.getLogger("gateway.calls")
_log = logging.getLogger(__name__)


class Notice(NamedTuple):
    """One thing that happened. `call` is its record as it was then; `began` says that its start was told as well.

    `attempts` are those made until now, `details` what a policy said of what it did.
    """

    kind: str
    call: ToolCall
    execution_id: str
    caller: Caller
    attempts: int
    began: bool = True
    details: Mapping[str, JsonValue] = NOTHING


Watch: TypeAlias = Callable[[Notice], None]
"""Hears of everything in the event loop, at once and in order: it must be quick. One that raises is logged."""


class CallFeed:
    """Tells every watch, and the logger `gateway.calls`. Costs next to nothing while nobody listens."""

    def __init__(self) -> None:
        self._watches: tuple[Watch, ...] = ()
        self._changing = Lock()

    def add(self, watch: Watch) -> Callable[[], None]:
        """Tell `watch` from now on, until what this returns is called. That is idempotent. From any thread."""
        with self._changing:
            self._watches = (*self._watches, watch)

        def remove() -> None:
            with self._changing:
                self._watches = tuple(one for one in self._watches if one is not watch)

        return remove

    def wants(self, kind: str) -> bool:
        """Whether anybody would hear of it."""
        return bool(self._watches) or _calls.isEnabledFor(_LEVELS.get(kind, logging.INFO))

    def tell(self, notice: Notice) -> None:
        level = _LEVELS.get(notice.kind, logging.INFO)
        if _calls.isEnabledFor(level):
            _calls.log(level, "tool call %s", notice.kind, extra=_fields(notice))
        for watch in self._watches:
            try:
                watch(notice)
            except Exception:  # noqa: BLE001 - what watches a call must not fail it
                _log.exception("a watch of tool calls failed on %s", notice.kind)


def code_of(call: ToolCall) -> str:
    """The code of the call's error, empty for none."""
    return "" if call.error is None else str(call.error.get("code", ""))


def _fields(notice: Notice) -> dict[str, JsonValue]:
    """What a line says of a call. Neither arguments nor results: they may be anybody's secret."""
    call = notice.call
    fields = execution_ids(notice.execution_id, notice.caller)
    fields |= {"call_index": call.index, "tool_id": call.tool_id, "kind": notice.kind}
    if notice.kind in ENDS:
        fields |= {
            "code": code_of(call),
            "attempts": call.attempts,
            "duration_seconds": round(call.duration_seconds, 6),
        }
    return {**fields, "details": dict(notice.details)} if notice.details else fields
