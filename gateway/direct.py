"""The gateway in process: every call checked against the grant, recorded, run."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence

from gateway.base import (
    MAX_ARGUMENTS_BYTES,
    CallOutcome,
    ChainResult,
    ChainStep,
    DetailLevel,
    JsonValue,
    ParallelCall,
    ToolPage,
    ToolSummary,
)
from gateway.calls import CallLog, Chunks
from gateway.chain import Time, check_timeout, run_chain
from gateway.context import ToolContext
from gateway.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    InvalidInput,
    ToolDenied,
    ToolError,
    ToolNotFound,
    ToolTimeout,
)
from gateway.grant import Grant
from gateway.journal.base import CallStatus, Journal, ToolCall
from gateway.parallel import Access, run_parallel
from gateway.payload import Encoded, NotJsonError, error_json, normalise, printable
from gateway.pipeline import Pipeline
from gateway.policies.base import Call
from gateway.runner import encoded_arguments
from gateway.streaming import Feed, ToolStream
from gateway.tools.access import access_of, permits
from gateway.tools.docs import describe, examples
from gateway.tools.model import ToolId
from gateway.tools.registry import RegisteredTool, ToolRegistry
from gateway.tools.search import ToolSearch

MAX_REFUSED = 1000
"""Refused calls of one execution that are recorded; a guest that goes on is flooding."""

_MAX_ID_TEXT = 400
MAX_LIMIT = 100
_MAX_HINTS = 50
"""Unknown ids of one execution that are answered with the names of similar tools, which takes milliseconds."""
_CLOCK_SLACK_SECONDS = 0.005


class DirectGateway:
    """What one execution may do, in the host's own process. Implements `gateway.base.Gateway`.

    `on_call` is told of every call when it starts (status None) and when it ends. `flooded` turns true, and `on_flood`
    is called once, when the guest goes on making calls that are refused: stop it. A journal that fails stops the call:
    its error comes out as it is.
    """

    def __init__(
        self,
        grant: Grant,
        pipeline: Pipeline,
        registry: ToolRegistry,
        search: ToolSearch,
        journal: Journal,
        on_call: Callable[[ToolCall], None] | None = None,
        on_flood: Callable[[], None] | None = None,
    ) -> None:
        self.grant = grant
        self.flooded = False
        self._on_flood = on_flood
        self._pipeline = pipeline
        self._registry = registry
        self._search = search
        self._log = CallLog(grant.execution_id, journal, on_call, tenant_id=grant.caller.tenant_id)
        self._refused = 0
        self._hints = 0

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Every recorded call in the order they were asked for; `index` is the position."""
        return tuple(self._log.calls)

    async def run_tool(
        self, tool_id: str, arguments: Mapping[str, JsonValue], *, timeout_seconds: float | None = None
    ) -> JsonValue:
        check_timeout(timeout_seconds)
        return await self._call("run_tool", tool_id, arguments, timeout_seconds=timeout_seconds)

    def stream_tool(
        self, tool_id: str, arguments: Mapping[str, JsonValue], *, timeout_seconds: float | None = None
    ) -> ToolStream:
        check_timeout(timeout_seconds)

        async def call(feed: Feed) -> JsonValue:
            return await self._call("stream_tool", tool_id, arguments, timeout_seconds=timeout_seconds, feed=feed)

        return ToolStream(call)

    async def run_chain(self, steps: Sequence[ChainStep], *, timeout_seconds: float | None = None) -> ChainResult:
        call = functools.partial(self._call, "run_chain", reserved=True)
        try:
            return await run_chain(steps, self.grant, call, Time(timeout_seconds))
        except BudgetExceeded as exc:
            await self._refuse("run_chain", "run_chain", {"steps": len(steps)}, exc)
            raise

    async def run_parallel(
        self,
        calls: Sequence[ParallelCall],
        *,
        max_concurrent: int | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[CallOutcome, ...]:
        call = functools.partial(self._call, "run_parallel", reserved=True)
        try:
            return await run_parallel(calls, self.grant, call, self._access, Time(timeout_seconds), max_concurrent)
        except BudgetExceeded as exc:
            await self._refuse("run_parallel", "run_parallel", {"calls": len(calls)}, exc)
            raise

    async def search_tools(
        self, query: str, limit: int = 10, *, namespace: str | None = None, tags: Sequence[str] = ()
    ) -> tuple[ToolSummary, ...]:
        self._check_open()
        check_limit(limit)
        return await self._search.find(query, limit, namespace=namespace, tags=tags, permits=self._permits)

    async def list_tools(
        self,
        limit: int = 100,
        cursor: str | None = None,
        *,
        query: str = "",
        namespace: str | None = None,
        tags: Sequence[str] = (),
    ) -> ToolPage:
        self._check_open()
        check_limit(limit)
        page = await self._search.page(query, limit, cursor, namespace=namespace, tags=tags, permits=self._permits)
        return ToolPage(page.items, page.cursor)

    async def describe_tool(self, tool_id: str, level: DetailLevel = "summary") -> dict[str, JsonValue]:
        return describe(self._granted(tool_id), level)

    async def list_namespaces(self) -> tuple[str, ...]:
        self._check_open()
        return tuple(sorted({tool.tool.id.namespace for tool in self._registry.tools() if self._permits(tool)}))

    async def list_tool_examples(self, tool_id: str, limit: int = 5) -> tuple[dict[str, JsonValue], ...]:
        check_limit(limit)
        return examples(self._granted(tool_id), limit)

    async def _call(
        self,
        via: str,
        tool_id: str,
        arguments: JsonValue,
        *,
        flaw: ToolError | None = None,
        timeout_seconds: float | None = None,
        reserved: bool = False,
        feed: Feed | None = None,
    ) -> JsonValue:
        try:
            tool = self._granted(tool_id)
            given = encoded_arguments(arguments)
            if flaw is not None:
                raise flaw
            if not reserved:
                self.grant.reserve()
        except ToolError as exc:
            if reserved:
                self.grant.release(1)
            await self._refuse(via, tool_id, arguments, exc)
            raise
        return await self._run(via, tool, given, timeout_seconds, feed)

    async def _run(
        self, via: str, tool: RegisteredTool, given: Encoded, timeout_seconds: float | None, feed: Feed | None
    ) -> JsonValue:
        """Make a call that is permitted and paid for."""
        whole = len(given.data) <= MAX_ARGUMENTS_BYTES  # more is an error, and may be as much as a guest can send
        record = self._log.open(tool.id, given, via, _warnings(tool, given), whole=whole)
        chunks = Chunks(self._log)
        call = self._prepared(tool, record.index, timeout_seconds, feed, chunks)
        call.usage.input_bytes = len(given.data)
        flaw = self._flaw(call, given)
        await record.start(call.key)
        try:
            if flaw is not None:
                raise flaw
            result = await self._pipeline.run(call)
        except ToolError as exc:
            error = self._late(exc)
            status = CallStatus.FAILED if call.usage.attempts or flaw is not None else CallStatus.REFUSED
            given_so_far = chunks if call.emit is not None else None
            await record.finish(status, result=given_so_far, error=error_json(error), usage=call.usage)
            raise error from exc.__cause__
        except BaseException as exc:
            await record.abandon(exc, call.usage)
            raise
        call.usage.output_bytes = len(result.data) if call.emit is None else chunks.view.size_bytes
        kept = result.data if call.emit is None else chunks
        await record.finish(CallStatus.COMPLETED, result=kept, usage=call.usage)
        return result.value

    def _prepared(
        self,
        tool: RegisteredTool,
        index: int,
        timeout_seconds: float | None,
        feed: Feed | None,
        chunks: Chunks,
    ) -> Call:
        grant = self.grant
        context = ToolContext(
            tool_id=tool.id,
            caller=grant.caller,
            execution_id=grant.execution_id,
            call_index=index,
            deadline=grant.deadline,
            on_progress=None if feed is None else feed.progress,
        )
        left = grant.remaining_seconds()
        if feed is None or not tool.streams:
            return Call(tool=tool, arguments={}, context=context, deadline=_in(_shorter(timeout_seconds, left)))

        async def emit(chunk: Encoded) -> None:
            await chunks.add(chunk.data)
            await feed.chunk(chunk)

        return Call(
            tool=tool,
            arguments={},
            context=context,
            deadline=_in(left),
            emit=emit,
            wait_seconds=timeout_seconds,
        )

    def _flaw(self, call: Call, given: Encoded) -> ToolError | None:
        """Fill in arguments and key. What is wrong with them is returned: it fails the call once that is recorded."""
        try:
            call.arguments = self._pipeline.runner.prepare(call.tool, given)
            self._pipeline.prepare(call)
        except ToolError as exc:
            return exc
        return None

    async def _refuse(self, via: str, tool_id: str, arguments: JsonValue, error: ToolError) -> None:
        """Record a call that is not made."""
        if self._refused >= MAX_REFUSED:
            if not self.flooded and self._on_flood is not None:
                self._on_flood()
            self.flooded = True
            raise BudgetExceeded("refused_calls", MAX_REFUSED, 1) from error
        self._refused += 1
        call = self._log.open(printable(tool_id, _MAX_ID_TEXT), _encoded(arguments), via, whole=False)
        await call.start()
        await call.finish(CallStatus.REFUSED, error=error_json(error))

    def _granted(self, tool_id: str) -> RegisteredTool:
        """The tool, if this execution may call it now. Names of tools that it may not call are not given away."""
        tool = self._registry.find(tool_id)
        if tool is None:
            raise self._unknown(tool_id)
        # Whoever may call `crm:lookup` may call the version that this means now.
        self.grant.check(tool.address if self.grant.permits(tool.address) else tool.id)
        if not self.grant.admits(tool.tool.roles):
            raise ToolDenied(tool_id)
        return tool

    def _unknown(self, tool_id: str) -> ToolNotFound:
        ToolId.parse(tool_id)
        self._hints += 1
        near = self._registry.near(tool_id, self._permits) if self._hints <= _MAX_HINTS else ()
        return ToolNotFound(tool_id, near)

    def _permits(self, tool: RegisteredTool) -> bool:
        return permits(self.grant, tool)

    def _access(self, call: ParallelCall) -> Access | None:
        tool = self._registry.find(call.tool_id)
        if tool is None or not isinstance(call.arguments, Mapping):
            return None
        try:
            return access_of(tool.tool, tool.input.validate_input(call.arguments))
        except ToolError:
            return None

    def _check_open(self) -> None:
        if self.grant.closed or self.grant.remaining_seconds() == 0:
            raise DeadlineExceeded

    def _late(self, error: ToolError) -> ToolError:
        """A tool that was stopped because the execution's time is up did not take too long itself."""
        remaining = self.grant.remaining_seconds()
        # The event loop's timers may fire a little early; uvloop counts in milliseconds.
        if isinstance(error, ToolTimeout) and remaining is not None and remaining <= _CLOCK_SLACK_SECONDS:
            return DeadlineExceeded()
        return error


def _warnings(tool: RegisteredTool, given: Encoded) -> tuple[str, ...]:
    return tuple(f"the argument {name!r} is deprecated" for name in tool.input.deprecated(given.value))


def _shorter(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)


def _in(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _encoded(arguments: JsonValue) -> Encoded:
    try:
        return normalise(dict(arguments) if isinstance(arguments, Mapping) else arguments)
    except NotJsonError as exc:
        return normalise({"malformed": str(exc)})


def check_limit(limit: int) -> None:
    """Raise InvalidInput unless a search or a list may be so long."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"limit must be 1 to {MAX_LIMIT}, not {limit}")
