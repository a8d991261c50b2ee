"""The host's end of one guest's stream: waits for the guest, hands it the snippet, hears how it ended."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from gateway.base import Gateway
from gateway.endpoint import Endpoint
from gateway.errors import ProtocolError
from gateway.frames import Execute, Finished, Hello, StreamName
from gateway.site import TapeLog
from gateway.streaming import Streams


@dataclass(frozen=True, slots=True)
class Binding:
    """What one execution gives its guest's stream: the gateway it may call, and where output and files go.

    `streams` are the streamed calls that the guest has begun, `tape` what it says its clock was told.
    """

    gateway: Gateway
    on_output: Callable[[StreamName, bytes], None]
    on_artifact: Callable[[str, bytes], None]
    streams: Streams = field(default_factory=Streams)
    tape: TapeLog = field(default_factory=TapeLog)


@dataclass(frozen=True, slots=True)
class Line:
    """An open stream as its service gives it: how to send the snippet, and how to hang up."""

    send: Callable[[Execute], Awaitable[None]]
    hang_up: Callable[[], None]


class Attachment:
    """One guest's stream, from the token that was made for it to the guest's last word.

    `hello` is None until the guest attached, `finished` until it said how the snippet ended. `fault` is how it broke
    the contract; `answered` are the ids of calls whose answers it was given ahead; `failure` is what failed on the
    host's side, such as a journal, for whoever asked for it. Invariant: `binding` is set once, before the snippet is
    sent, and until then every tool call of the guest is refused.
    """

    def __init__(self, endpoint: Endpoint, forget: Callable[[], None]) -> None:
        self.endpoint = endpoint
        self.hello: Hello | None = None
        self.binding: Binding | None = None
        self.finished: Finished | None = None
        self.fault: ProtocolError | None = None
        self.failure: Exception | None = None
        self.answered: frozenset[int] = frozenset()
        self._line: Line | None = None
        self._forget = forget
        self._attached = anyio.Event()
        self._ended = anyio.Event()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def wait_attached(self) -> Hello:
        """Wait until the guest said hello. Raise ProtocolError if the stream ended first."""
        await self._attached.wait()
        if self.hello is None:
            raise self.fault or ProtocolError("the guest's stream ended before it said hello")
        return self.hello

    async def wait_ended(self) -> Finished | None:
        """Wait until the stream ended; return the guest's last words, None if it vanished or was hung up on."""
        if not self.ended:  # else anyio would let everything else have a turn
            await self._ended.wait()
        return self.finished

    async def execute(self, request: Execute, binding: Binding) -> None:
        """Bind the execution's gateway and send the snippet. Raise ProtocolError if the guest is gone."""
        if self._line is None or self.ended:
            raise ProtocolError("the guest left before the snippet was sent")
        if self.binding is not None:
            raise ProtocolError("this guest was given a snippet before; a guest runs one")
        self.binding = binding
        self.answered = frozenset(request.replies)
        await self._line.send(request)

    def hang_up(self) -> None:
        """End the stream and its token from the host's side. Idempotent; the guest's tool calls are cancelled."""
        self._forget()
        if self._line is not None and not self.ended:
            self._line.hang_up()
        elif self._line is None:
            self.closed()

    def fail(self, failure: Exception) -> None:
        """End it for a failure of the host's, which whoever asked for the execution is told; the first one counts.
        Once it has ended nothing can fail any more."""
        if not self.ended:
            self.failure = self.failure or failure
            self.hang_up()

    # Called by the service that carries the stream.

    def opened(self, hello: Hello, line: Line) -> None:
        self.hello = hello
        self._line = line
        self._attached.set()

    def closed(self, fault: ProtocolError | None = None) -> None:
        """The stream is over; nothing arrives any more."""
        self._forget()
        self.fault = self.fault or fault
        self._attached.set()
        self._ended.set()
