"""Where the calls of one execution meet a person's decisions: those that were made, and those that are waited for."""

import json

from gateway.answers import expired
from gateway.approvals import refusal, requested
from gateway.calls import Keeper
from gateway.errors import CallInDoubt
from gateway.journal.base import ApprovalDecided, arguments_sha256
from gateway.past import Past, PastCall
from gateway.policies.base import Call
from gateway.secrets import Secrets
from gateway.suspension import Suspension

IN_DOUBT = "it was cut off by a crash, and may have been done already"


class ExecutionGate:
    """Implements `gateway.approvals.Gate` for one execution."""

    def __init__(self, journal: Keeper, past: Past | None, suspension: Suspension, secrets: Secrets | None) -> None:
        self._journal = journal
        self._secrets = secrets
        self._past = past
        self._suspension = suspension
        self._waiting: set[int] = set()

    def keeps(self, index: int) -> bool:
        """Whether the call with this index waits beyond the end of this run, whoever gave it up."""
        return index in self._waiting

    async def admit(self, call: Call, reason: str, expires_seconds: float | None) -> None:
        decided = await self._decided(call, reason, expires_seconds)
        if (refused := refusal(call.tool.id, decided)) is not None:
            raise refused
        if decided.arguments is not None:
            assert self._past is not None
            call.arguments = call.tool.input.validate_input(json.loads(await self._past.read(decided.arguments)))
        call.usage.decisions.append(f"{decided.verdict} by {decided.by or 'a person'}")

    async def admit_in_doubt(self, call: Call, found: PastCall) -> None:
        """Let a call be made that may have been made before, as its tool says. Raises CallInDoubt, ApprovalRejected."""
        asked = found.requested is not None and found.requested.reason == IN_DOUBT
        begun = found.requested is None or found.tried
        tool = call.tool.tool
        if not asked and (not begun or tool.read_only or found.started.key):
            return
        match tool.in_doubt:
            case "fail":
                raise CallInDoubt(call.tool.id)
            case "ask":
                with self._suspension.working():
                    await self.admit(call, IN_DOUBT, None)

    async def _decided(self, call: Call, reason: str, expires_seconds: float | None) -> ApprovalDecided:
        index = call.context.call_index
        found = None if self._past is None else self._past.by_index(index)
        asked = None if found is None else found.requested
        sha256 = arguments_sha256(call.arguments)
        same = asked is not None and asked.arguments_sha256 == sha256  # else a default of the tool has changed, say
        if found is not None and same and found.decided is not None and not found.tried:
            return found.decided
        if found is None or not same or found.decided is not None:
            await self._journal.append(requested(call, reason, expires_seconds, sha256, self._secrets))
        elif (expiry := expired(found)) is not None:
            await self._journal.append(expiry)
            return expiry
        self._waiting.add(index)
        await self._suspension.wait_for_person()
        raise AssertionError("unreachable")
