"""The gateway in process: every call checked against the grant, recorded, run."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

from gateway.answers import answer_of, chunks_of, records_told
from gateway.artifacts import ArtifactBudget, Attached
from gateway.base import (
    MAX_ARGUMENTS_BYTES,
    CallOutcome,
    ChainResult,
    ChainStep,
    JsonValue,
    ParallelCall,
)
from gateway.calls import CallLog, Chunks, Keeper, OpenCall
from gateway.chain import MAX_ID_TEXT, CallTool, Time, Took, Watcher, check_timeout, run_chain
from gateway.context import Progress, ToolContext
from gateway.discovery import Discovery
from gateway.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    ToolDenied,
    ToolError,
    ToolTimeout,
)
from gateway.gate import ExecutionGate
from gateway.grant import Grant
from gateway.ids import within
from gateway.journal.base import Blob, CallFinished, CallStatus, ToolCall, arguments_sha256
from gateway.parallel import MAX_IN_FLIGHT, Access, check_concurrent, run_parallel
from gateway.past import INNER, Asked, Beyond, Past, PastCall
from gateway.payload import Encoded, error_json, printable
from gateway.pipeline import Pipeline
from gateway.policies.base import Call
from gateway.reads import told_by
from gateway.runner import encoded_arguments
from gateway.site import TapeLog
from gateway.streaming import ChainFeed, Feed, ToolStream
from gateway.suspension import Suspension
from gateway.tools.access import access_of
from gateway.tools.registry import RegisteredTool, ToolRegistry
from gateway.tools.search import ToolSearch
from gateway.tracing import call_span, here, note
from gateway.way import STREAM_CHAIN, STREAM_TOOL, Way, encoded_for_record, ends_in, shorter, site_of, warnings_of

MAX_REFUSED = 1000
"""Refused calls of one execution that are recorded; a guest that goes on is flooding."""

_CLOCK_SLACK_SECONDS = 0.005


class DirectGateway(Discovery):
    """What one execution may do, in the host's own process. Implements `gateway.base.Gateway`.

    `on_call` is told of every call when it starts (status None) and when it ends. `flooded` turns true, and `on_flood`
    is called once, when the guest goes on making calls that are refused: stop it. A journal that fails stops the call:
    its error comes out as it is. Of a batch at most `in_flight` calls are under way.

    With a `past`, calls that were made before are answered from it. `suspension` ends the execution when a call waits
    for a person; without one nobody can be asked.
    """

    def __init__(
        self,
        grant: Grant,
        pipeline: Pipeline,
        registry: ToolRegistry,
        search: ToolSearch,
        journal: Keeper,
        on_call: Callable[[ToolCall], None] | None = None,
        on_flood: Callable[[], None] | None = None,
        *,
        in_flight: int = MAX_IN_FLIGHT,
        past: Past | None = None,
        suspension: Suspension | None = None,
    ) -> None:
        super().__init__(grant, registry, search)
        self.flooded = False
        self._on_flood = on_flood
        self._in_flight = in_flight
        self._pipeline = pipeline
        self._secrets = pipeline.secrets
        self._past = past
        self._suspension = suspension
        self._gate = None if suspension is None else ExecutionGate(journal, past, suspension, self._secrets)
        kept = past.calls if past is not None and past.beyond is Beyond.LIVE else ()
        before = [records_told(call) for call in kept if call.own]
        self._log = CallLog(grant.execution_id, journal, on_call, grant.caller, pipeline.feed, before=before)
        self._artifacts = ArtifactBudget(artifact for call in self._log.calls for artifact in call.artifacts)
        self._span = here()
        self._refused = 0

    @property
    def tape(self) -> TapeLog:
        """Takes what the guest was told of time, on its way into the records."""
        return self._log.tape

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Every recorded call in the order they were asked for; `index` is the position."""
        return self._log.calls

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
            return await self._call(
                STREAM_TOOL, tool_id, arguments, timeout_seconds=timeout_seconds, feed=feed, report=feed.progress
            )

        return ToolStream(call)

    async def run_chain(self, steps: Sequence[ChainStep], *, timeout_seconds: float | None = None) -> ChainResult:
        call = functools.partial(self._call, "run_chain", reserved=True)
        return await self._run_chain("run_chain", steps, call, timeout_seconds)

    def stream_chain(self, steps: Sequence[ChainStep], *, timeout_seconds: float | None = None) -> ToolStream:
        check_timeout(timeout_seconds)

        async def run(feed: Feed) -> JsonValue:
            chain = ChainFeed(feed, len(steps), self._shown)
            call = functools.partial(self._call, STREAM_CHAIN, reserved=True, feed=feed, report=chain.report)
            return (await self._run_chain(STREAM_CHAIN, steps, call, timeout_seconds, chain)).value

        return ToolStream(run)

    async def _run_chain(
        self,
        via: str,
        steps: Sequence[ChainStep],
        call: CallTool,
        timeout_seconds: float | None,
        watcher: Watcher | None = None,
    ) -> ChainResult:
        await self._refused_before(via, {"steps": len(steps)})
        try:
            return await run_chain(steps, self.grant, call, Time(timeout_seconds), watcher)
        except BudgetExceeded as exc:
            await self._refuse(Way(via, site_of(), Took()), via, {"steps": len(steps)}, exc)
            raise

    async def run_parallel(
        self,
        calls: Sequence[ParallelCall],
        *,
        max_concurrent: int | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[CallOutcome, ...]:
        call = functools.partial(self._call, "run_parallel", reserved=True)
        check_concurrent(max_concurrent)
        max_concurrent = min(self._in_flight, max_concurrent or self._in_flight)
        await self._refused_before("run_parallel", {"calls": len(calls)})
        try:
            return await run_parallel(calls, self.grant, call, self._access, Time(timeout_seconds), max_concurrent)
        except BudgetExceeded as exc:
            await self._refuse(Way("run_parallel", site_of(), Took()), "run_parallel", {"calls": len(calls)}, exc)
            raise

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
        report: Callable[[Progress], None] | None = None,
        position: int | None = None,
        took: Took | None = None,
    ) -> JsonValue:
        way = Way(via, site_of(position), took or Took(), timeout_seconds, feed, report)
        if (found := await self._recorded(way.site, tool_id, arguments)) is not None:
            return await self._again(way, found, arguments, reserved=reserved)
        if self._suspension is not None:
            await self._suspension.admit()
        try:
            tool = await self._granted(tool_id)
            given = encoded_arguments(arguments)
            if flaw is not None:
                raise flaw
            if not reserved:
                self.grant.reserve()
        except ToolError as exc:
            if reserved:
                self.grant.release(1)
            await self._refuse(way, tool_id, arguments, self._masked(exc))
            raise
        return await self._run(way, tool, given)

    async def _run(self, way: Way, tool: RegisteredTool, given: Encoded) -> JsonValue:
        """Make a call that is permitted and paid for."""
        shown = given if self._secrets is None else self._secrets.encoded(given)
        whole = len(given.data) <= MAX_ARGUMENTS_BYTES  # more is an error, and may be as much as a guest can send
        index = self._log.next_index
        self._read_by(way.feed, index)
        chunks = self._chunks(way, tool)
        call = self._prepared(way, tool, index, chunks)
        call.usage.input_bytes = len(given.data)
        flaw = self._flaw(call, given)
        record = await self._log.start(
            tool.id,
            shown,
            way.via,
            site=way.site,
            key=call.key if self._secrets is None else self._secrets.text(call.key),
            warnings=warnings_of(tool, given),
            whole=whole,
        )
        return await self._make(way, record, call, chunks, flaw)

    async def _make(
        self, way: Way, record: OpenCall, call: Call, chunks: Chunks | None, flaw: ToolError | None
    ) -> JsonValue:
        """Through its policies to the tool, and its end into the journal."""
        try:
            if flaw is not None:
                raise flaw
            working = nullcontext() if self._suspension is None else self._suspension.working()
            with working, within(call.context), call_span(call, self._span):
                result = await self._pipeline.run(call)
        except ToolError as exc:
            error = self._masked(self._late(exc))
            status = CallStatus.FAILED if call.usage.attempts or flaw is not None else CallStatus.REFUSED
            call.attached.drop()
            await self._log.finish(record, status, result=chunks, error=error_json(error), usage=call.usage)
            raise error from exc.__cause__
        except BaseException as exc:
            if self._gate is None or not self._gate.keeps(record.index):
                await self._log.abandon(record, exc, call.usage, chunks, left=way.feed is not None and way.feed.left)
            raise
        finally:
            way.took.seconds = record.duration_seconds
        call.usage.output_bytes = len(result.data) if chunks is None else chunks.view.size_bytes
        kept = result.data if chunks is None else chunks
        artifacts = call.attached.kept
        await self._log.finish(record, CallStatus.COMPLETED, result=kept, usage=call.usage, artifacts=artifacts)
        way.took.seconds = record.duration_seconds
        return result.value

    async def call_inner(self, tool_id: str, arguments: Mapping[str, JsonValue]) -> JsonValue:
        """As `ToolContext.call_tool`."""
        self._check_open()
        tool = self._registry.resolve(tool_id)
        if not self.grant.admits(tool.tool.roles):
            raise ToolDenied(tool_id)
        try:
            return await self._run(Way(INNER, "", Took()), tool, encoded_arguments(arguments))
        except ToolError as error:
            error.details.pop("sent", None)  # this call sent nothing; the one around it may have done its work
            raise

    async def _refused_before(self, via: str, arguments: JsonValue) -> None:
        """Raises what a whole chain or batch was refused with in an earlier run."""
        if self._past is not None and self._past.refuses(site_of(), via):
            await self._call(via, via, arguments, reserved=True)

    async def _recorded(self, site: str, tool_id: str, arguments: JsonValue) -> PastCall | None:
        """The call of an earlier run that this one is."""
        if self._past is None or self._refused >= MAX_REFUSED:
            return None
        tool = self._registry.find(tool_id)
        names = () if tool is None else (tool.id,)
        shown = (self._shown(tool_id), *names)
        told = encoded_for_record(arguments, self._secrets)
        return await self._past.find(Asked(site, shown, arguments_sha256(told.value), Blob.of(told.data)))

    async def _again(self, way: Way, found: PastCall, arguments: JsonValue, *, reserved: bool) -> JsonValue:
        """Answer a call as it was answered before; make it where that never happened."""
        past, finished = self._past, found.finished
        assert past is not None
        if reserved and (not found.own or (finished is not None and finished.status is CallStatus.REFUSED)):
            self.grant.release(1)
        if found.own:
            self._count_again(finished, reserved=reserved)
        if way.feed is not None:
            await self._follow(way.feed, found, past)
        if past.makes_again(found):
            return await self._make_again(way, found, encoded_arguments(arguments))
        if way.feed is not None and way.is_stream:  # before the answer's turn: what came since may depend on them
            for chunk in await chunks_of(past, found):
                await way.feed.chunk(chunk)
        answer = await answer_of(past, found)
        way.took.seconds = answer.duration_seconds
        if answer.error is not None:
            raise answer.error
        return answer.value

    async def _follow(self, feed: Feed, found: PastCall, past: Past) -> None:
        if found.own:
            self._read_by(feed, found.index)
        feed.on_drop.append(functools.partial(past.skip, (*found.reads, found)))
        await feed.follow(found.reads, past.turn)

    def _read_by(self, feed: Feed | None, index: int) -> None:
        """Keep what each read of the feed gives with this call's record; those of a chain with its first one's."""
        if feed is not None and feed.on_read is None:
            feed.on_read = lambda events: self._log.tape.add_read(index, told_by(events))

    def _count_again(self, finished: CallFinished | None, *, reserved: bool) -> None:
        if finished is not None and finished.status is CallStatus.REFUSED:
            self._refused += 1
        elif not reserved:
            self.grant.used_calls += 1

    async def _make_again(self, way: Way, found: PastCall, given: Encoded) -> JsonValue:
        """A call that had begun when its host ended, or that waited for a person."""
        record = self._log.reopen(found.index)
        try:
            tool = await self._granted(found.started.tool_id)
        except ToolError as exc:
            await self._log.finish(record, CallStatus.FAILED, error=error_json(exc))
            raise
        chunks = self._chunks(way, tool)
        call = self._prepared(way, tool, found.index, chunks)
        flaw = self._flaw(call, given)
        if not call.key:
            call.context = dataclasses.replace(call.context, idempotency_key=found.started.key)
        if flaw is None and self._gate is not None:
            try:
                await self._gate.admit_in_doubt(call, found)
            except ToolError as exc:
                flaw = exc
        call.usage.decisions.append("begun again after the execution was taken up")
        return await self._make(way, record, call, chunks, flaw)

    def _chunks(self, way: Way, tool: RegisteredTool) -> Chunks | None:
        """Where those go that the tool gives, if it gives any."""
        return Chunks(self._log) if way.is_stream and tool.streams else None

    def _prepared(self, way: Way, tool: RegisteredTool, index: int, chunks: Chunks | None) -> Call:
        grant, feed = self.grant, way.feed
        # A call that a tool makes has nobody to wait for: its tool is at work, and would be made again.
        gate = None if way.via == INNER else self._gate
        attached = Attached(self._artifacts)
        context = ToolContext(
            tool_id=tool.id,
            caller=grant.caller,
            execution_id=grant.execution_id,
            call_index=index,
            deadline=grant.deadline,
            on_progress=None if way.report is None else self._progress(way.report),
            call_tool=_Inner(self),  # not kept: the garbage collector need not come for a gateway
            on_attach=attached.next(),
        )
        left = grant.remaining_seconds()
        call = Call(
            tool=tool,
            arguments={},
            context=context,
            gate=gate,
            tell_of=self._told,
            attached=attached,
        )
        if chunks is None or feed is None:
            call.deadline = ends_in(shorter(way.timeout_seconds, left))
            return call

        async def emit(chunk: Encoded) -> None:
            await chunks.add(chunk.data)
            await feed.chunk(chunk)

        call.deadline, call.emit, call.wait_seconds = ends_in(left), emit, way.timeout_seconds
        return call

    def _told(self, call: Call, kind: str, details: Mapping[str, JsonValue]) -> None:
        self._log.happened(call, kind, details)
        note(kind, details)

    def _flaw(self, call: Call, given: Encoded) -> ToolError | None:
        """Fill in arguments and key. What is wrong with them is returned: it fails the call once that is recorded."""
        try:
            call.arguments = self._pipeline.runner.prepare(call.tool, given)
            self._pipeline.prepare(call)
        except ToolError as exc:
            return exc
        return None

    async def _refuse(self, way: Way, tool_id: str, arguments: JsonValue, error: ToolError) -> None:
        """Record a call that is not made."""
        if self._refused >= MAX_REFUSED:
            if not self.flooded and self._on_flood is not None:
                self._on_flood()
            self.flooded = True
            raise BudgetExceeded("refused_calls", MAX_REFUSED, 1) from error
        self._refused += 1
        secrets = self._secrets
        shown = self._shown(tool_id)
        given = encoded_for_record(arguments, secrets)
        self._read_by(way.feed, self._log.next_index)
        call = await self._log.start(shown, given, way.via, site=way.site, whole=False, refused=True)
        await self._log.finish(call, CallStatus.REFUSED, error=error_json(error))
        way.took.seconds = call.duration_seconds

    def _access(self, call: ParallelCall) -> Access | None:
        tool = self._registry.find(call.tool_id)
        if tool is None or not isinstance(call.arguments, Mapping):
            return None
        try:
            return access_of(tool.tool, tool.input.validate_input(call.arguments))
        except ToolError:
            return None

    def _shown(self, tool_id: str) -> str:
        """What was asked for as a tool's id, as records have it."""
        return printable(tool_id if self._secrets is None else self._secrets.text(tool_id), MAX_ID_TEXT)

    def _masked(self, error: ToolError) -> ToolError:
        return error if self._secrets is None else self._secrets.error(error)

    def _progress(self, report: Callable[[Progress], None]) -> Callable[[Progress], None]:
        secrets = self._secrets
        return report if secrets is None else lambda progress: report(secrets.progress(progress))

    def _late(self, error: ToolError) -> ToolError:
        """A tool that was stopped because the execution's time is up did not take too long itself."""
        remaining = self.grant.remaining_seconds()
        # The event loop's timers may fire a little early; uvloop counts in milliseconds.
        if isinstance(error, ToolTimeout) and remaining is not None and remaining <= _CLOCK_SLACK_SECONDS:
            return DeadlineExceeded()
        return error


class _Inner:
    """How a tool calls another; a copy of its context, however deep, has the same."""

    __slots__ = ("_gateway",)

    def __init__(self, gateway: DirectGateway) -> None:
        self._gateway = gateway

    async def __call__(self, tool_id: str, arguments: Mapping[str, JsonValue], /) -> JsonValue:
        return await self._gateway.call_inner(tool_id, arguments)

    def __deepcopy__(self, memo: dict[int, object]) -> "_Inner":
        del memo
        return self
