"""The gateway in process: every call checked against the grant, recorded, run."""

import functools
from collections.abc import Callable, Mapping, Sequence

from gateway.base import CallOutcome, ChainResult, ChainStep, DetailLevel, JsonValue, ParallelCall, ToolSummary
from gateway.calls import CallLog
from gateway.chain import run_chain
from gateway.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    InvalidInput,
    ToolError,
    ToolNotFound,
    ToolTimeout,
)
from gateway.grant import Grant
from gateway.journal.base import CallStatus, Journal, ToolCall
from gateway.parallel import run_parallel
from gateway.payload import Encoded, NotJsonError, encode, error_json, printable, recorded
from gateway.runner import Runner, encoded_arguments
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
        runner: Runner,
        registry: ToolRegistry,
        search: ToolSearch,
        journal: Journal,
        on_call: Callable[[ToolCall], None] | None = None,
        on_flood: Callable[[], None] | None = None,
    ) -> None:
        self.grant = grant
        self.flooded = False
        self._on_flood = on_flood
        self._runner = runner
        self._registry = registry
        self._search = search
        self._log = CallLog(grant.execution_id, journal, on_call)
        self._refused = 0
        self._hints = 0

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Every recorded call in the order they were asked for; `index` is the position."""
        return tuple(self._log.calls)

    async def run_tool(self, tool_id: str, arguments: Mapping[str, JsonValue]) -> JsonValue:
        return await self._call("run_tool", tool_id, arguments)

    async def run_chain(self, steps: Sequence[ChainStep]) -> ChainResult:
        try:
            return await run_chain(steps, self.grant, functools.partial(self._call, "run_chain", reserved=True))
        except BudgetExceeded as exc:
            await self._refuse("run_chain", "run_chain", {"steps": len(steps)}, exc)
            raise

    async def run_parallel(self, calls: Sequence[ParallelCall]) -> tuple[CallOutcome, ...]:
        try:
            return await run_parallel(calls, self.grant, functools.partial(self._call, "run_parallel", reserved=True))
        except BudgetExceeded as exc:
            await self._refuse("run_parallel", "run_parallel", {"calls": len(calls)}, exc)
            raise

    async def search_tools(self, query: str, limit: int = 10) -> tuple[ToolSummary, ...]:
        self._check_open()
        check_limit(limit)
        return self._search.search(query, limit, lambda tool_id: self._permits(self._registry.resolve(tool_id)))

    async def describe_tool(self, tool_id: str, level: DetailLevel = "summary") -> dict[str, JsonValue]:
        return describe(self._granted(tool_id), level)

    async def list_namespaces(self) -> tuple[str, ...]:
        self._check_open()
        return tuple(sorted({tool.tool.id.namespace for tool in self._registry.tools() if self._permits(tool)}))

    async def list_tool_examples(self, tool_id: str, limit: int = 5) -> tuple[dict[str, JsonValue], ...]:
        check_limit(limit)
        return examples(self._granted(tool_id), limit)

    async def _call(
        self, via: str, tool_id: str, arguments: JsonValue, flaw: ToolError | None = None, *, reserved: bool = False
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
        return await self._run(via, tool, given)

    async def _run(self, via: str, tool: RegisteredTool, given: Encoded) -> JsonValue:
        """Make a call that is permitted and paid for."""
        call = self._log.open(tool.id, recorded(given.data), via)
        attempts = 0
        await call.start()
        try:
            prepared = self._runner.prepare(tool, given)
            attempts = 1
            result = await self._runner.call(tool, prepared, timeout_seconds=self.grant.remaining_seconds())
        except ToolError as exc:
            error = self._late(exc)
            await call.finish(CallStatus.FAILED, error=error_json(error), attempts=attempts)
            raise error from exc.__cause__
        except BaseException as exc:
            await call.abandon(exc, attempts)
            raise
        await call.finish(CallStatus.COMPLETED, result=recorded(result.data), attempts=attempts)
        return result.value

    async def _refuse(self, via: str, tool_id: str, arguments: JsonValue, error: ToolError) -> None:
        """Record a call that is not made."""
        if self._refused >= MAX_REFUSED:
            if not self.flooded and self._on_flood is not None:
                self._on_flood()
            self.flooded = True
            raise BudgetExceeded("refused_calls", MAX_REFUSED, 1) from error
        self._refused += 1
        call = self._log.open(printable(tool_id, _MAX_ID_TEXT), _record_of(arguments), via)
        await call.start()
        await call.finish(CallStatus.REFUSED, error=error_json(error))

    def _granted(self, tool_id: str) -> RegisteredTool:
        """The tool, if this execution may call it now. Names of tools that it may not call are not given away."""
        tool = self._registry.find(tool_id)
        if tool is None:
            raise self._unknown(tool_id)
        # Whoever may call `crm:lookup` may call the version that this means now.
        self.grant.check(tool.address if self.grant.permits(tool.address) else tool.id)
        return tool

    def _unknown(self, tool_id: str) -> ToolNotFound:
        ToolId.parse(tool_id)
        self._hints += 1
        near = self._registry.near(tool_id, self._permits) if self._hints <= _MAX_HINTS else ()
        return ToolNotFound(tool_id, near)

    def _permits(self, tool: RegisteredTool) -> bool:
        return self.grant.permits(tool.address) or self.grant.permits(tool.id)

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


def _record_of(arguments: JsonValue) -> JsonValue:
    try:
        return recorded(encode(dict(arguments) if isinstance(arguments, Mapping) else arguments))
    except NotJsonError as exc:
        return {"malformed": str(exc)}


def check_limit(limit: int) -> None:
    """Raise InvalidInput unless a search or a list may be so long."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"limit must be 1 to {MAX_LIMIT}, not {limit}")
