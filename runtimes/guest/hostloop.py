"""An event loop whose only source of events is the host, for guests without sockets, threads or a clock to wait on."""

import asyncio
from collections.abc import Callable
from typing import Any

from runtimes.guest.places import Places

Wait = Callable[[float], str]


class HostLoop(asyncio.BaseEventLoop):
    """Runs asyncio on two imports: `wait` blocks until a started operation ended or the time is up.

    `expect(handle)` gives the future of a started operation, so `asyncio.gather` over tool calls runs them at once.
    """

    wait: Wait
    places: Places

    def __init__(self) -> None:
        super().__init__()
        type(self).places.watch(self)
        self._selector = self  # BaseEventLoop asks its selector for events
        self._waiting: dict[int, asyncio.Future[str]] = {}

    def expect(self, handle: int) -> asyncio.Future[str]:
        future: asyncio.Future[str] = self.create_future()
        self._waiting[handle] = future
        return future

    def select(self, timeout: float | None) -> list[str]:
        if timeout is None and not self._waiting:
            raise RuntimeError("deadlock: every task waits, and nothing is left that could wake one")
        if timeout is not None and timeout <= 0 and not self._waiting:
            return []
        event = type(self).wait(-1.0 if timeout is None else max(0.0, timeout))
        return [event] if event else []

    def _process_events(self, event_list: list[str]) -> None:
        for event in event_list:
            handle, _, reply = event.partition(" ")
            future = self._waiting.pop(int(handle), None)
            if future is not None and not future.done():
                future.set_result(reply)

    def _write_to_self(self) -> None:
        """Nothing to wake: there are no other threads."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]  # a future, as the base class makes
        """Call `func` at once: there are no threads, and the answer is the same."""
        del executor
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - belongs to whoever awaits it
            future.set_exception(error)
        return future
