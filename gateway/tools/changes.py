"""What happens to the tools of a registry, told to whoever wants to know."""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

ChangeKind: TypeAlias = Literal["registered", "updated", "removed", "enabled", "disabled"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one tool. `version` is the registry's after it; what changed in one step has the same version."""

    kind: ChangeKind
    tool_id: str
    version: int


Listener: TypeAlias = Callable[[Change], None]


class ChangeFeed:
    """Tells every listener every change in the order in which they were made, and after they were made.

    A listener may change the registry: what it changes is told when everybody has heard of what came before. One that
    raises is logged, and the others still hear of it.
    """

    def __init__(self) -> None:
        self._listeners: dict[object, Listener] = {}
        self._untold: deque[Change] = deque()
        self._telling = False

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every change from now on, until what this returns is called. That is idempotent."""
        key = object()
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    def tell(self, changes: Iterable[Change]) -> None:
        if not self._listeners:
            return
        self._untold.extend(changes)
        if self._telling:
            return
        self._telling = True
        try:
            while self._untold:
                self._tell(self._untold.popleft())
        finally:
            self._telling = False

    def _tell(self, change: Change) -> None:
        for key in tuple(self._listeners):
            # Looked up again: the one before may have unsubscribed it.
            listener = self._listeners.get(key)
            if listener is None:
                continue
            try:
                listener(change)
            except Exception:  # noqa: BLE001 - a listener's failure is its own, not that of whoever changed the registry
                _log.exception("a listener failed on %s of tool %s", change.kind, change.tool_id)
