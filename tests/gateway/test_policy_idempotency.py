"""Calls that are the same are made once: their keys, replays, conflicts, claims and leases."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from gateway.base import MAX_RESULT_BYTES, JsonValue, ParallelCall
from gateway.context import Caller, ToolContext
from gateway.errors import (
    CallInProgress,
    IdempotencyConflict,
    InvalidInput,
    InvalidRequest,
    ToolDenied,
    ToolError,
    ToolFailed,
    ToolUnavailable,
    Unauthorized,
)
from gateway.journal.base import Blob, CallStarted, CallStatus
from gateway.policies import idempotent_calls
from gateway.policies.base import Call, Policies, Proceed
from gateway.policies.idempotency import CustomIdempotency, FieldIdempotency, HashIdempotency, Idempotency
from gateway.policies.kinds import policies_from_json, policies_json
from gateway.policies.store import MemoryStore, open_store
from gateway.providers.function import function_tool
from gateway.providers.http import HttpApi
from gateway.tools.model import Tool
from sandbox import AsyncExec, Exec
from tests.engines import Postgres, Redis
from tests.gateway.http_server import Server, echo, serving
from tests.gateway.policed import Host, process

pytestmark = pytest.mark.anyio

ADA, BOB = (Caller(tenant_id="acme", user_id=user, session_id="s1") for user in ("ada", "bob"))
EVE = Caller(tenant_id="evil", user_id="ada", session_id="s1")
ORDER = Idempotency(key_fields=("order",))


class Till:
    """Takes payments, and counts them."""

    def __init__(self) -> None:
        self.paid: list[Any] = []
        self.keys: list[str] = []
        self.gate: anyio.Event | None = None
        self.fails = 0

    def tool(self, idempotency: Any = None, **options: Any) -> Tool:
        chosen = Policies(
            **({} if idempotency is None else {"idempotency": idempotency}), **options.pop("policies", {})
        )
        return function_tool(self.pay, policies=chosen, **options)

    async def pay(
        self, context: ToolContext, order: JsonValue = None, amount: JsonValue = 1, note: str | None = None
    ) -> str:
        """Pay."""
        self.keys.append(context.idempotency_key)
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            self.fails -= 1
            raise LookupError("no money")
        self.paid.append(order)
        return f"receipt {len(self.paid)}"


@pytest.fixture
def till() -> Till:
    return Till()


# Keys


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Idempotency(), '["default","pay","acme","ada","s1",{"amount":1,"note":null,"order":7}]'),
        (Idempotency(key_fields=("order",)), '["default","pay","acme","ada","s1",{"order":7}]'),
        (FieldIdempotency(), '["field_based","pay","acme",{"amount":1,"note":null,"order":7}]'),
        (FieldIdempotency(key_fields=("order", "amount")), '["field_based","pay","acme",{"amount":1,"order":7}]'),
        (HashIdempotency(), '["hash_based","pay","acme","ada","s1",{"amount":1,"note":null,"order":7}]'),
        (
            HashIdempotency(include_user=False, include_session=False, key_fields=("order",)),
            '["hash_based","pay","acme",null,null,{"order":7}]',
        ),
        (CustomIdempotency(lambda arguments, _: f"order {arguments['order']}"), '["custom","pay","acme","order 7"]'),
    ],
)
def test_golden_keys(till: Till, policy: Any, text: str) -> None:
    arguments = {"order": 7, "amount": 1.0, "note": None}
    assert Host(till.tool(policy)).key("pay", arguments, ADA) == sha(text)


@pytest.mark.parametrize(("algorithm", "digits"), [("sha512", 128), ("md5", 32), ("sha1", 40), ("blake2b", 128)])
def test_the_digest_is_the_one_asked_for(till: Till, algorithm: str, digits: int) -> None:
    key = Host(till.tool(HashIdempotency(algorithm=algorithm, key_fields=("order",)))).key("pay", {"order": 7}, ADA)
    text = '["hash_based","pay","acme","ada","s1",{"order":7}]'
    assert key == hashlib.new(algorithm, text.encode(), usedforsecurity=False).hexdigest()
    assert len(key) == digits


@pytest.mark.parametrize(
    "policy", [Idempotency(), HashIdempotency(), FieldIdempotency(), CustomIdempotency(lambda *_: "x")]
)
def test_the_tenant_and_the_tool_are_always_in_the_key(till: Till, policy: Any) -> None:
    host = Host(till.tool(policy), till.tool(policy, name="pay2"))
    keys = [host.key(tool, {"order": 7}, caller) for tool in ("pay", "pay2") for caller in (ADA, EVE)]
    assert len(set(keys)) == 4


def test_the_order_of_fields_does_not_matter_and_absent_is_not_null(till: Till) -> None:
    orders = (("order", "amount"), ("amount", "order", "amount"))
    hosts = [Host(till.tool(Idempotency(key_fields=fields))) for fields in orders]
    assert len({host.key("pay", {"order": 1, "amount": 2, "note": "x"}, ADA) for host in hosts}) == 1
    host = Host(till.tool(Idempotency()))
    assert host.key("pay", {"order": 1}) != host.key("pay", {"order": 1, "note": None})


texts = st.text(alphabet='ab|,:"[]\\ \x00é', max_size=4)
callers = st.builds(Caller, tenant_id=texts, user_id=texts, session_id=texts)


@given(one=st.tuples(callers, texts), other=st.tuples(callers, texts))
@settings(max_examples=150, deadline=None)
def test_no_separator_in_a_name_makes_two_calls_one(one: tuple[Caller, str], other: tuple[Caller, str]) -> None:
    host = Host(Till().tool(Idempotency()))
    keys = [host.key("pay", {"order": text}, caller) for caller, text in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


def test_the_known_separator_attacks_do_not_work(till: Till) -> None:
    host = Host(till.tool(Idempotency()))
    callers = [
        Caller(tenant_id="t", user_id="a|b", session_id="c"),
        Caller(tenant_id="t", user_id="a", session_id="b|c"),
        Caller(tenant_id="t|a", user_id="b", session_id="c"),
        Caller(tenant_id="t", user_id='a","b', session_id="c"),
    ]
    assert len({host.key("pay", {}, caller) for caller in callers}) == 4


async def test_the_key_is_recorded_before_the_call_and_the_provider_is_told(till: Till) -> None:
    host = Host(till.tool(ORDER))
    await host.call("pay", order=7, caller=ADA)
    started = (await host.journal.records("e"))[0]
    assert isinstance(started, CallStarted)
    assert till.keys == [started.key] == [host.key("pay", {"order": 7}, ADA)]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Idempotency(key_fields=()),
        lambda: Idempotency(key_fields="order"),  # type: ignore[arg-type]
        lambda: Idempotency(ttl_seconds=0),
        lambda: Idempotency(ttl_seconds=float("nan")),
        lambda: Idempotency(on_duplicate="hope"),  # type: ignore[arg-type]
        lambda: HashIdempotency(algorithm="shake_128"),
        lambda: HashIdempotency(algorithm="sha257"),
        lambda: CustomIdempotency("order"),  # type: ignore[arg-type]
        lambda: policies_from_json({"idempotency": {"kind": "custom"}}),
        lambda: policies_from_json({"idempotency": {"kind": "defualt"}}),
        lambda: policies_json(Policies(idempotency=CustomIdempotency(lambda *_: "x"))),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_made(wrong: Any) -> None:
    with pytest.raises(InvalidRequest):
        wrong()


@pytest.mark.parametrize(
    "policy",
    [ORDER, FieldIdempotency(ttl_seconds=None), HashIdempotency(algorithm="md5", include_user=False)],
)
def test_they_can_be_written_down(policy: Any) -> None:
    chosen = Policies(idempotency=policy)
    assert policies_from_json(policies_json(chosen)) == chosen


async def test_a_key_field_that_the_tool_does_not_have_is_refused(till: Till) -> None:
    with pytest.raises(InvalidRequest, match="ordre"):
        await Host(till.tool(Idempotency(key_fields=("ordre",)))).call("pay")


@pytest.mark.parametrize("given", [None, "", 7, b"x"])
async def test_a_function_that_gives_no_text_makes_no_call(till: Till, given: Any) -> None:
    with pytest.raises(InvalidInput):
        await Host(till.tool(CustomIdempotency(lambda *_: given))).call("pay")
    with pytest.raises(InvalidInput, match="KeyError"):
        await Host(till.tool(CustomIdempotency(lambda arguments, _: str(arguments["none"])))).call("pay")
    assert till.paid == []


# Replays


async def test_a_repeated_call_is_replayed_and_flagged(till: Till) -> None:
    host = Host(till.tool(ORDER))
    assert [await host.call("pay", order=7) for _ in range(3)] == ["receipt 1"] * 3
    assert await host.call("pay", order=8) == "receipt 2"
    made, replayed, *_ = await host.finished()
    assert (made.attempts, replayed.attempts) == (1, 0)
    assert "idempotency_reused" not in made.usage
    assert replayed.usage["idempotency_reused"] is True
    assert replayed.usage["decisions"] == ["the same call was made before"]
    assert (replayed.status, replayed.result) == (CallStatus.COMPLETED, Blob.of_json("receipt 1"))


async def test_the_same_key_with_other_arguments_is_a_conflict(till: Till) -> None:
    host = Host(till.tool(ORDER))
    await host.call("pay", order=7, amount=1)
    with pytest.raises(IdempotencyConflict):
        await host.call("pay", order=7, amount=2)
    assert await host.call("pay", order=7, amount=1.0) == "receipt 1"
    assert (await host.finished())[1].status is CallStatus.REFUSED


@pytest.mark.parametrize(("ttl", "made"), [(10.0, 2), (None, 1)])
async def test_a_result_is_replayed_until_its_end_or_for_ever(till: Till, ttl: float | None, made: int) -> None:
    host = Host(till.tool(Idempotency(ttl_seconds=ttl)))
    await host.call("pay")
    host.clock.now += 9.9
    await host.call("pay")
    assert len(till.paid) == 1
    host.clock.now += 1e9
    await host.call("pay")
    assert len(till.paid) == made


async def test_without_persistence_there_is_a_key_and_no_replay(till: Till) -> None:
    host = Host(till.tool(Idempotency(persist_result=False)))
    await host.call("pay")
    await host.call("pay")
    assert len(till.paid) == 2
    assert len(till.keys[0]) == 64
    assert len(set(till.keys)) == 1


async def test_a_failure_is_not_kept(till: Till) -> None:
    host = Host(till.tool(ORDER))
    till.fails = 2
    for _ in range(2):
        with pytest.raises(ToolFailed):
            await host.call("pay", order=7)
    assert await host.call("pay", order=7) == "receipt 1"
    assert await host.call("pay", order=7) == "receipt 1"


async def test_a_missing_key_field_is_named_and_nothing_is_made(till: Till) -> None:
    schema = {"type": "object"}
    tool = function_tool(till.pay, policies=Policies(idempotency=Idempotency(key_fields=("order", "id"))))
    open_schema = Tool(id=tool.id, provider=tool.provider, input_schema=schema, policies=tool.policies)
    host = Host(open_schema)
    with pytest.raises(InvalidInput) as caught:
        await host.call("pay", order=1)
    assert caught.value.details["missing"] == ["id"]
    assert till.paid == []
    (finished,) = await host.finished()
    assert finished.attempts == 0
    loose = Policies(idempotency=Idempotency(key_fields=("order", "id"), bypass_on_missing_key=True))
    host = Host(Tool(id=tool.id, provider=tool.provider, input_schema=schema, policies=loose))
    assert [await host.call("pay", order=1) for _ in range(2)] == ["receipt 1", "receipt 2"]
    assert till.keys[-1] == ""


async def test_other_tenants_users_and_sessions_are_never_given_a_replay(till: Till) -> None:
    host = Host(till.tool(ORDER))
    callers = [ADA, BOB, EVE, Caller(tenant_id="acme", user_id="ada", session_id="s2"), Caller()]
    for caller in callers:
        await host.call("pay", order=7, caller=caller)
    assert len(till.paid) == len(callers)


@pytest.mark.parametrize(
    "policy", [FieldIdempotency(key_fields=("order",)), CustomIdempotency(lambda arguments, _: str(arguments["order"]))]
)
async def test_a_key_for_the_whole_tenant_gives_another_user_a_conflict_and_no_result(till: Till, policy: Any) -> None:
    host = Host(till.tool(policy))
    await host.call("pay", order=7, caller=ADA)
    with pytest.raises(IdempotencyConflict):
        await host.call("pay", order=7, caller=BOB)
    assert await host.call("pay", order=7, caller=EVE) == "receipt 2"


async def test_users_share_results_only_where_that_was_asked_for(till: Till) -> None:
    host = Host(till.tool(HashIdempotency(include_user=False)))
    assert {await host.call("pay", order=7, caller=caller) for caller in (ADA, BOB)} == {"receipt 1"}


class OnlyRoot:
    """Stands where access is decided."""

    async def apply(self, call: Call, proceed: Proceed) -> Any:
        if call.context.caller.permissions != {"pay"}:
            raise Unauthorized(call.tool.id)
        return await proceed(call)


async def test_rights_are_checked_before_anything_is_replayed(till: Till) -> None:
    policy = HashIdempotency(include_user=False, include_session=False)
    host = Host(till.tool(policy, roles=["admin"]), till.tool(policy, name="guarded", policies={"access": OnlyRoot()}))
    await host.call("pay", order=7, caller=Caller(role="admin"))
    with pytest.raises(ToolDenied):
        await host.call("pay", order=7, caller=Caller(role="clerk"))
    await host.call("guarded", order=7, caller=Caller(permissions=frozenset({"pay"})))
    with pytest.raises(Unauthorized):
        await host.call("guarded", order=7)


async def test_as_the_default_it_leaves_reading_tools_alone(till: Till) -> None:
    host = Host(till.tool(read_only=True), till.tool(name="save"), defaults=Policies(idempotency=Idempotency()))
    for tool_id in ("pay", "pay", "save", "save"):
        await host.call(tool_id)
    assert len(till.paid) == 3


def test_a_snippet_that_pays_twice_pays_once(till: Till) -> None:
    with Exec(workers=1, pool_size=1) as exec:
        exec.register(till.tool(FieldIdempotency(key_fields=("order",))))
        result = exec.execute_code(
            """
            import asyncio
            paid = await asyncio.gather(*[tools.aio.pay(order="A7") for _ in range(5)])
            try:
                tools.pay(order="A7", amount=9)
            except tools.ToolError as error:
                paid.append(error.code)
            paid
            """
        )
        assert result.value == ["receipt 1"] * 5 + ["idempotency_conflict"]
        keys = {call.key for call in result.tool_calls}
        assert len(keys) == 1
        assert len(keys.pop()) == 64
        assert exec.run_tool("pay", {"order": "A7"}) == "receipt 1"


# Streams


async def test_chunks_are_replayed_as_chunks_and_as_a_list() -> None:
    runs: list[int] = []

    async def count(to: int, fail_at: int = -1) -> AsyncIterator[Any]:
        """Count."""
        runs.append(to)
        for number in range(to):
            if number == fail_at and len(runs) == 1:
                raise ValueError("no")
            yield {"n": number}

    host = Host(function_tool(count, policies=Policies(idempotency=Idempotency(key_fields=("to",)))))
    events = await host.stream("count", to=3, fail_at=2)
    assert [event.kind for event in events] == ["chunk", "chunk", "error"]
    for _ in range(2):
        events = await host.stream("count", to=3, fail_at=2)
        assert [event.data for event in events] == [{"n": 0}, {"n": 1}, {"n": 2}, None]
    assert await host.call("count", to=3, fail_at=2) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert len(runs) == 2
    assert await host.call("count", to=1) == [{"n": 0}]
    assert [event.data for event in await host.stream("count", to=1)] == [{"n": 0}, None]
    assert len(runs) == 3


async def test_a_stream_too_long_to_be_kept_is_not_made_again() -> None:
    runs: list[int] = []

    async def flood() -> AsyncIterator[str]:
        """Too much."""
        runs.append(1)
        for _ in range(5):
            yield "x" * (MAX_RESULT_BYTES // 4)

    host = Host(function_tool(flood, policies=Policies(idempotency=Idempotency())))
    assert [event.kind for event in await host.stream("flood")] == ["chunk"] * 5 + ["done"]
    (last,) = await host.stream("flood")
    assert last.error is not None
    assert "could not be kept" in last.error["message"]
    assert len(runs) == 1


# Under way


async def test_fifty_duplicates_at_once_are_made_once(till: Till) -> None:
    host = Host(till.tool(ORDER, resource="order/{amount}", read_only=None))
    till.gate = anyio.Event()
    results: list[Any] = []

    async def pay() -> None:
        results.append(await host.call("pay", order=7))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(pay)
        await anyio.wait_all_tasks_blocked()
        till.gate.set()
    assert results == ["receipt 1"] * 50
    assert len(till.keys) == 1
    assert [record.attempts for record in await host.finished()].count(1) == 1


async def test_of_duplicates_of_a_failing_call_the_next_one_tries(till: Till) -> None:
    host = Host(till.tool(ORDER))
    till.gate, till.fails = anyio.Event(), 2
    ends: list[Any] = []

    async def pay() -> None:
        try:
            ends.append(await host.call("pay", order=7))
        except ToolFailed:
            ends.append("failed")

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(pay)
        await anyio.wait_all_tasks_blocked()
        till.gate.set()
    assert ends == ["failed", "failed"] + ["receipt 1"] * 4
    assert len(till.keys) == 3


async def test_a_cancelled_call_frees_its_key(till: Till) -> None:
    host = Host(till.tool(ORDER))
    till.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.call, "pay")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert isinstance(host.store, MemoryStore)
    assert host.store.size == 0
    till.gate = None
    assert await host.call("pay") == "receipt 1"


class Slow(MemoryStore):
    """Has done it, but its answer is on the way for long."""

    async def set_if_absent(self, key: str, value: bytes, ttl_seconds: float | None) -> bytes | None:
        found = await super().set_if_absent(key, value, ttl_seconds)
        await anyio.sleep(60)
        return found


async def test_a_call_that_is_cancelled_as_it_claims_leaves_no_claim(till: Till) -> None:
    store = Slow()
    with anyio.move_on_after(0.02):
        await Host(till.tool(ORDER), store=store).call("pay")
    assert store.size == 0
    assert till.paid == []


async def test_a_duplicate_may_be_refused_or_waits_no_longer_than_it_may(till: Till) -> None:
    refusing = Idempotency(key_fields=("order",), on_duplicate="refuse")
    host = Host(till.tool(refusing), till.tool(ORDER, name="waiting"))
    till.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.call, "pay")
        tasks.start_soon(host.call, "waiting")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(CallInProgress):
            await host.call("pay")
        with pytest.raises(CallInProgress):
            await host.gateway().run_tool("waiting", {}, timeout_seconds=0.02)
        with pytest.raises(IdempotencyConflict):
            await host.call("pay", amount=2)
        till.gate.set()
    assert len(till.paid) == 2
    assert [record.status for record in await host.finished()][:3] == [CallStatus.REFUSED] * 3


async def test_calls_of_one_batch_and_one_caller_do_not_mix_their_keys(till: Till) -> None:
    host = Host(till.tool(ORDER, resource="order/{order}"))
    calls = [ParallelCall("pay", {"order": str(number % 4)}) for number in range(12)]
    outcomes = await host.gateway(ADA).run_parallel(calls)
    assert sorted(till.paid) == ["0", "1", "2", "3"]
    for number in range(4):
        assert len({outcome.value for outcome in outcomes[number::4]}) == 1


class Patient:
    """Takes longer than the lease, where retries would."""

    async def apply(self, call: Call, proceed: Proceed) -> Any:
        await anyio.sleep(0.4)
        return await proceed(call)


async def test_a_claim_is_renewed_while_its_call_goes_on(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotent_calls, "LEASE_MARGIN_SECONDS", 0.05)
    policy = Idempotency(on_duplicate="refuse")
    store = MemoryStore()
    tool = till.tool(policy, policies={"retry": Patient()}, timeout_seconds=0.1)
    one, other = Host(tool, store=store), Host(tool, store=store)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.call, "pay")
        for _ in range(3):
            await anyio.sleep(0.1)
            with pytest.raises(CallInProgress):
                await other.call("pay")
    assert await other.call("pay") == "receipt 1"
    assert [task for task in asyncio.all_tasks() if "_work" in repr(task)] == []


class Dead:
    """Its process ends in the middle of the call: nothing is cleaned up."""

    async def apply(self, call: Call, proceed: Proceed) -> Any:
        await anyio.sleep_forever()


async def test_a_key_without_an_owner_is_free_when_its_lease_ends(till: Till) -> None:
    policy = Idempotency(on_duplicate="refuse")
    host = Host(till.tool(policy, timeout_seconds=10))
    dying = Host(till.tool(policy, policies={"retry": Dead()}, timeout_seconds=10), store=host.store)
    work = asyncio.create_task(dying.call("pay"))
    await anyio.wait_all_tasks_blocked()
    host.clock.now += 14.9
    with pytest.raises(CallInProgress):
        await host.call("pay")
    host.clock.now += 0.2
    assert await host.call("pay") == "receipt 1"
    work.cancel()
    await asyncio.wait([work])
    assert await host.call("pay") == "receipt 1"  # what the dead one did last has not removed it


# Stores


class Failing(MemoryStore):
    """Does not answer certain questions."""

    def __init__(self, *steps: str) -> None:
        super().__init__()
        for step in steps:
            setattr(self, step, self._away)

    async def _away(self, *_: Any) -> Any:
        raise ToolUnavailable("the shared store", "it is away")


async def test_without_its_store_nothing_is_called(till: Till) -> None:
    host = Host(till.tool(ORDER), store=Failing("set_if_absent"))
    with pytest.raises(ToolUnavailable):
        await host.call("pay", order=7)
    assert till.keys == []
    (finished,) = await host.finished()
    assert (finished.status, finished.attempts) == (CallStatus.REFUSED, 0)


async def test_a_store_that_goes_away_meanwhile_does_not_take_the_result(till: Till) -> None:
    store = Failing("replace", "delete")
    host = Host(till.tool(Idempotency(on_duplicate="refuse")), store=store)
    assert await host.call("pay", order=7) == "receipt 1"
    (finished,) = await host.finished()
    assert finished.usage["decisions"] == ["the result could not be kept: the same call may be made again"]
    with pytest.raises(CallInProgress):  # until the lease ends
        await host.call("pay", order=7)
    till.fails = 1
    with pytest.raises(ToolFailed):
        await host.call("pay", order=8)


async def test_a_full_store_keeps_that_the_call_was_made(till: Till) -> None:
    async def big() -> str:
        """A long answer."""
        till.paid.append(1)
        return "x" * 2000

    host = Host(function_tool(big, policies=Policies(idempotency=Idempotency())), store=MemoryStore(max_bytes=1000))
    assert len(str(await host.call("big"))) == 2000
    with pytest.raises(ToolError, match="could not be kept"):
        await host.call("big")
    assert len(till.paid) == 1


@pytest.mark.parametrize(
    "spoilt",
    [b"", b"\n", b"{}", b"1 done x\n", b"2 done x y kept\n", b"1 done x y kept z\n", b"1 gone x y kept\n", None],
)
async def test_a_record_that_cannot_be_read_makes_no_call(till: Till, spoilt: bytes | None) -> None:
    host = Host(till.tool(ORDER))
    await host.call("pay", order=7)
    name = f"idempotency/pay/{host.key('pay', {'order': 7})}"
    kept = await host.store.get(name)
    assert kept is not None
    await host.store.set(name, kept[:-1] if spoilt is None else spoilt, 60)
    with pytest.raises(ToolUnavailable, match="cannot be read"):
        await host.call("pay", order=7)
    assert len(till.keys) == 1


async def test_a_lease_that_was_lost_to_another_call_leaves_that_ones_record(till: Till) -> None:
    host = Host(till.tool(ORDER))
    till.gate = anyio.Event()
    name = f"idempotency/pay/{host.key('pay', {'order': 7})}"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: host.call("pay", order=7))
        await anyio.wait_all_tasks_blocked()
        await host.store.set(name, b"another's", 60)
        till.gate.set()
    assert await host.store.get(name) == b"another's"
    assert "could not be kept" in (await host.finished())[0].usage["decisions"][0]


PAY = """
    import sys, anyio
    from gateway.policies import idempotent_calls
    from gateway.policies.base import Policies
    from gateway.policies.idempotency import FieldIdempotency
    from sandbox import AsyncExec

    url, log, order, seconds, timeout = sys.argv[1:]
    idempotent_calls.LEASE_MARGIN_SECONDS = 0.5

    async def pay(order: str) -> str:
        with open(log, "a") as file:
            file.write("paid\\n")
        print("paying", flush=True)
        await anyio.sleep(float(seconds))
        return "receipt"

    async def main():
        async with anyio.create_task_group() as tasks:
            exec = AsyncExec(store=url)
            once = Policies(idempotency=FieldIdempotency(key_fields=("order",)))
            exec.tool(policies=once, timeout_seconds=float(timeout), name="pay")(pay)
            print("ready", flush=True)
            await anyio.to_thread.run_sync(sys.stdin.readline)
            answers = []

            async def one():
                answers.append(await exec.run_tool("pay", {"order": order}))

            async with anyio.create_task_group() as payments:
                for _ in range(25):
                    payments.start_soon(one)
            print(sorted(set(answers)), len(answers), flush=True)
            await exec.aclose()

    anyio.run(main)
"""


@pytest.mark.parametrize("engine", ["redis", "postgres"])
def test_duplicates_in_two_processes_are_made_once(request: pytest.FixtureRequest, tmp_path: Path, engine: str) -> None:
    server: Redis | Postgres = request.getfixturevalue(engine)
    log = tmp_path / "log"
    processes = [process(PAY, server.url, str(log), "order 1", "0.1", "30") for _ in range(2)]
    for one in processes:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in processes:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    answers = [one.communicate(timeout=40)[0].replace("paying\n", "") for one in processes]
    assert answers == ["['receipt'] 25\n"] * 2
    assert log.read_text() == "paid\n"


async def test_a_crash_frees_the_key_when_its_lease_ends(redis: Redis, tmp_path: Path) -> None:
    log = tmp_path / "log"
    dying = process(PAY, redis.url, str(log), "order 2", "60", "1")
    assert dying.stdin is not None
    assert dying.stdout is not None
    dying.stdin.write("go\n")
    dying.stdin.flush()
    while dying.stdout.readline() != "paying\n":
        pass
    dying.kill()
    dying.communicate()

    async def pay(order: str) -> str:
        """Pay."""
        return f"receipt of {order}"

    once = Policies(idempotency=FieldIdempotency(key_fields=("order",)))
    host = Host(function_tool(pay, policies=once), store=open_store(redis.url))
    paid = await host.gateway().run_tool("pay", {"order": "order 2"}, timeout_seconds=30)
    assert paid == "receipt of order 2"
    assert log.read_text() == "paid\n"  # by the one that died
    await host.store.aclose()


# What providers are told


@pytest.fixture
async def echoing() -> AsyncIterator[Server]:
    async with serving(echo) as server:
        yield server


@pytest.mark.parametrize(
    ("method", "options", "header"),
    [
        ("POST", {}, "key"),
        ("PUT", {}, "key"),
        ("GET", {}, None),
        ("POST", {"read_only": True}, None),
        ("POST", {"headers": {"idempotency-key": "mine"}}, "mine"),
    ],
)
async def test_http_tools_send_the_key_with_what_may_write(
    echoing: Server, method: str, options: Any, header: str | None
) -> None:
    api = HttpApi(base_url=echoing.url)
    chosen = Policies(idempotency=Idempotency())
    host = Host(api.tool("shop:pay", method, "/pay", policies=chosen, **options), api.tool("shop:plain", "POST", "/x"))
    for _ in range(2):
        await host.call("shop:pay", caller=ADA)
    await host.call("shop:plain", caller=ADA)
    await api.aclose()
    paid, plain = echoing.seen
    expected = host.key("shop:pay", {}, ADA) if header == "key" else header
    assert paid.header("Idempotency-Key") == expected
    assert plain.header("Idempotency-Key") is None


class Naive:
    """A policy of one's own, whose key comes from an argument as it is."""

    def key(self, call: Call) -> str:
        return str(call.arguments["key"])

    async def apply(self, call: Call, proceed: Proceed) -> Any:
        return await proceed(call)


async def test_a_key_of_ones_own_cannot_add_headers(echoing: Server) -> None:
    api = HttpApi(base_url=echoing.url)
    host = Host(api.tool("pay", "POST", "/pay/{key}", policies=Policies(idempotency=Naive())))
    await host.call("pay", key="order-7")
    for wrong in ("a\r\nX-Admin: 1", "é", "a\x7f"):
        with pytest.raises(InvalidInput):
            await host.call("pay", key=wrong)
    await api.aclose()
    (seen,) = echoing.seen
    assert seen.header("Idempotency-Key") == "order-7"


# The store of an Exec


async def test_an_exec_lends_its_store_and_closes_it(till: Till, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    for _ in range(2):
        async with AsyncExec(store=url) as exec:
            exec.register(till.tool(ORDER))
            assert await exec.run_tool("pay", {"order": 7}) == "receipt 1"
    assert len(till.paid) == 1

    class Watched(MemoryStore):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    store = Watched()
    async with AsyncExec(store=store):
        pass
    assert store.closed
    with pytest.raises(InvalidRequest, match="must be a Store"):
        AsyncExec(store=7)  # type: ignore[arg-type]


class Machine(RuleBasedStateMachine):
    """Payments of a few orders against a plain dict of what was paid."""

    orders = st.sampled_from([1, 2])
    users = st.sampled_from([ADA, BOB, EVE])

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.till = Till()
        self.host = Host(self.till.tool(Idempotency(key_fields=("order",), ttl_seconds=10)))
        self.model: dict[tuple[str, str, int], tuple[int, str, float]] = {}
        self.made = 0

    @rule(order=orders, user=users, amount=st.integers(1, 2), fails=st.booleans())
    def pay(self, order: int, user: Caller, amount: int, fails: bool) -> None:
        key, now = (user.tenant_id, user.user_id, order), self.host.clock.now
        self.till.fails = int(fails)
        kept = self.model.get(key)
        if kept is not None and kept[2] <= now:
            kept = None
        expected: Any
        if kept is not None:
            expected = kept[1] if kept[0] == amount else "idempotency_conflict"
        elif fails:
            expected = "tool_failed"
        else:
            self.made += 1
            expected = f"receipt {self.made}"
            self.model[key] = amount, expected, now + 10
        assert self._call(order, user, amount) == expected
        assert len(self.till.paid) == self.made

    @rule(seconds=st.integers(1, 6))
    def wait(self, seconds: int) -> None:
        self.host.clock.now += seconds

    def teardown(self) -> None:
        self.loop.close()

    def _call(self, order: int, user: Caller, amount: int) -> Any:
        try:
            return self.loop.run_until_complete(self.host.call("pay", caller=user, order=order, amount=amount))
        except ToolError as error:
            return error.code


Machine.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestIdempotency = Machine.TestCase
