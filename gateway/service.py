"""The gRPC face of the gateway: frames and messages in, checked data out. Everything a guest sends is an attacker's."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, TypeAlias

import anyio
from anyio.abc import TaskGroup

from gateway import site
from gateway._grpc import grpc
from gateway.attachment import Attachment, Binding, Line
from gateway.base import Gateway, ToolEvent, ToolEvents
from gateway.errors import ProtocolError, SandboxError, ToolError, Unauthenticated
from gateway.frames import MAX_VALUE_BYTES, Execute, Finished, FinishedKind, GuestError, Hello, Reply
from gateway.operations import begun_call, begun_chain, encode_error, perform
from gateway.payload import MAX_NESTING, decode, encode
from gateway.site import checked_site
from gateway.status import TOKEN_KEY, metadata_of, status_of
from gateway.v1 import gateway_pb2 as pb
from gateway.v1 import gateway_pb2_grpc as pb_grpc

HELLO_SECONDS = 10.0
"""A stream that has not said hello by then is ended."""

CANCEL_SECONDS = 0.2

MAX_IN_FLIGHT = 256
"""Operations of one guest at work at once; past that its stream is not read, so it waits."""

MAX_EVIDENCE_BYTES = 16 << 10

MAX_VALUE_NESTING = 256
"""Our own guests turn a value into its repr well before that."""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Lookup: TypeAlias = Callable[[str], Attachment | None]
Call: TypeAlias = tuple[Binding, pb.ToolCall]

STREAMS = {pb.Output.STREAM_STDOUT: "stdout", pb.Output.STREAM_STDERR: "stderr"}
KINDS = {
    pb.Finished.KIND_COMPLETED: FinishedKind.COMPLETED,
    pb.Finished.KIND_RAISED: FinishedKind.RAISED,
    pb.Finished.KIND_EXITED: FinishedKind.EXITED,
    pb.Finished.KIND_TOO_LARGE: FinishedKind.TOO_LARGE,
}


class GatewayService(pb_grpc.GatewayServiceServicer):
    """Serves `Attach` and the unary calls. `lookup` finds the attachment a token was made for."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def Attach(  # type: ignore[override]  # noqa: N802 - the name is the .proto's; an async servicer by design
        self, request_iterator: AsyncIterator[pb.GuestFrame], context: Context
    ) -> None:
        del request_iterator  # read through the context, which is a third faster
        attachment, hello = await self._greet(context)
        writer = _Writer(context)
        try:
            async with anyio.create_task_group() as tasks:
                attachment.opened(hello, _line(writer, tasks))
                await _Stream(attachment, context, writer, tasks).read_on()
        finally:
            if attachment.binding is not None:
                await attachment.binding.streams.aclose()
            attachment.closed()
        await asyncio.sleep(0)  # whoever waits for the end goes first: to say it to the guest takes gRPC 0.1 ms
        if attachment.fault is not None:
            await context.abort(status_of(attachment.fault), str(attachment.fault))
        if attachment.finished is None and not context.cancelled():
            await _cancel(writer)

    async def _greet(self, context: Context) -> tuple[Attachment, Hello]:
        frame = None
        with anyio.move_on_after(HELLO_SECONDS):
            frame = await context.read()
        if not isinstance(frame, pb.GuestFrame) or frame.WhichOneof("kind") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must be hello")
        attachment = self._lookup(frame.hello.token)
        if attachment is None or attachment.hello is not None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(Unauthenticated()))
        try:
            return attachment, _hello(frame.hello)
        except ProtocolError as error:
            attachment.closed(error)
            await context.abort(status_of(error), str(error))

    async def _unary(self, context: Context, operation: str, arguments: Callable[[], dict[str, Any]]) -> bytes:
        """Do one operation for the guest whose token is in the metadata; errors become statuses."""
        try:
            binding = self._binding(context)
            return await perform(binding.gateway, operation, json.dumps(arguments()).encode())
        except (SandboxError, ValueError) as error:
            await _abort(context, error)

    def _binding(self, context: Context) -> Binding:
        token = dict(context.invocation_metadata() or ()).get(TOKEN_KEY, "")
        attachment = self._lookup(token if isinstance(token, str) else "")
        if attachment is None or attachment.binding is None:
            raise Unauthenticated
        return attachment.binding

    async def RunTool(self, request: pb.RunToolRequest, context: Context) -> pb.RunToolResponse:  # noqa: N802
        return pb.RunToolResponse(value=await self._unary(context, "run_tool", lambda: _call(request)))

    async def StreamTool(self, request: pb.RunToolRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802 - as Attach
        await self._stream(context, lambda gateway: begun_call(gateway, _call(request)))

    async def RunChain(self, request: pb.RunChainRequest, context: Context) -> pb.RunChainResponse:  # noqa: N802
        return pb.RunChainResponse(result=await self._unary(context, "run_chain", lambda: _chain(request)))

    async def StreamChain(self, request: pb.RunChainRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802 - as Attach
        await self._stream(context, lambda gateway: begun_chain(gateway, _chain(request)))

    async def _stream(self, context: Context, begin: Callable[[Gateway], ToolEvents]) -> None:
        """Written, not yielded: gRPC drops a generator whose caller is gone without closing it."""
        try:
            events = begin(self._binding(context).gateway)
        except (SandboxError, ValueError) as error:
            await _abort(context, error)
        try:
            async for event in events:
                await context.write(_event(event))
        finally:
            await events.aclose()

    async def RunParallel(self, request: pb.RunParallelRequest, context: Context) -> pb.RunParallelResponse:  # noqa: N802
        def arguments() -> dict[str, Any]:
            bounds = _given(request, "max_concurrent", "timeout_seconds")
            return {"calls": [_call(call) for call in request.calls], **bounds}

        return pb.RunParallelResponse(results=await self._unary(context, "run_parallel", arguments))

    async def SearchTools(self, request: pb.SearchToolsRequest, context: Context) -> pb.SearchToolsResponse:  # noqa: N802
        def arguments() -> dict[str, Any]:
            return {"query": request.query, **_limit(request), **_filters(request)}

        return pb.SearchToolsResponse(tools=await self._unary(context, "search_tools", arguments))

    async def ListTools(self, request: pb.ListToolsRequest, context: Context) -> pb.ListToolsResponse:  # noqa: N802
        def arguments() -> dict[str, Any]:
            return {"query": request.query, **_limit(request), **_given(request, "cursor"), **_filters(request)}

        page = json.loads(await self._unary(context, "list_tools", arguments))
        return pb.ListToolsResponse(tools=encode(page["tools"]), cursor=page["cursor"])

    async def ListNamespaces(self, request: pb.ListNamespacesRequest, context: Context) -> pb.ListNamespacesResponse:  # noqa: ARG002, N802
        names = await self._unary(context, "list_namespaces", dict)
        return pb.ListNamespacesResponse(namespaces=json.loads(names))

    async def DescribeTool(self, request: pb.DescribeToolRequest, context: Context) -> pb.DescribeToolResponse:  # noqa: N802
        def arguments() -> dict[str, Any]:
            return {"tool_id": request.tool_id, **({"level": request.level} if request.level else {})}

        return pb.DescribeToolResponse(tool=await self._unary(context, "describe_tool", arguments))

    async def ListToolExamples(  # noqa: N802
        self, request: pb.ListToolExamplesRequest, context: Context
    ) -> pb.ListToolExamplesResponse:
        def arguments() -> dict[str, Any]:
            return {"tool_id": request.tool_id, **_limit(request)}

        return pb.ListToolExamplesResponse(examples=await self._unary(context, "list_tool_examples", arguments))


class _Writer:
    """Sends frames to one guest, one at a time: gRPC fails a write that begins before the last one is through."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._one = asyncio.Lock()
        self._open = True

    async def write(self, frame: pb.HostFrame) -> None:
        """Send it; once a write was cancelled, which may leave it under way, nothing is sent any more."""
        async with self._one:
            if self._open:
                self._open = False
                with contextlib.suppress(grpc.aio.UsageError, grpc.aio.InternalError):  # the guest is gone
                    await self._context.write(frame)
                    self._open = True


class _Stream:
    """Reads one guest's frames until it finished, vanished or broke the contract.

    Several tasks take turns at reading. The one that read a tool call answers it itself, at once, and the next one
    reads on; a task for each call would have to be started first. When all are answering, nobody reads.
    """

    def __init__(self, attachment: Attachment, context: Context, writer: _Writer, tasks: TaskGroup) -> None:
        self._attachment = attachment
        self._context = context
        self._writer = writer
        self._tasks = tasks
        self._turn = asyncio.Lock()
        self._readers = 1
        self._waiting = 0
        self._over = False

    async def read_on(self) -> None:
        """Read and answer until the stream is over, or its guest at fault; then nobody is at work for it any more."""
        while (call := await self._next_call()) is not None:
            await self._answer(*call)
        if self._readers > 1:  # most streams have one, and anyio writes down who cancels what
            self._tasks.cancel_scope.cancel()

    def _add_reader(self) -> None:
        self._readers += 1
        self._tasks.start_soon(self.read_on)

    async def _next_call(self) -> Call | None:
        """The next tool call, None when the stream is over."""
        self._waiting += 1
        async with self._turn:
            self._waiting -= 1
            call = None if self._over else await self._read()
            if call is None:
                self._over = True
            elif not self._waiting and self._readers < MAX_IN_FLIGHT:
                self._add_reader()
            return call

    async def _read(self) -> Call | None:
        try:
            while self._attachment.finished is None:
                frame = await self._context.read()
                if not isinstance(frame, pb.GuestFrame):
                    break
                if (call := self._take(frame)) is not None:
                    return call
        except ProtocolError as fault:
            self._attachment.fault = fault
        return None

    def _take(self, frame: pb.GuestFrame) -> Call | None:
        binding = self._attachment.binding
        if binding is None:
            raise ProtocolError("a guest has nothing to say between hello and execute")
        match frame.WhichOneof("kind"):
            case "tool_call":
                checked_site(frame.tool_call.site)
                binding.tape.add(frame.tool_call.tape)
                return binding, frame.tool_call
            case "output" if frame.output.stream in STREAMS:
                binding.on_output(STREAMS[frame.output.stream], frame.output.data)  # type: ignore[arg-type]  # literals
            case "artifact":
                binding.on_artifact(frame.artifact.path, frame.artifact.data)
            case "finished":
                binding.tape.add(frame.finished.tape)
                self._attachment.finished = _finished(frame.finished)
            case kind:
                raise ProtocolError(f"unexpected frame {kind or 'without a kind'} from the guest")
        return None

    async def _answer(self, binding: Binding, call: pb.ToolCall) -> None:
        reply = pb.ToolReply(id=call.id)
        site.current.set(call.site)
        site.frame.set(call.id)
        try:
            reply.value = await perform(binding.gateway, call.operation, call.arguments, binding.streams)
        except ToolError as error:
            reply.error = encode_error(error)
        except Exception as failure:  # noqa: BLE001 - the host's own; the supervisor raises it to who asked
            self._attachment.failure = failure
            self._tasks.cancel_scope.cancel()
        if call.id not in self._attachment.answered:
            await self._writer.write(pb.HostFrame(tool_reply=reply))


def _line(writer: _Writer, tasks: TaskGroup) -> Line:
    async def send(request: Execute) -> None:
        files = [pb.File(path=path, data=data) for path, data in request.files.items()]
        frame = pb.Execute(
            execution_id=request.execution_id,
            code=request.code,
            env=request.env,
            files=files,
            value_bytes=request.value_bytes,
            seed=request.seed,
            unix_micros=request.unix_micros,
            tape=request.tape,
            earlier=request.earlier,
            replies=[_reply(number, one) for number, one in request.replies.items()],
        )
        await writer.write(pb.HostFrame(execute=frame))

    return Line(send, tasks.cancel_scope.cancel)


def _reply(number: int, reply: Reply) -> pb.ToolReply:
    if reply.error is not None:
        return pb.ToolReply(id=number, error=reply.error)
    return pb.ToolReply(id=number, value=reply.value or b"null")


async def _cancel(writer: _Writer) -> None:
    """Tell a guest that is hung up on, before the stream ends; one that does not read is not waited for."""
    with anyio.move_on_after(CANCEL_SECONDS):
        await writer.write(pb.HostFrame(cancel=pb.Cancel(reason="the host ended this execution")))


def _hello(frame: pb.Hello) -> Hello:
    evidence = _json(frame.evidence or b"{}", "hello.evidence", MAX_EVIDENCE_BYTES)
    if not isinstance(evidence, dict):
        raise ProtocolError("hello.evidence must be a JSON object")
    return Hello(frame.agent_version[:100], frame.language[:100], evidence)


def _finished(frame: pb.Finished) -> Finished:
    kind = KINDS.get(frame.kind)
    if kind is None:
        raise ProtocolError("finished without a kind")
    value = _json(frame.value, "finished.value", MAX_VALUE_BYTES) if kind is FinishedKind.COMPLETED else None
    error = None
    if frame.HasField("error"):
        e = frame.error
        error = GuestError(e.type[:200], e.message[:16384], e.line, e.column, e.traceback[:65536])
    return Finished(kind, value, frame.value_is_repr, error, frame.exit_code, frame.departed)


def _json(data: bytes, what: str, limit_bytes: int) -> Any:
    if len(data) > limit_bytes:
        raise ProtocolError(f"{what} of {len(data)} bytes is over {limit_bytes}")
    try:
        value = decode(data, MAX_VALUE_NESTING)
        json.dumps(value, allow_nan=False)  # 1e999 is JSON text, and no JSON value
    except ValueError as error:
        raise ProtocolError(f"{what} is not JSON: {error}") from error
    return value


async def _abort(context: Context, error: SandboxError | ValueError) -> NoReturn:
    """End a unary call with the status that stands for the error."""
    if isinstance(error, SandboxError):
        context.set_trailing_metadata(metadata_of(error))
        await context.abort(status_of(error), str(error))
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "arguments must be UTF-8 JSON objects")


def _event(event: ToolEvent) -> pb.ToolEvent:
    error = b"" if event.error is None else encode(event.error)
    return pb.ToolEvent(kind=event.kind, data=encode(event.data, MAX_NESTING + 1), error=error)  # as a chain's step


def _call(call: pb.RunToolRequest | pb.ParallelCall | pb.ChainStep) -> dict[str, Any]:
    arguments = json.loads(call.arguments or b"{}")
    return {"tool_id": call.tool_id, "arguments": arguments, **_given(call, "timeout_seconds")}


def _chain(request: pb.RunChainRequest) -> dict[str, Any]:
    return {"steps": [_chain_step(step) for step in request.steps], **_given(request, "timeout_seconds")}


def _chain_step(step: pb.ChainStep) -> dict[str, Any]:
    flags = {"use_previous": step.use_previous, "mapping": dict(step.mapping), **_given(step, "stop_on_error")}
    return {**_call(step), **flags}


def _given(message: Any, *names: str) -> dict[str, Any]:
    """The optional fields that were set."""
    return {name: getattr(message, name) for name in names if message.HasField(name)}


def _limit(request: Any) -> dict[str, Any]:
    return {"limit": request.limit} if request.limit else {}


def _filters(request: pb.SearchToolsRequest | pb.ListToolsRequest) -> dict[str, Any]:
    return {"tags": list(request.tags), **_given(request, "namespace")}
