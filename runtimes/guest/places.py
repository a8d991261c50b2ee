"""Where in a snippet a tool call is made, so that a replay finds the same call again.

A place is the path of an asyncio task and the number of the call in it: `root.0.2#5` is the sixth call of the third
task that the first task of the program made. Both count in the order of the code, not of arrival, so that calls made at
the same time keep their places.
"""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any

MAX_PATH = 120
"""A longer path is told by its digest; the gateway takes no long ones."""

_GO_ON = {"read_stream", "close_stream"}
"""Operations that go on with a call: they take no number, because how many there are is chance."""


class Place:
    """One task, or the program itself."""

    __slots__ = ("_calls", "_children", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._calls = 0
        self._children = 0

    def child(self) -> "Place":
        number, self._children = self._children, self._children + 1
        path = f"{self._path}.{number}"
        if len(path) > MAX_PATH:
            path = "~" + hashlib.blake2s(path.encode(), digest_size=16).hexdigest()
        return Place(path)

    def next_site(self) -> str:
        number, self._calls = self._calls, self._calls + 1
        return f"{self._path}#{number}"


class PlacedTask(asyncio.Task[Any]):
    """A task that knows its place. A snippet sees an ordinary task."""

    place: Place


PlacedTask.__name__ = PlacedTask.__qualname__ = "Task"


class Places:
    """The places of one snippet."""

    def __init__(self) -> None:
        self._root = Place("root")
        self._thread = threading.get_ident()

    def site(self, operation: str) -> str:
        """Of a call that is made now; empty in a thread of the snippet's own, whose calls have no fixed order."""
        if operation in _GO_ON or threading.get_ident() != self._thread:
            return ""
        return self._here().next_site()

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give a place to every task that `loop` makes from now on."""
        loop.set_task_factory(self._make_task)  # type: ignore[arg-type]  # the protocol of 3.11 and that of 3.14 differ

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        if threading.get_ident() != self._thread:
            return asyncio.Task(coro, loop=loop, **options)
        place = self._here().child()
        task = PlacedTask.__new__(PlacedTask)
        task.place = place  # before it is made, because an eager task begins to run at once
        task.__init__(coro, loop=loop, **options)  # type: ignore[misc]  # in two steps, as said
        return task

    def _here(self) -> Place:
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop is running
            return self._root
        return task.place if isinstance(task, PlacedTask) else self._root


Site = Callable[[str], str]


def nowhere(_operation: str) -> str:
    """The place of calls whose order is not the code's."""
    return ""
