"""What an `AsyncExec` can do with executions that have been: run them again, go on with them, decide on their calls."""

from collections.abc import Iterable, Mapping
from typing import Any

from anyio.abc import TaskGroup

from gateway.approvals import PendingApproval, Verdict
from gateway.base import JsonValue
from gateway.context import ANYBODY, Caller
from gateway.errors import InvalidRequest
from gateway.journal.base import ExecutionSummary
from runtimes.limits import Limits
from sandbox.durable import ApprovalDecision, Durable, ReplayReport
from sandbox.request import Request
from sandbox.result import ExecutionResult
from sandbox.session import IDLE_SECONDS, Session


class History:
    """On the records of the Exec's journal."""

    _durable: Durable

    async def _open(self) -> TaskGroup:
        raise NotImplementedError

    def _request(self, code: str, *, language: str | None, profile: str | None, **rest: Any) -> Request:
        raise NotImplementedError

    async def replay(self, execution_id: str, *, backend: str | None = None, code: str | None = None) -> ReplayReport:
        """Run an execution again with its tools answered from the journal; nothing is called, and nothing recorded.

        On the backend it ran on unless `backend` names another. On WASM its clock and its chance are those of then, so
        that it ends the same to the last byte; elsewhere it is compared call by call. With `code` that snippet is run
        in its place, and the report says what differs.

        Raises ReplayDiverged when, without `code`, it does something else than then; NotRecorded.
        """
        await self._open()
        return await self._durable.replay(execution_id, backend, code)

    async def unfinished(self) -> tuple[ExecutionSummary, ...]:
        """Executions that a crash of their host cut off, and that nobody has taken up; the oldest first."""
        return await self._durable.unfinished()

    async def resume(self, execution_id: str) -> ExecutionResult:
        """Take up an execution that was cut off or suspended: replay it to where it stopped, then go on.

        Its wall clock and CPU time begin anew; its other budgets go on. Raises LeaseHeld when another host is at work
        on it, ReplayDiverged before anything new is done when the snippet does not come to the same point,
        InvalidRequest when it has ended.
        """
        await self._open()
        return await self._durable.resume(execution_id)

    def session(
        self,
        *,
        after: str = "",
        idle_seconds: float | None = IDLE_SECONDS,
        profile: str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        allowed_tools: Iterable[str] | None = None,
        caller: Caller = ANYBODY,
    ) -> Session:
        """Executions whose variables live on: `async with exec.session() as s: await s.execute_code("x = 1")`.

        Each runs on WASM in a fresh sandbox, where what came before is replayed with nothing called. `after` goes on
        from an execution of an earlier session, on this host or another. Not used for `idle_seconds` (default an hour,
        None for any time) it is closed. The other arguments are those of `execute_code`, for all of its executions.

        Raises InvalidRequest.
        """

        async def run(code: str, before: str, own: Limits | Mapping[str, Any] | None) -> ExecutionResult:
            request = self._request(
                code,
                language="python",
                profile=profile,
                backend="wasm",
                limits=Limits.of(own).over(Limits.of(limits)),
                allowed_tools=allowed_tools,
                caller=caller,
                check=False,
                env=None,
                files=None,
            )
            await self._open()
            return await self._durable.turn(request, before)

        return Session(run, self._durable.is_kept, after=after, idle_seconds=idle_seconds)

    async def approvals(self, *, tenant_id: str | None = None) -> tuple[PendingApproval, ...]:
        """Calls that wait for a person, of one tenant or all; the oldest first."""
        return await self._durable.approvals(tenant_id)

    async def approve(self, approval_id: str, *, by: str = "") -> None:
        """Let a call be made, with exactly the arguments it waits with, when its execution is taken up by `resume`.

        `by` goes into the record. Raises NotRecorded when no such call waits, InvalidRequest when it has expired.
        """
        await self._durable.decide(approval_id, Verdict.APPROVED, ApprovalDecision(approved=True, by=by))

    async def reject(self, approval_id: str, reason: str = "", *, by: str = "") -> None:
        """Refuse a call: when its execution is taken up the guest sees the error `approval_rejected`, with `reason`."""
        await self._durable.decide(
            approval_id, Verdict.REJECTED, ApprovalDecision(approved=False, reason=reason, by=by)
        )

    async def edit(self, approval_id: str, arguments: Mapping[str, JsonValue], *, by: str = "") -> None:
        """Let a call be made with other arguments, which are recorded. Raises InvalidInput when they do not fit."""
        decision = ApprovalDecision(approved=True, arguments=arguments, by=by)
        await self._durable.decide(approval_id, Verdict.EDITED, decision)


def checked_resume(resume: str | None) -> bool:
    if resume not in (None, "auto"):
        raise InvalidRequest(f"resume must be 'auto' or None, not {resume!r}")
    return resume == "auto"
