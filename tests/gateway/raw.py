"""A guest that speaks the wire by hand, to say what no agent of ours would."""

import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import grpc

from gateway.attachment import Attachment, Binding
from gateway.base import Gateway
from gateway.context import ToolContext
from gateway.direct import DirectGateway
from gateway.frames import Execute, StreamName
from gateway.grant import Grant
from gateway.journal.base import ToolCall
from gateway.journal.memory import MemoryJournal
from gateway.pipeline import Pipeline
from gateway.providers.function import function_tool
from gateway.runner import Runner
from gateway.server import GatewayServer
from gateway.tools.model import ToolExample
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch
from gateway.v1 import gateway_pb2 as pb
from gateway.v1 import gateway_pb2_grpc as pb_grpc

SECONDS = 10.0
"""No test waits longer than this for the host."""

UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


class Tools:
    """A few tools, and which of them are at work."""

    def __init__(self) -> None:
        self.working = 0
        self.most_working = 0
        self.started = anyio.Event()
        self.journal = MemoryJournal()
        tools = (
            function_tool(self.add, namespace="math", examples=[ToolExample("one and two", {"a": 1, "b": 2}, "3")]),
            function_tool(self.echo),
            function_tool(self.fail, namespace="bad"),
            function_tool(self.hang, namespace="bad"),
            function_tool(self.count),
        )
        self.registry = ToolRegistry(tools)

    def gateway(self, execution_id: str = "e", **grant: Any) -> DirectGateway:
        rights = Grant(execution_id=execution_id, **grant)
        return DirectGateway(
            rights, Pipeline(Runner(self.registry)), self.registry, ToolSearch(self.registry), self.journal
        )

    def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    async def echo(self, value: Any = None) -> Any:
        """Give back what it gets."""
        return value

    async def count(self, to: int, context: ToolContext) -> AsyncIterator[int]:
        """Count, and say so."""
        for number in range(to):
            context.report(f"at {number}", progress=number, total=to)
            yield number

    async def fail(self, text: str = "no row") -> None:
        """Raise."""
        raise LookupError(text)

    async def hang(self) -> None:
        """Never answer."""
        self.working += 1
        self.most_working = max(self.most_working, self.working)
        self.started.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.working -= 1


class Heard:
    """What an execution's guest said, as its binding got it."""

    def __init__(self) -> None:
        self.output: list[tuple[StreamName, bytes]] = []
        self.artifacts: list[tuple[str, bytes]] = []

    def binding(self, gateway: Gateway) -> Binding:
        return Binding(
            gateway,
            lambda stream, data: self.output.append((stream, data)),
            lambda path, data: self.artifacts.append((path, data)),
        )


class RawGuest:
    """One stream to the gateway. Every wait for the host is bounded."""

    def __init__(self, attachment: Attachment, address: str | None = None) -> None:
        self.attachment = attachment
        self._channel: Any = grpc.aio.insecure_channel(address or attachment.endpoint.address, options=UNLIMITED)
        stub: Any = pb_grpc.GatewayServiceStub(self._channel)  # the generated stub's types cover sync calls only
        self.stream = stub.Attach()

    async def say(self, **frame: Any) -> None:
        await self.stream.write(pb.GuestFrame(**frame))

    async def hello(self, token: str | None = None, evidence: bytes = b"{}") -> None:
        token = self.attachment.endpoint.token if token is None else token
        await self.say(hello=pb.Hello(token=token, agent_version="1", language="python", evidence=evidence))

    async def attach(self, gateway: Gateway, heard: Heard | None = None) -> pb.Execute:
        """Say hello and be given a snippet."""
        await self.hello()
        with anyio.fail_after(SECONDS):
            await self.attachment.wait_attached()
            await self.attachment.execute(Execute("e", "pass"), (heard or Heard()).binding(gateway))
            execute: pb.Execute = (await self.hear()).execute
        return execute

    async def call(self, number: int, operation: str, arguments: bytes) -> None:
        await self.say(tool_call=pb.ToolCall(id=number, operation=operation, arguments=arguments))

    async def finish(self, value: bytes = b"null", **facts: Any) -> None:
        await self.say(finished=pb.Finished(kind=pb.Finished.KIND_COMPLETED, value=value, **facts))

    async def hear(self) -> pb.HostFrame:
        with anyio.fail_after(SECONDS):
            frame: pb.HostFrame = await self.stream.read()
        return frame

    async def status(self) -> tuple[grpc.StatusCode, str]:
        """How the host ended the stream, once everything it said was read."""
        with anyio.fail_after(SECONDS):
            with suppress(grpc.aio.AioRpcError):
                while isinstance(await self.stream.read(), pb.HostFrame):
                    pass
            return await self.stream.code(), await self.stream.details()

    async def vanish(self) -> None:
        self.stream.cancel()
        await self._channel.close()


@asynccontextmanager
async def raw_guest(
    server: GatewayServer, attachment: Attachment | None = None, address: str | None = None
) -> AsyncIterator[RawGuest]:
    guest = RawGuest(attachment or server.expect(), address)
    try:
        yield guest
    finally:
        await guest.vanish()


async def ended_calls(gateway: DirectGateway) -> tuple[ToolCall, ...]:
    """The calls of an execution, once every one of them has its end."""
    await eventually(lambda: all(call.status is not None for call in gateway.calls))
    return gateway.calls


async def eventually(true: Callable[[], bool]) -> None:
    """Wait until it is true, which nothing announces."""
    with anyio.fail_after(SECONDS):
        while not true():  # noqa: ASYNC110 - there is no event to wait for
            await anyio.sleep(0.01)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)
