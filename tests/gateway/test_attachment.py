"""The host's end of a stream, driven by hand: what happens in which order, and only once."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gateway.attachment import Attachment, Line
from gateway.endpoint import Endpoint
from gateway.errors import ProtocolError
from gateway.frames import Execute, Finished, FinishedKind, Hello
from tests.gateway.raw import Heard, Tools

pytestmark = pytest.mark.anyio

HELLO = Hello("1", "python", {})


class Wire:
    """Stands for the service that carries the stream."""

    def __init__(self) -> None:
        self.forgotten = 0
        self.hung_up = 0
        self.sent: list[Execute] = []
        self.attachment = Attachment(Endpoint("unix:x", "token"), self._forget)

    def open(self) -> None:
        self.attachment.opened(HELLO, Line(self._send, self._hang_up))

    async def execute(self) -> None:
        await self.attachment.execute(Execute("e", "pass"), Heard().binding(Tools().gateway()))

    async def _send(self, request: Execute) -> None:
        assert self.attachment.binding is not None  # set before the guest can ask for anything
        self.sent.append(request)

    def _hang_up(self) -> None:
        self.hung_up += 1

    def _forget(self) -> None:
        self.forgotten += 1


@pytest.fixture
def wire() -> Wire:
    return Wire()


async def test_from_hello_to_the_last_word(wire: Wire) -> None:
    heard: list[Any] = []

    async def wait() -> None:
        heard.append(await wire.attachment.wait_attached())
        heard.append(await wire.attachment.wait_ended())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        wire.open()
        await wire.execute()
        wire.attachment.finished = Finished(FinishedKind.COMPLETED, 1)
        assert not wire.attachment.ended
        wire.attachment.closed()
    assert heard == [HELLO, Finished(FinishedKind.COMPLETED, 1)]
    assert wire.sent == [Execute("e", "pass")]
    assert wire.forgotten


async def test_nothing_is_executed_before_hello_after_the_end_or_twice(wire: Wire) -> None:
    with pytest.raises(ProtocolError, match="left before"):
        await wire.execute()
    wire.open()
    await wire.execute()
    with pytest.raises(ProtocolError, match="a guest runs one"):
        await wire.execute()
    wire.attachment.closed()
    with pytest.raises(ProtocolError, match="left before"):
        await wire.execute()
    assert len(wire.sent) == 1


async def test_hanging_up_on_a_stream_leaves_its_end_to_the_service(wire: Wire) -> None:
    wire.open()
    wire.attachment.hang_up()
    assert (wire.hung_up, wire.forgotten, wire.attachment.ended) == (1, 1, False)
    wire.attachment.closed()
    wire.attachment.hang_up()
    assert wire.hung_up == 1


async def test_hanging_up_before_hello_ends_it(wire: Wire) -> None:
    wire.attachment.hang_up()
    wire.attachment.hang_up()
    assert wire.attachment.ended
    with pytest.raises(ProtocolError, match="before it said hello"):
        await wire.attachment.wait_attached()
    assert await wire.attachment.wait_ended() is None


async def test_the_first_fault_counts(wire: Wire) -> None:
    first = ProtocolError("first")
    wire.attachment.closed(first)
    wire.attachment.closed(ProtocolError("second"))
    wire.attachment.closed()
    with pytest.raises(ProtocolError) as caught:
        await wire.attachment.wait_attached()
    assert caught.value is first
