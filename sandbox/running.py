"""An execution in the background."""

import math
from collections.abc import Awaitable, Callable

import anyio

from sandbox.assemble import Observer
from sandbox.result import Event, ExecutionResult


class Running:
    """An execution in the background, and its events. Its limits bound how many can pile up."""

    def __init__(self) -> None:
        self._send, self.events = anyio.create_memory_object_stream[Event](math.inf)
        self._scope, self._ended = anyio.CancelScope(), anyio.Event()
        self._failure: BaseException | None = None

    async def run(self, execute: Callable[[Observer], Awaitable[ExecutionResult]]) -> None:
        with self._scope, self._send:
            try:
                self._send.send_nowait(Event("finished", result=await execute(self._send.send_nowait)))
            except Exception as error:  # noqa: BLE001 - raised by `check`, to whoever reads
                self._failure = error
            finally:
                self._ended.set()

    def check(self) -> None:
        """Raise what `execute` raised."""
        if self._failure is not None:
            raise self._failure

    async def aclose(self) -> None:
        """End the execution and wait until nothing of it is left."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()
        self.events.close()  # not before: what the guest still says goes to nobody, and must not fail
