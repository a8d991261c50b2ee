"""A backend that runs no code: a script of yours plays the guest, to test tools and callers without a sandbox.

    async def script(guest: MockGuest) -> int:
        await guest.write(f"asked to run {guest.code}")
        return await guest.run_tool("math:add", {"a": 1, "b": 2})

    async with AsyncExec(backends={"mock": MockBackend.scripted(script)}) as exec:
        result = await exec.execute_code("anything")

What the script returns is the snippet's value, what it raises the snippet's exception; a `Finished` is taken as it is.
Everything around it is real: policy, grant, gateway, records, limits, events. The script is your own code in your own
process, so nothing untrusted runs and the mock satisfies every profile; it is never installed, only passed.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Self, TypeAlias

import anyio
import anyio.lowlevel

from gateway.attachment import Attachment, Binding, Line
from gateway.base import JsonValue
from gateway.endpoint import Endpoint
from gateway.errors import ProtocolError, SandboxError, SandboxLost, ToolError
from gateway.frames import Execute, Finished, FinishedKind, GuestError, Hello, StreamName
from gateway.operations import perform
from gateway.payload import NotJsonError, decode, encode, normalise
from runtimes.base import BackendContext, Capabilities, Ending, OutputSink, SandboxSpec, Usage
from runtimes.limits import LIMIT_NAMES


class MockGuest:
    """What a script sees of its execution."""

    def __init__(self, request: Execute, binding: Binding, fail: Callable[[Exception], None]) -> None:
        self.code = request.code
        self.env = request.env
        self.files = request.files
        self._binding = binding
        self._fail = fail

    async def run_tool(self, tool_id: str, arguments: Mapping[str, JsonValue] | None = None) -> JsonValue:
        """Call a tool as a snippet does. Raises its ToolError."""
        return await self.ask("run_tool", {"tool_id": tool_id, "arguments": dict(arguments or {})})

    async def ask(self, operation: str, arguments: Mapping[str, JsonValue]) -> JsonValue:
        """Any operation of the gateway, as `gateway.operations.perform` lists them."""
        await anyio.lowlevel.checkpoint()  # a script that floods the gateway must not hold up the loop that ends it
        try:
            return decode(await perform(self._binding.gateway, operation, encode(dict(arguments))))
        except (ToolError, ProtocolError):
            raise
        except Exception as failure:
            self._fail(failure)  # the host's own, such as a journal's: the script is ended, whatever it makes of this
            raise

    async def write(self, text: str, stream: StreamName = "stdout") -> None:
        self._binding.on_output(stream, text.encode())
        await anyio.lowlevel.checkpoint()  # where it stops if that was too much

    def leave(self, path: str, data: bytes) -> None:
        """Leave a file in the working folder."""
        self._binding.on_artifact(path, data)


Script: TypeAlias = Callable[[MockGuest], Awaitable[Any]]


class MockSandbox:
    """One life of the script, in a task of the host."""

    evidence: Mapping[str, Any] = {"mock": True}

    def __init__(self, script: Script) -> None:
        self._script = script
        self._scope = anyio.CancelScope()
        self._given = anyio.Event()
        self._ended = anyio.Event()
        self._request = Execute("", "")

    async def live(self, attachment: Attachment) -> None:
        fault: ProtocolError | None = None
        attachment.opened(Hello("mock", "python", {}), Line(self._take, self._scope.cancel))
        try:
            with self._scope:
                await self._given.wait()
                assert attachment.binding is not None
                attachment.finished = await self._play(MockGuest(self._request, attachment.binding, attachment.fail))
        except ProtocolError as error:
            fault = error
        finally:
            attachment.closed(fault)
            self._ended.set()

    def listen(self, on_output: OutputSink) -> None:
        """It has no file descriptors."""

    async def kill(self) -> Ending:
        self._scope.cancel()
        await self._ended.wait()
        return Ending()

    def usage(self) -> Usage:
        return Usage()

    async def _take(self, request: Execute) -> None:
        self._request = request
        self._given.set()

    async def _play(self, guest: MockGuest) -> Finished:
        try:
            value = await self._script(guest)
        except ProtocolError:
            raise
        except Exception as error:  # noqa: BLE001 - it stands for whatever a snippet may raise
            code = f"{error.code}: " if isinstance(error, SandboxError) else ""
            return Finished(FinishedKind.RAISED, error=GuestError(type(error).__name__, f"{code}{error}"))
        return value if isinstance(value, Finished) else _completed(value)


class MockBackend:
    """Make yours with `MockBackend.scripted(script)`; as it is, every snippet's value is its own code."""

    kind: ClassVar[str] = "mock"
    warm_size: ClassVar[int] = 1

    def __init__(self, context: BackendContext) -> None:
        self._context = context

    @classmethod
    def scripted(cls, script: Script) -> type[Self]:
        """A backend class whose guests do what `script` does."""
        return type("ScriptedMockBackend", (cls,), {"script": staticmethod(script)})

    @staticmethod
    async def script(guest: MockGuest) -> Any:
        return guest.code

    async def probe(self) -> Capabilities:
        return Capabilities(
            self.kind,
            usable=True,
            boundaries=2,  # nothing untrusted runs, so there is nothing to break out of
            languages=frozenset({"python"}),
            enforces=frozenset(LIMIT_NAMES),
            details={"mock": True},
        )

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> MockSandbox:
        del spec  # there is nothing to hold
        attachment = self._context.attachment(endpoint)
        if attachment is None:
            raise SandboxLost("its endpoint was given up")
        sandbox = MockSandbox(self.script)
        self._context.tasks_of(endpoint).start_soon(sandbox.live, attachment)
        return sandbox

    async def aclose(self) -> None:
        """Every sandbox belongs to a pool or an execution, which ends it; nothing else is held."""


def _completed(value: Any) -> Finished:
    try:
        return Finished(FinishedKind.COMPLETED, normalise(value).value)
    except NotJsonError:
        return Finished(FinishedKind.COMPLETED, repr(value), value_is_repr=True)
