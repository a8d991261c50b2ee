"""The gateway over gRPC: the same operations and the same errors as in process, for guests that speak plain gRPC."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from gateway._grpc import grpc
from gateway.base import (
    CallOutcome,
    ChainResult,
    ChainStep,
    DetailLevel,
    JsonValue,
    ParallelCall,
    ToolPage,
    ToolSummary,
)
from gateway.chain import check_timeout
from gateway.context import Progress
from gateway.discovery import check_limit
from gateway.endpoint import Endpoint
from gateway.errors import ProtocolError
from gateway.frames import GUEST_OPTIONS
from gateway.operations import decode_error
from gateway.parallel import check_concurrent
from gateway.payload import Encoded
from gateway.runner import encoded_arguments
from gateway.status import TOKEN_KEY, exception_of
from gateway.streaming import Feed, ToolStream
from gateway.v1 import gateway_pb2 as pb
from gateway.v1 import gateway_pb2_grpc as pb_grpc


class GatewayClient:
    """A `Gateway` at `endpoint`. `timeout_seconds` bounds every call (default 60)."""

    def __init__(self, endpoint: Endpoint, *, timeout_seconds: float = 60.0) -> None:
        self._metadata = ((TOKEN_KEY, endpoint.token),)
        self._timeout_seconds = timeout_seconds
        self._channel = grpc.aio.insecure_channel(endpoint.address, options=GUEST_OPTIONS)
        self._stub: Any = pb_grpc.GatewayServiceStub(self._channel)  # the generated stub's types cover sync calls only

    async def run_tool(
        self, tool_id: str, arguments: Mapping[str, JsonValue], *, timeout_seconds: float | None = None
    ) -> JsonValue:
        check_timeout(timeout_seconds)
        return json.loads((await self._call("RunTool", _tool_call(tool_id, arguments, timeout_seconds))).value)

    def stream_tool(
        self, tool_id: str, arguments: Mapping[str, JsonValue], *, timeout_seconds: float | None = None
    ) -> ToolStream:
        check_timeout(timeout_seconds)
        request = _tool_call(tool_id, arguments, timeout_seconds)
        return ToolStream(partial(self._feed, self._stub.StreamTool, request))

    async def run_chain(self, steps: Sequence[ChainStep], *, timeout_seconds: float | None = None) -> ChainResult:
        result = json.loads((await self._call("RunChain", _chain(steps, timeout_seconds))).result)
        return ChainResult(result["value"], tuple(CallOutcome(**step) for step in result["steps"]))

    def stream_chain(self, steps: Sequence[ChainStep], *, timeout_seconds: float | None = None) -> ToolStream:
        return ToolStream(partial(self._feed, self._stub.StreamChain, _chain(steps, timeout_seconds)))

    async def run_parallel(
        self,
        calls: Sequence[ParallelCall],
        *,
        max_concurrent: int | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[CallOutcome, ...]:
        check_timeout(timeout_seconds)
        check_concurrent(max_concurrent)
        messages = [_parallel_call(call) for call in calls]
        request = pb.RunParallelRequest(calls=messages, max_concurrent=max_concurrent, timeout_seconds=timeout_seconds)
        response = await self._call("RunParallel", request)
        return tuple(CallOutcome(**outcome) for outcome in json.loads(response.results))

    async def search_tools(
        self, query: str, limit: int = 10, *, namespace: str | None = None, tags: Sequence[str] = ()
    ) -> tuple[ToolSummary, ...]:
        check_limit(limit)  # here: on the wire 0 is the default, and nothing is negative
        request = pb.SearchToolsRequest(query=query, limit=limit, namespace=namespace, tags=tags)
        response = await self._call("SearchTools", request)
        return tuple(ToolSummary(**summary) for summary in json.loads(response.tools))

    async def list_tools(
        self,
        limit: int = 100,
        cursor: str | None = None,
        *,
        query: str = "",
        namespace: str | None = None,
        tags: Sequence[str] = (),
    ) -> ToolPage:
        check_limit(limit)
        request = pb.ListToolsRequest(limit=limit, cursor=cursor, query=query, namespace=namespace, tags=tags)
        response = await self._call("ListTools", request)
        found = tuple(ToolSummary(**summary) for summary in json.loads(response.tools))
        return ToolPage(found, response.cursor if response.HasField("cursor") else None)

    async def describe_tool(self, tool_id: str, level: DetailLevel = "summary") -> dict[str, JsonValue]:
        response = await self._call("DescribeTool", pb.DescribeToolRequest(tool_id=tool_id, level=level))
        description: dict[str, JsonValue] = json.loads(response.tool)
        return description

    async def list_namespaces(self) -> tuple[str, ...]:
        return tuple((await self._call("ListNamespaces", pb.ListNamespacesRequest())).namespaces)

    async def list_tool_examples(self, tool_id: str, limit: int = 5) -> tuple[dict[str, JsonValue], ...]:
        if limit > 0:
            check_limit(limit)
        response = await self._call(
            "ListToolExamples", pb.ListToolExamplesRequest(tool_id=tool_id, limit=max(1, limit))
        )
        return tuple(json.loads(response.examples))[: max(0, limit)]  # on the wire 0 is not given

    async def aclose(self) -> None:
        await self._channel.close(grace=None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _feed(self, method: Callable[..., Any], request: object, feed: Feed) -> JsonValue:
        """The call of a stream: pass on what the gateway tells, then its result or its error."""
        call = method(request, metadata=self._metadata, timeout=self._timeout_seconds)
        last = None
        try:
            async for last in call:
                data = json.loads(last.data)
                if last.kind == "chunk":
                    await feed.chunk(Encoded(data, last.data))
                elif last.kind == "progress":
                    feed.progress(Progress(**data))
        except grpc.aio.AioRpcError as error:
            raise exception_of(error) from error
        finally:
            call.cancel()
        if last is None or last.kind not in {"done", "error"}:
            raise ProtocolError("the gateway ended a stream without its last event")
        if last.kind == "error":
            raise decode_error(last.error)
        return data

    async def _call(self, method: str, request: object) -> Any:
        call: Awaitable[Any] = getattr(self._stub, method)(
            request, metadata=self._metadata, timeout=self._timeout_seconds
        )
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise exception_of(error) from error


def _tool_call(tool_id: str, arguments: Mapping[str, JsonValue], timeout_seconds: float | None) -> pb.RunToolRequest:
    data = encoded_arguments(arguments).data
    return pb.RunToolRequest(tool_id=tool_id, arguments=data, timeout_seconds=timeout_seconds)


def _chain(steps: Sequence[ChainStep], timeout_seconds: float | None) -> pb.RunChainRequest:
    check_timeout(timeout_seconds)
    return pb.RunChainRequest(steps=[_chain_step(step) for step in steps], timeout_seconds=timeout_seconds)


def _parallel_call(call: ParallelCall) -> pb.ParallelCall:
    check_timeout(call.timeout_seconds)
    data = encoded_arguments(call.arguments).data
    return pb.ParallelCall(tool_id=call.tool_id, arguments=data, timeout_seconds=call.timeout_seconds)


def _chain_step(step: ChainStep) -> pb.ChainStep:
    check_timeout(step.timeout_seconds)
    return pb.ChainStep(
        tool_id=step.tool_id,
        arguments=encoded_arguments(step.arguments).data,
        use_previous=step.use_previous,
        stop_on_error=step.stop_on_error,
        mapping=step.mapping,
        timeout_seconds=step.timeout_seconds,
    )
