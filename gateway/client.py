"""The gateway over gRPC: the same operations and the same errors as in process, for guests that speak plain gRPC."""

import json
from collections.abc import Awaitable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from gateway._grpc import grpc
from gateway.base import CallOutcome, ChainResult, ChainStep, DetailLevel, JsonValue, ParallelCall, ToolSummary
from gateway.direct import check_limit
from gateway.endpoint import Endpoint
from gateway.frames import GUEST_OPTIONS
from gateway.runner import encoded_arguments
from gateway.status import TOKEN_KEY, exception_of
from gateway.v1 import gateway_pb2 as pb
from gateway.v1 import gateway_pb2_grpc as pb_grpc


class GatewayClient:
    """A `Gateway` at `endpoint`. `timeout_seconds` bounds every call (default 60)."""

    def __init__(self, endpoint: Endpoint, *, timeout_seconds: float = 60.0) -> None:
        self._metadata = ((TOKEN_KEY, endpoint.token),)
        self._timeout_seconds = timeout_seconds
        self._channel = grpc.aio.insecure_channel(endpoint.address, options=GUEST_OPTIONS)
        self._stub: Any = pb_grpc.GatewayServiceStub(self._channel)  # the generated stub's types cover sync calls only

    async def run_tool(self, tool_id: str, arguments: Mapping[str, JsonValue]) -> JsonValue:
        request = pb.RunToolRequest(tool_id=tool_id, arguments=encoded_arguments(arguments).data)
        return json.loads((await self._call("RunTool", request)).value)

    async def run_chain(self, steps: Sequence[ChainStep]) -> ChainResult:
        request = pb.RunChainRequest(steps=[_chain_step(step) for step in steps])
        result = json.loads((await self._call("RunChain", request)).result)
        return ChainResult(result["value"], tuple(CallOutcome(**step) for step in result["steps"]))

    async def run_parallel(self, calls: Sequence[ParallelCall]) -> tuple[CallOutcome, ...]:
        messages = [_parallel_call(call) for call in calls]
        response = await self._call("RunParallel", pb.RunParallelRequest(calls=messages))
        return tuple(CallOutcome(**outcome) for outcome in json.loads(response.results))

    async def search_tools(self, query: str, limit: int = 10) -> tuple[ToolSummary, ...]:
        check_limit(limit)  # here: on the wire 0 is the default, and nothing is negative
        response = await self._call("SearchTools", pb.SearchToolsRequest(query=query, limit=limit))
        return tuple(ToolSummary(**summary) for summary in json.loads(response.tools))

    async def describe_tool(self, tool_id: str, level: DetailLevel = "summary") -> dict[str, JsonValue]:
        response = await self._call("DescribeTool", pb.DescribeToolRequest(tool_id=tool_id, level=level))
        description: dict[str, JsonValue] = json.loads(response.tool)
        return description

    async def list_namespaces(self) -> tuple[str, ...]:
        return tuple((await self._call("ListNamespaces", pb.ListNamespacesRequest())).namespaces)

    async def list_tool_examples(self, tool_id: str, limit: int = 5) -> tuple[dict[str, JsonValue], ...]:
        check_limit(limit)
        response = await self._call("ListToolExamples", pb.ListToolExamplesRequest(tool_id=tool_id, limit=limit))
        return tuple(json.loads(response.examples))

    async def aclose(self) -> None:
        await self._channel.close(grace=None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _call(self, method: str, request: object) -> Any:
        call: Awaitable[Any] = getattr(self._stub, method)(
            request, metadata=self._metadata, timeout=self._timeout_seconds
        )
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise exception_of(error) from error


def _parallel_call(call: ParallelCall) -> pb.ParallelCall:
    return pb.ParallelCall(tool_id=call.tool_id, arguments=encoded_arguments(call.arguments).data)


def _chain_step(step: ChainStep) -> pb.ChainStep:
    return pb.ChainStep(
        tool_id=step.tool_id,
        arguments=encoded_arguments(step.arguments).data,
        use_previous=step.use_previous,
        stop_on_error=step.stop_on_error,
    )
