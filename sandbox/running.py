"""An execution in the background."""

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio

from sandbox.assemble import Observer
from sandbox.result import Event, ExecutionResult


class Seamless:
    """Passes on the events of an execution that is taken up as those of one run: each run says again what the ones
    before it have said."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._begun = False
        self._said: Counter[str | None] = Counter()
        self._again: Counter[str | None] = Counter()

    def __call__(self, event: Event) -> None:
        if event.kind == "started":
            self._again.clear()
            if self._begun:
                return
            self._begun = True
        if event.kind == "output":
            event = replace(event, text=self._new(event.stream, event.text))
            if not event.text:
                return
        self._observe(event)

    def _new(self, stream: str | None, text: str) -> str:
        """What of this has not been said."""
        new = text[max(0, self._said[stream] - self._again[stream]) :]
        self._again[stream] += len(text)
        self._said[stream] = max(self._said[stream], self._again[stream])
        return new


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
