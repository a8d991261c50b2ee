"""Calls that wait for a person: the guest is ended, and learns of it nothing but a refusal."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.approvals import PendingApproval
from gateway.errors import ApprovalRejected, InvalidInput, InvalidRequest, NotRecorded
from gateway.journal.codec import content_of
from gateway.policies.approval import Approval, ApprovalRule
from gateway.policies.base import Call, Policies
from gateway.policies.kinds import policies_from_json
from runtimes.wasm.backend import WASM
from sandbox import AsyncExec, Outcome
from sandbox.durable import ApprovalDecision
from tests.conftest import require

pytestmark = pytest.mark.anyio


def large(call: Call) -> str | None:
    return "a large sum" if call.arguments["amount"] > 100 else None


class Rig:
    def __init__(self, exec: AsyncExec) -> None:  # noqa: A002 - the project's name for it
        self.exec = exec
        self.paid: list[int] = []
        self.looked = 0
        exec.tool(policies=Policies(approval=Approval(reason="money")))(self.pay)
        exec.tool(policies=Policies(approval=Approval(expires_seconds=0.001)))(self.hurry)
        exec.tool(policies=Policies(approval=ApprovalRule(large)))(self.spend)
        exec.tool()(self.look)

    async def pay(self, amount: int) -> str:
        """Pay."""
        self.paid.append(amount)
        return f"paid {amount}"

    async def hurry(self) -> str:
        """Needs a person at once."""
        return "done"

    async def spend(self, amount: int) -> str:
        """Large sums need a person."""
        return await self.pay(amount)

    async def look(self) -> int:
        """Look."""
        self.looked += 1
        return self.looked

    async def run(self, code: str, **options: Any) -> Any:
        return await self.exec.execute_code(code, backend="wasm", **options)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    if not WASM.exists():
        require("wasm", "the guest is not built")
    async with AsyncExec(workers=1, pool_size=1) as exec:
        yield Rig(exec)


async def test_the_guest_is_ended_and_taken_up_when_it_is_approved(rig: Rig) -> None:
    result = await rig.run("n = tools.look()\nprint('before')\n[n, tools.pay(amount=5)]")
    assert result.outcome is Outcome.SUSPENDED
    assert not result.ok
    (pending,) = await rig.exec.approvals()
    assert (pending.tool_id, pending.arguments, pending.reason) == ("pay", {"amount": 5}, "money")
    assert pending.execution_id == result.execution_id
    assert rig.paid == []
    await rig.exec.approve(pending.id, by="ann")
    assert rig.paid == []
    done = await rig.exec.resume(result.execution_id)
    assert (done.value, done.stdout) == ([1, "paid 5"], "before\n")
    assert rig.looked == 1
    assert rig.paid == [5]
    assert "approved by ann" in done.tool_calls[1].usage["decisions"]
    assert await rig.exec.approvals() == ()
    with pytest.raises(InvalidRequest, match="has ended"):
        await rig.exec.resume(result.execution_id)


async def test_a_guest_sees_a_rejection_as_a_refusal(rig: Rig) -> None:
    code = "try:\n    tools.pay(amount=5)\nexcept tools.ToolError as e:\n    out = [e.code, str(e)]\nout"
    result = await rig.run(code)
    (pending,) = await rig.exec.approvals()
    await rig.exec.reject(pending.id, "too much")
    done = await rig.exec.resume(result.execution_id)
    assert done.value == ["approval_rejected", "the call of tool 'pay' was not approved: too much"]
    assert rig.paid == []


async def test_edited_arguments_are_used_and_recorded(rig: Rig) -> None:
    result = await rig.run("tools.pay(amount=5)")
    (pending,) = await rig.exec.approvals()
    with pytest.raises(InvalidInput):
        await rig.exec.edit(pending.id, {"amount": "much"})
    await rig.exec.edit(pending.id, {"amount": 3}, by="bob")
    done = await rig.exec.resume(result.execution_id)
    assert done.value == "paid 3"
    assert done.tool_calls[0].arguments == {"amount": 5}  # what the guest asked for
    assert "edited by bob" in done.tool_calls[0].usage["decisions"]
    assert rig.paid == [3]


async def test_several_calls_of_one_step_wait_together(rig: Rig) -> None:
    code = (
        "import asyncio\n"
        "aio = tools.aio\n"
        "await asyncio.gather(aio.pay(amount=1), aio.look(), aio.pay(amount=2), aio.pay(amount=3), "
        "return_exceptions=True)"
    )
    result = await rig.run(code)
    pending = await rig.exec.approvals()
    assert [one.arguments["amount"] for one in pending] == [1, 2, 3]
    assert rig.looked == 1  # what needs nobody is done
    await rig.exec.approve(pending[1].id)
    again = await rig.exec.resume(result.execution_id)
    assert again.outcome is Outcome.SUSPENDED
    assert rig.paid == [2]
    await rig.exec.approve(pending[0].id)
    await rig.exec.reject(pending[2].id)
    done = await rig.exec.resume(result.execution_id)
    assert done.value_is_repr
    assert "'paid 1', 1, 'paid 2', ToolError(code='approval_rejected'" in done.value
    assert rig.paid == [2, 1]
    assert rig.looked == 1


CATCHES = """
try:
    tools.pay(amount=5)
except BaseException:
    tools.look()
finally:
    tools.look()
    print("no")
"""
DELAYS = """
import asyncio
task = asyncio.ensure_future(tools.aio.pay(amount=5))
while True:
    await asyncio.sleep(0.01)
    try:
        await tools.aio.look()
    except Exception:
        pass
"""
STAYS = "import os\nos._exit = print\ntools.pay(amount=5)"


@pytest.mark.parametrize("code", [CATCHES, DELAYS, STAYS], ids=["catch", "delay", "stay"])
async def test_a_guest_cannot_catch_or_put_off_its_end(rig: Rig, code: str) -> None:
    result = await rig.run(code, limits={"wall_seconds": 8, "tool_calls": 10_000})
    assert result.outcome is Outcome.SUSPENDED
    assert result.duration_seconds < 7
    assert "no" not in result.stdout
    assert rig.paid == []


GIVES_UP = """
import asyncio
try:
    await asyncio.wait_for(tools.aio.pay(amount=5), 0.02)
except asyncio.TimeoutError:
    print("given up")
tools.look()
"""
LEAVES = """
import asyncio
task = asyncio.ensure_future(tools.aio.pay(amount=5))
await asyncio.sleep(0.02)
"left"
"""
GOES_ON = """
import asyncio
task = asyncio.ensure_future(tools.aio.pay(amount=5))
for _ in range(10):
    await asyncio.sleep(0.01)
    await tools.aio.look()
"done"
"""
RAISES = LEAVES + "raise SystemExit(3)"


@pytest.mark.parametrize("kind", ["wasm", "unsafe"])
@pytest.mark.parametrize("code", [GIVES_UP, LEAVES, GOES_ON, RAISES], ids=["give up", "leave", "go on", "raise"])
async def test_a_call_waits_whatever_its_guest_does_meanwhile(code: str, kind: str) -> None:
    if not WASM.exists():
        require("wasm", "the guest is not built")
    async with AsyncExec(workers=1, pool_size=1, allow_unsafe=True) as exec:
        rig = Rig(exec)
        result = await exec.execute_code(code, backend=kind, profile="dev")
        assert (result.outcome, result.value) == (Outcome.SUSPENDED, None)
        (pending,) = await exec.approvals()
        assert (pending.execution_id, pending.arguments) == (result.execution_id, {"amount": 5})
        assert rig.paid == []


async def test_a_call_that_was_given_up_is_made_once_when_it_is_approved(rig: Rig) -> None:
    result = await rig.run(GIVES_UP)
    (pending,) = await rig.exec.approvals()
    await rig.exec.approve(pending.id)
    assert (await rig.exec.resume(result.execution_id)).outcome is Outcome.COMPLETED
    assert rig.paid == [5]
    assert await rig.exec.approvals() == ()


async def test_an_approval_is_for_the_arguments_that_the_call_is_made_with(tmp_path: Path) -> None:
    made: list[tuple[int, str]] = []

    def host(default: str) -> AsyncExec:
        exec = AsyncExec(journal=f"sqlite:///{tmp_path}/journal.db", workers=1, pool_size=1)

        def pay(amount: int, currency: str = default) -> None:
            """Pay."""
            made.append((amount, currency))

        exec.tool(policies=Policies(approval=Approval()))(pay)
        return exec

    async with host("EUR") as exec:
        execution_id = (await exec.execute_code("tools.pay(amount=5)", backend="wasm")).execution_id
        (pending,) = await exec.approvals()
        assert pending.arguments == {"amount": 5, "currency": "EUR"}
        await exec.approve(pending.id)
    async with host("USD") as exec:
        assert (await exec.resume(execution_id)).outcome is Outcome.SUSPENDED
        assert made == []
        (pending,) = await exec.approvals()
        assert pending.arguments == {"amount": 5, "currency": "USD"}
        await exec.approve(pending.id)
        assert (await exec.resume(execution_id)).ok
    assert made == [(5, "USD")]


async def test_decisions_are_recorded_without_secrets() -> None:
    secret = "hunter2-the-secret"
    async with AsyncExec(workers=1, pool_size=1, secrets={"KEY": secret}) as exec:
        Rig(exec)
        exec.tool(policies=Policies(approval=ApprovalRule(lambda call: f"because of {secret}")))(note)
        execution_id = (await exec.execute_code("tools.note(text='x')", backend="wasm")).execution_id
        (pending,) = await exec.approvals()
        assert secret not in pending.reason
        with pytest.raises(InvalidInput, match="a secret of this host"):
            await exec.edit(pending.id, {"text": f"about {secret}"})
        await exec.reject(pending.id, f"I know {secret}", by=secret)
        await exec.resume(execution_id)
        written = "".join(repr(record) for record in await exec.journal.records(execution_id))
        written += "".join(content_of(record).data.decode() for record in await exec.journal.records(execution_id))
    assert "approval_decided" in written
    assert secret not in written


def note(text: str) -> str:
    """Take a note."""
    return text


async def test_a_rule_decides_by_the_arguments(rig: Rig) -> None:
    assert (await rig.run("tools.spend(amount=5)")).value == "paid 5"
    assert (await rig.run("tools.spend(amount=500)")).outcome is Outcome.SUSPENDED
    (pending,) = await rig.exec.approvals()
    assert pending.reason == "a large sum"


async def test_what_nobody_decides_in_time_is_refused(rig: Rig) -> None:
    result = await rig.run("tools.hurry()")
    (pending,) = await rig.exec.approvals()
    assert pending.expired
    with pytest.raises(InvalidRequest, match="expired"):
        await rig.exec.approve(pending.id)
    done = await rig.exec.resume(result.execution_id)
    assert done.error is not None
    assert "nobody decided in time" in done.error.message


async def test_an_approval_is_bound_to_its_call(rig: Rig) -> None:
    result = await rig.run("tools.pay(amount=5)")
    (pending,) = await rig.exec.approvals()
    for wrong in ("nonsense", f"{result.execution_id}.7", f"other.{pending.index}"):
        with pytest.raises((InvalidRequest, NotRecorded)):
            await rig.exec.approve(wrong)
    await rig.exec.approve(pending.id)
    with pytest.raises(NotRecorded):
        await rig.exec.reject(pending.id)
    again = await rig.run("tools.pay(amount=5)")
    assert again.outcome is Outcome.SUSPENDED  # the same call in another execution waits for its own


async def test_a_callback_is_asked_and_the_result_is_the_last_one() -> None:
    asked: list[PendingApproval] = []

    async def decide(pending: PendingApproval) -> ApprovalDecision | None:
        asked.append(pending)
        return ApprovalDecision(approved=pending.arguments["amount"] < 10, reason="limit", by="rule")

    async with AsyncExec(workers=1, pool_size=1, on_approval=decide) as exec:
        rig = Rig(exec)
        assert (await rig.run("[tools.pay(amount=1), tools.pay(amount=2)]")).value == ["paid 1", "paid 2"]
        refused = await rig.run("tools.pay(amount=10)")
        assert refused.error is not None
        assert refused.error.message.endswith("was not approved: limit")
    assert [one.arguments["amount"] for one in asked] == [1, 2, 10]


async def test_a_callback_that_fails_leaves_the_call_to_be_decided() -> None:
    async def decide(pending: PendingApproval) -> ApprovalDecision | None:
        raise ConnectionError("the chat is away")

    async with AsyncExec(workers=1, pool_size=1, on_approval=decide) as exec:
        Rig(exec)
        with pytest.raises(ConnectionError) as raised:
            await exec.execute_code("tools.pay(amount=1)", backend="wasm")
        (pending,) = await exec.approvals()
        (note,) = raised.value.__notes__
        assert pending.execution_id in note
        assert pending.id in note
        await exec.approve(pending.id)
        assert (await exec.resume(pending.execution_id)).value == "paid 1"


STREAMED = """
print("begin", flush=True)
one = tools.pay(amount=1)
print("middle ✓", flush=True)
two = tools.pay(amount=2)
print("end", flush=True)
open("paid.txt", "w").write(one + two)
[one, two]
"""


@pytest.mark.parametrize("kind", ["wasm", "unsafe"])
async def test_events_go_on_after_a_callback_was_asked_and_nothing_is_said_twice(kind: str) -> None:
    async def decide(pending: PendingApproval) -> ApprovalDecision | None:
        return ApprovalDecision(approved=True, by="rule")

    async with AsyncExec(workers=1, pool_size=1, on_approval=decide, allow_unsafe=True) as exec:
        rig = Rig(exec)
        events = [event async for event in exec.stream_code(STREAMED, backend=kind, profile="dev")]
    assert "".join(event.text for event in events if event.kind == "output") == "begin\nmiddle ✓\nend\n"
    seen = [
        (event.kind, event.tool_call and (event.tool_call.index, event.tool_call.status))
        for event in events
        if event.kind != "output"
    ]
    assert seen == [
        ("started", None),
        ("tool_call_started", (0, None)),
        ("tool_call_finished", (0, "completed")),
        ("tool_call_started", (1, None)),
        ("tool_call_finished", (1, "completed")),
        ("artifact", None),
        ("finished", None),
    ]
    result = events[-1].result
    assert result is not None
    assert (result.value, result.stdout) == (["paid 1", "paid 2"], "begin\nmiddle ✓\nend\n")
    assert rig.paid == [1, 2]


async def test_without_a_callback_the_last_event_is_of_a_suspended_execution(rig: Rig) -> None:
    events = [event async for event in rig.exec.stream_code(STREAMED, backend="wasm")]
    assert events[-1].result is not None
    assert events[-1].result.outcome is Outcome.SUSPENDED
    assert rig.paid == []


async def test_a_call_of_the_host_itself_has_nobody_to_wait_for(rig: Rig) -> None:
    with pytest.raises(ApprovalRejected, match="nobody can be asked"):
        await rig.exec.run_tool("pay", {"amount": 1})


def test_the_config_is_data() -> None:
    written = {"approval": {"kind": "required", "reason": "money", "expires_seconds": 60}}
    assert policies_from_json(written).approval == Approval("money", 60)
    with pytest.raises(InvalidRequest, match="above 0"):
        Approval(expires_seconds=0)
