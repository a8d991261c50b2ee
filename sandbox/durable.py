"""What outlives a run: replays, executions taken up again, and calls that a person decides on."""

import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeAlias

import anyio

from gateway.answers import told, with_artifacts
from gateway.approvals import PendingApproval, Verdict, approval_id, parse_approval_id, waiting
from gateway.base import JsonValue
from gateway.beside import beside
from gateway.errors import InvalidInput, InvalidRequest, LeaseHeld, NotRecorded, ReplayDiverged, SandboxError
from gateway.journal.base import (
    ApprovalDecided,
    Blob,
    ExecutionFilter,
    ExecutionFinished,
    ExecutionSummary,
    Journal,
    Mode,
    Record,
    ToolCall,
)
from gateway.journal.listing import microseconds
from gateway.journal.owner import this_process
from gateway.past import Beyond, Past, PastCall, joined
from gateway.tools.registry import ToolRegistry
from runtimes.base import Outcome
from sandbox.again import (
    Leased,
    Nowhere,
    Recorded,
    Run,
    check_resumable,
    request_of,
    tape_of,
    turns_of,
)
from sandbox.assemble import Observer, unobserved
from sandbox.recorded import ended
from sandbox.request import Request, code_text
from sandbox.result import ExecutionResult
from sandbox.running import Seamless
from sandbox.runtime import Runtime

_log = logging.getLogger(__name__)

GUEST_ENDS = frozenset({Outcome.COMPLETED, Outcome.RAISED, Outcome.EXITED})
"""Outcomes to which a snippet comes by itself."""

LEASE_SECONDS = 30.0
"""How long an execution that is taken up stays this host's after its last sign of life."""

RESUME_SECONDS = 10.0
"""How often a host with `resume="auto"` looks for what others left."""

DECIDE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDecision:
    """What `on_approval` answers. `arguments` are those that the call is made with instead."""

    approved: bool
    arguments: Mapping[str, JsonValue] | None = None
    reason: str = ""
    by: str = ""


OnApproval: TypeAlias = Callable[[PendingApproval], "Awaitable[ApprovalDecision | None]"]
"""Asked about each call that waits; None leaves it waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """How a replay compares with what was recorded.

    `answered` calls were told what they were told then. `missing` are calls that the record does not have, in words;
    they failed. `unused` are recorded calls that were not made. `exact` says that the guest was told the same time and
    the same chance, so that value and output depend on nothing else.
    """

    execution_id: str
    result: ExecutionResult
    answered: int
    missing: tuple[str, ...]
    unused: tuple[ToolCall, ...]
    same_outcome: bool
    same_value: bool
    same_output: bool
    exact: bool

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.unused) and self.same_outcome and self.same_value and self.same_output


class Durable:
    """Works on the records of `journal`, and runs what is to be run in `runtime`."""

    def __init__(
        self, journal: Journal, registry: ToolRegistry, runtime: Runtime, on_approval: OnApproval | None
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._runtime = runtime
        self._secrets = runtime.pipeline.secrets
        self._run = runtime.execute
        self._on_approval = on_approval
        self._owner, self._leases = this_process(), itertools.count()

    async def replay(self, execution_id: str, backend: str | None, code: str | None) -> ReplayReport:
        recorded = await self._recorded(execution_id)
        beyond = Beyond.DIVERGE if code is None else Beyond.MISSING
        ends = recorded.last is None or recorded.last.outcome not in GUEST_ENDS
        turns = await turns_of(self._journal, recorded)
        past = Past(await self._joined(turns, recorded.records), beyond, self._journal.read, ends=ends)
        request = await request_of(
            self._journal,
            recorded.first,
            code=None if code is None else code_text(code),
            backend=backend,
            check=code is None and recorded.turned_down,
        )
        run = Run(
            execution_id,
            recorded.first,
            Nowhere(),
            past,
            await self._tape([*turns, recorded]),
            (turns or [recorded])[0].unix_micros,
            await self._codes(turns),
            suspends=False,
        )
        result = await self._run(request, unobserved, run)
        if past.diverged is not None:
            raise past.diverged  # the guest had ended before it was told
        calls = tuple(told(call) for call in past.calls if call.own and call.asked)
        now = ended(result, request, self._secrets)
        report = self._report(recorded, now, replace(result, tool_calls=calls), past)
        if code is None:
            _check_same(past, report, recorded.last, now)
        return report

    async def resume(self, execution_id: str, observe: Observer | None = None) -> ExecutionResult:
        lease = await self._journal.lease(execution_id, self._next_owner(), LEASE_SECONDS)
        keeper = Leased(self._journal, lease)
        try:
            async with _renewed(keeper):
                recorded = await self._recorded(execution_id)
                check_resumable(execution_id, recorded)
                turns = await turns_of(self._journal, recorded)
                past = Past(await self._joined(turns, recorded.records), Beyond.LIVE, self._journal.read)
                request = await request_of(self._journal, recorded.first)
                run = Run(
                    execution_id,
                    recorded.first,
                    keeper,
                    past,
                    await self._tape([*turns, recorded]),
                    (turns or [recorded])[0].unix_micros,
                    await self._codes(turns),
                    resumes=True,
                )
                result = await self._run(request, observe or unobserved, run)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(DECIDE_SECONDS):
                await self._journal.release(keeper.lease)
        return await self.settled(result, observe)

    async def turn(self, request: Request, after: str) -> ExecutionResult:
        """Run a session's next snippet, which follows the execution `after`.

        Raises NotRecorded, and InvalidRequest for an execution that nothing can follow.
        """
        turns: list[Recorded] = []
        if after:
            before = await self._recorded(after)
            _check_followed(before)
            turns = [*await turns_of(self._journal, before), before]
        started = await self._runtime.start(request, Mode.SESSION, after, turns[0].first.seed if turns else None)
        run = Run(
            started.execution_id,
            started,
            self._journal,
            Past(await self._joined(turns, ()), Beyond.LIVE, self._journal.read),
            await self._tape(turns),
            turns[0].unix_micros if turns else microseconds(started.at),
            await self._codes(turns),
        )
        return await self.settled(await self._run(request, unobserved, run))

    async def is_kept(self, execution_id: str) -> bool:
        """Whether a session goes on from this execution, and not from the one before."""
        last = (await self._recorded(execution_id)).last
        return last is not None and (last.outcome in GUEST_ENDS or last.outcome == Outcome.SUSPENDED)

    async def _joined(self, turns: Sequence[Recorded], own: Sequence[Record]) -> Sequence[PastCall]:
        return await with_artifacts(self._journal, joined([turn.records for turn in turns], own))

    async def _tape(self, turns: Sequence[Recorded]) -> bytes:
        return b"".join([await tape_of(self._journal, turn.records) for turn in turns])

    async def _codes(self, turns: Sequence[Recorded]) -> tuple[str, ...]:
        return tuple([await _text(self._journal, turn.first.code) for turn in turns])

    async def watched(self, request: Request, observe: Observer) -> ExecutionResult:
        """Run a snippet for whoever hears of all that happens, in as many runs as `on_approval` makes of it."""
        seamless = Seamless(observe)
        return await self.settled(await self._run(request, seamless), seamless)

    async def settled(self, result: ExecutionResult, observe: Observer | None = None) -> ExecutionResult:
        """Ask `on_approval` about what waits, and go on as long as it decides."""
        if self._on_approval is None or result.outcome is not Outcome.SUSPENDED:
            return result
        decided = 0
        for pending in await self._pending(result.execution_id):
            decision = await self._asked(pending)
            if decision is not None:
                await self._answer(pending, decision)
                decided += 1
        return await self.resume(result.execution_id, observe) if decided else result

    async def _asked(self, pending: PendingApproval) -> ApprovalDecision | None:
        assert self._on_approval is not None
        try:
            return await self._on_approval(pending)
        except Exception as error:
            error.add_note(f"execution {pending.execution_id} is suspended; approval {pending.id} can be given later")
            raise

    async def unfinished(self) -> tuple[ExecutionSummary, ...]:
        found = {one.execution_id: one for one in await self._journal.unfinished()}
        for execution_id in set(self._runtime.unended) - set(found):
            one = await self._journal.execution(execution_id)
            if one is not None and not one.outcome:
                found[execution_id] = one
        return tuple(sorted(found.values(), key=lambda one: (one.started_at, one.execution_id)))

    async def keep_resuming(self) -> None:
        """Take up what is unfinished, now and whenever a host is seen to be gone: one that died before this machine
        started, say, is only once its lease has run out."""
        while True:
            try:
                await self._resume_all()
            except SandboxError as error:
                _log.warning("what is unfinished could not be looked for: %s", error)
            await anyio.sleep(RESUME_SECONDS)

    async def _resume_all(self) -> None:
        """One after another; what another host has taken is left to it."""
        for one in await self._journal.unfinished():
            try:
                found = await self._journal.execution(one.execution_id)
                if found is not None and not found.outcome:  # else another host has ended or suspended it since
                    await self.resume(one.execution_id)
            except LeaseHeld:
                continue
            except SandboxError as error:
                _log.warning("execution %s could not be taken up: %s", one.execution_id, error)

    async def approvals(self, tenant_id: str | None) -> tuple[PendingApproval, ...]:
        which = ExecutionFilter(tenant_id=tenant_id, outcome=Outcome.SUSPENDED)
        found: list[PendingApproval] = []
        cursor: str | None = None
        while True:
            page = await self._journal.executions(which, cursor=cursor)
            for execution in page.executions:
                found += await self._pending(execution.execution_id)
            if (cursor := page.cursor) is None:
                return tuple(sorted(found, key=lambda one: one.requested_at))

    async def decide(self, approval: str, verdict: Verdict, decision: ApprovalDecision) -> None:
        """Raises NotRecorded, InvalidRequest, LeaseHeld."""
        execution_id, index = parse_approval_id(approval)
        pending = next((one for one in await self._pending(execution_id) if one.index == index), None)
        if pending is None:
            raise NotRecorded(f"approval {approval} that waits")
        if pending.expired:
            raise InvalidRequest(f"approval {approval} has expired; take the execution up to let it know")
        arguments = None if decision.arguments is None else self._edited(pending, decision.arguments)
        record = ApprovalDecided(
            execution_id=execution_id,
            tenant_id=pending.tenant_id,
            at=datetime.now(UTC),
            index=index,
            verdict=verdict,
            arguments=arguments,
            reason=self._masked(decision.reason),
            by=self._masked(decision.by),
        )
        await self._append(execution_id, record)

    async def _answer(self, pending: PendingApproval, decision: ApprovalDecision) -> None:
        edited = decision.approved and decision.arguments is not None
        verdict = Verdict.EDITED if edited else Verdict.APPROVED if decision.approved else Verdict.REJECTED
        kept = decision if edited else replace(decision, arguments=None)
        await self.decide(pending.id, verdict, kept)

    def _edited(self, pending: PendingApproval, arguments: Mapping[str, JsonValue]) -> Blob:
        """Raises InvalidInput when the tool would not take them, or they hold a secret: records may not."""
        tool = self._registry.find(pending.tool_id)
        if tool is None:
            raise NotRecorded(f"tool {pending.tool_id!r} among those that are registered now")
        valid = tool.input.validate_input(dict(arguments))
        if self._secrets is not None and self._secrets.value(valid) != valid:
            raise InvalidInput("a secret of this host is in these arguments; leave it out, and let the tool name it")
        return Blob.of_json(valid)

    def _masked(self, text: str) -> str:
        return text if self._secrets is None else self._secrets.text(text)

    def _next_owner(self) -> str:
        """Another one each time: this host too takes an execution up once at a time. Begins with the process, so that
        others see when it is gone."""
        return f"{self._owner}-{next(self._leases)}"

    async def _append(self, execution_id: str, record: Record) -> None:
        lease = await self._journal.lease(execution_id, self._next_owner(), DECIDE_SECONDS)
        try:
            await self._journal.append(record, lease=lease)
        finally:
            await self._journal.release(lease)

    async def _pending(self, execution_id: str) -> list[PendingApproval]:
        records = await self._journal.records(execution_id)
        return [await self._described(call) for call in waiting(records)]

    async def _described(self, call: PastCall) -> PendingApproval:
        asked = call.requested
        assert asked is not None
        arguments = asked.arguments.with_data(await self._journal.read(asked.arguments))
        return PendingApproval(
            id=approval_id(asked.execution_id, asked.index),
            execution_id=asked.execution_id,
            index=asked.index,
            tool_id=asked.tool_id,
            arguments=arguments.as_json(),
            arguments_sha256=asked.arguments_sha256,
            reason=asked.reason,
            tenant_id=asked.tenant_id,
            requested_at=asked.at,
            expires_at=asked.expires_at,
        )

    async def _recorded(self, execution_id: str) -> Recorded:
        return Recorded.of(execution_id, await self._journal.records(execution_id))

    def _report(self, recorded: Recorded, now: ExecutionFinished, result: ExecutionResult, past: Past) -> ReplayReport:
        """`now` is what the record would be."""
        last = recorded.last
        return ReplayReport(
            execution_id=recorded.first.execution_id,
            result=result,
            answered=sum(call.asked and call.answered for call in past.calls),
            missing=tuple(map(str, past.missing)),
            unused=tuple(map(told, past.unused)),
            same_outcome=past.ended or (last is not None and (last.outcome, last.error) == (now.outcome, now.error)),
            same_value=(None if last is None else last.value) == now.value,
            same_output=last is not None and (last.stdout, last.stderr) == (now.stdout, now.stderr),
            exact=past.exact,
        )


def _check_followed(before: Recorded) -> None:
    if before.last is None or before.last.outcome not in GUEST_ENDS:
        how = "has not ended" if before.last is None else f"ended as {before.last.outcome}"
        raise InvalidRequest(f"execution {before.first.execution_id} {how}, and nothing can follow it; resume it first")


def _check_same(past: Past, report: ReplayReport, was: ExecutionFinished | None, now: ExecutionFinished) -> None:
    """Raises ReplayDiverged, also when a guest that was told everything the same does not end the same."""
    past.check_complete()
    if report.exact and was is not None and not report.same:
        pairs = (
            ("error", _error_blob(was.error), _error_blob(now.error)),
            ("value", was.value, now.value),
            ("stdout", was.stdout, now.stdout),
            ("stderr", was.stderr, now.stderr),
        )
        shown = [(name, *beside(one, other)) for name, one, other in pairs if one != other]
        raise ReplayDiverged(
            "it ended otherwise",
            ", ".join([was.outcome, *(f"{name} {one}" for name, one, _ in shown)]),
            ", ".join([now.outcome, *(f"{name} {other}" for name, _, other in shown)]),
        )


def _error_blob(error: Mapping[str, JsonValue] | None) -> Blob | None:
    return None if error is None else Blob.of_json(dict(error))


async def _text(journal: Journal, blob: Blob) -> str:
    return (await journal.read(blob)).decode()


@asynccontextmanager
async def _renewed(keeper: Leased) -> AsyncIterator[None]:
    """Holds the lease. When it is lost, what runs inside ends with LeaseLost."""

    async def renew() -> None:
        while True:
            await anyio.sleep(LEASE_SECONDS / 3)
            await keeper.renew(LEASE_SECONDS)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(renew)
            yield
            tasks.cancel_scope.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
