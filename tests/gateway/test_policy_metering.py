"""What calls cost: bytes, tokens and dollars, counted and never in the way."""

import contextlib
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.direct import DirectGateway
from gateway.errors import InvalidRequest, MissingExtra, ToolError, ToolFailed, ToolUnavailable
from gateway.grant import Grant
from gateway.journal.memory import MemoryJournal
from gateway.payload import Encoded, encode, normalise
from gateway.pipeline import Pipeline
from gateway.policies import metering
from gateway.policies.base import Call, Policies, Proceed
from gateway.policies.kinds import policies_from_json, policies_json
from gateway.policies.metering import Meter, Metered, Rates, UsageMeter, counter
from gateway.providers.function import function_tool
from gateway.runner import Runner
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch
from gateway.usage import UsageTotals
from sandbox import AsyncExec

pytestmark = pytest.mark.anyio


async def usage_of(policies: Policies, arguments: Any, answer: Any) -> dict[str, Any]:
    """The usage that is recorded of a call of a tool that gives this answer."""

    def echo(text: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    registry = ToolRegistry([function_tool(echo, policies=policies)])
    gateway = DirectGateway(Grant(), Pipeline(Runner(registry)), registry, ToolSearch(registry), MemoryJournal())
    with contextlib.suppress(ToolError):
        await gateway.run_tool("echo", arguments)
    return dict(gateway.calls[0].usage)


async def test_bytes_are_those_of_utf_8() -> None:
    usage = await usage_of(Policies(), {"text": "žü€"}, ["😀"])
    assert usage["input_bytes"] == len('{"text":"žü€"}'.encode())
    assert usage["output_bytes"] == len('["😀"]'.encode())
    assert "tokens_in" not in usage
    assert "cost_usd" not in usage


async def test_tokens_by_characters() -> None:
    usage = await usage_of(Policies(usage=Meter(tokens="chars")), {"text": "x" * 89}, "y" * 38)
    assert (usage["tokens_in"], usage["tokens_out"]) == (25, 10)


async def test_tokens_by_an_encoding_are_counted_offline() -> None:
    usage = await usage_of(Policies(usage=Meter(tokens="o200k_base")), {"text": "hello world"}, "<|endoftext|>")
    count = counter("o200k_base")
    assert count is not None
    assert count("hello world") == 2
    assert (usage["tokens_in"], usage["tokens_out"]) == (count('{"text":"hello world"}'), count('"<|endoftext|>"'))
    assert usage["tokens_out"] > 3


async def test_every_price_counts() -> None:
    meter = Meter(
        tokens="chars",
        per_call_usd="0.01",
        per_token_in_usd="0.001",
        per_token_out_usd="0.002",
        per_byte_usd=Decimal("0.0001"),
    )
    usage = await usage_of(Policies(usage=meter), {"text": "x" * 29}, "y" * 38)
    assert Decimal(usage["cost_usd"]) == Decimal("0.01") + 10 * Decimal("0.001") + 10 * Decimal("0.002") + Decimal(
        "0.0080"
    )


async def test_a_model_has_its_own_prices() -> None:
    usage = await usage_of(Policies(usage=Meter(tokens="chars", model="gpt-4o")), {"text": "x" * 3989}, "y" * 398)
    assert Decimal(usage["cost_usd"]) == Decimal("0.0035")


@given(
    attempts=st.integers(1, 5),
    tokens_in=st.integers(0, 10**6),
    tokens_out=st.integers(0, 10**6),
    bytes_in=st.integers(0, 10**7),
    bytes_out=st.integers(0, 10**7),
    seconds=st.floats(0, 100),
)
def test_a_price_is_exact_and_grows_with_everything(
    attempts: int, tokens_in: int, tokens_out: int, bytes_in: int, bytes_out: int, seconds: float
) -> None:
    rates = Rates(
        per_call=Decimal("0.1"), per_token_in=Decimal("0.3"), per_token_out=Decimal(7), per_byte=Decimal("1e-9")
    )
    metered = Metered(attempts, seconds, tokens_in, tokens_out, bytes_in, bytes_out)
    expected = attempts * (Decimal("0.1") + tokens_in * Decimal("0.3") + bytes_in * Decimal("1e-9"))
    assert rates.usd(metered) == expected + 7 * tokens_out + bytes_out * Decimal("1e-9")
    assert Rates(per_second=Decimal(2)).usd(metered) == 2 * Decimal(str(seconds))
    assert Rates(per_token_in=Decimal(1)).usd(Metered(1, 0.0, None, 1, 1, 1)) is None


class Again:
    """Tries a second time."""

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        try:
            return await proceed(call)
        except ToolUnavailable:
            return await proceed(call)


async def test_every_attempt_is_paid_for_and_a_failure_too() -> None:
    meter = Meter(tokens="chars", per_call_usd="1", per_token_in_usd="0.1", per_token_out_usd="100")
    usage = await usage_of(Policies(usage=meter, retry=Again()), {"text": "x" * 29}, ToolUnavailable("it", "busy"))
    assert (usage["attempts"], usage["tokens_out"], Decimal(usage["cost_usd"])) == (2, 0, Decimal(4))


class Known:
    """Has the result from before."""

    def __init__(self, flag: str) -> None:
        self.flag = flag

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        setattr(call.usage, self.flag, True)
        return normalise("y" * 38)


class Shut:
    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        raise ToolFailed("refused")


@pytest.mark.parametrize(
    "policies",
    [
        {"cache": Known("cached_hit")},
        {"idempotency": Known("idempotency_reused")},
        {"access": Shut()},
    ],
    ids=["cache", "replay", "refused"],
)
async def test_what_never_reached_its_tool_costs_nothing(policies: dict[str, Any]) -> None:
    meter = Meter(tokens="chars", per_call_usd="5", per_token_out_usd="1")
    usage = await usage_of(Policies(usage=meter, **policies), {"text": ""}, 1)
    assert Decimal(usage["cost_usd"]) == 0
    assert "attempts" not in usage


@pytest.fixture(scope="module")
async def _exec() -> AsyncIterator[AsyncExec]:
    async with AsyncExec(workers=1, pool_size=1) as exec:
        yield exec


@pytest.fixture
async def exec(_exec: AsyncExec) -> AsyncIterator[AsyncExec]:
    """The one of all tests here; each takes the tools with it that it brought."""
    yield _exec
    tools = (await _exec.list_tools()).tools
    _exec.unregister(*(str(tool.id) for tool in tools))


async def test_a_stream_is_counted_chunk_by_chunk(exec: AsyncExec) -> None:  # noqa: A002 - as above
    @exec.tool(policies=Policies(usage=Meter(tokens="chars", per_token_out_usd="1")))
    async def lines(n: int) -> AsyncIterator[str]:
        for _ in range(n):
            yield "x" * 10

    code = "return [event for event in tools.stream_tool('lines', {'n': 3})]"
    result = await exec.execute_code(code)
    assert len(result.value) == 4
    assert (result.tool_usage.tokens_out, result.tool_usage.cost_usd) == (9, Decimal(9))


class Odd:
    def usd(self, metered: Metered) -> Decimal | None:
        raise ZeroDivisionError("no price")


def _broken(text: str) -> int:
    raise ValueError("cannot count")


async def test_a_counter_or_a_price_that_fails_fails_no_call() -> None:
    usage = await usage_of(Policies(usage=UsageMeter(_broken, Odd())), {"text": ""}, 1)
    assert "tokens_in" not in usage
    assert "cost_usd" not in usage
    assert usage["decisions"] == [
        "tokens not counted: ValueError: cannot count",
        "tokens not counted: ValueError: cannot count",
        "cost not counted: ZeroDivisionError: no price",
    ]


class Gives:
    """A price that is always this."""

    def __init__(self, cost: Any) -> None:
        self.cost = cost

    def usd(self, metered: Metered) -> Any:
        return self.cost


class Mute(Exception):
    """Not even that can be told."""

    def __str__(self) -> str:
        raise RuntimeError("mute")


def _mute(text: str) -> int:
    raise Mute


def _kind(value: Any) -> str:
    return type(value).__name__


@pytest.mark.parametrize(
    "count", ["12", None, 1.5, -1, True, float("nan"), Decimal(3), 10**400, 10**5000, [1]], ids=_kind
)
async def test_what_is_no_number_of_tokens_fails_no_call_and_is_noted(count: Any, exec: AsyncExec) -> None:  # noqa: A002
    @exec.tool(policies=Policies(usage=UsageMeter(lambda text: count, Rates(per_token_out=Decimal(1)))))
    def work() -> str:
        return "done"

    @exec.tool(policies=Policies(usage=UsageMeter(lambda text: count)))
    async def lines() -> AsyncIterator[str]:
        yield "one"
        yield "two"

    assert await exec.run_tool("work") == "done"
    result = await exec.execute_code("tools.work(); return [event for event in tools.stream_tool('lines', {})]")
    assert result.error is None
    for call in result.tool_calls:
        assert not {"tokens_in", "tokens_out", "cost_usd"} & set(call.usage)
        assert call.usage["decisions"][0].startswith("tokens not counted: ValueError: ")
    assert result.tool_usage.tokens_out is None


@pytest.mark.parametrize(
    "cost",
    ["free", "1", -1, Decimal(-1), float("nan"), float("inf"), Decimal("sNaN"), Decimal("1e999999"), True, 10**5000],
    ids=_kind,
)
async def test_what_is_no_cost_fails_no_call_and_is_noted(cost: Any, exec: AsyncExec) -> None:  # noqa: A002
    @exec.tool(policies=Policies(usage=UsageMeter(None, Gives(cost))))
    def work() -> str:
        return "done"

    assert await exec.run_tool("work") == "done"
    result = await exec.execute_code("return [tools.work(), tools.work()]")
    assert result.value == ["done", "done"]
    (usage, _) = (call.usage for call in result.tool_calls)
    assert "cost_usd" not in usage
    assert usage["decisions"][0].startswith("cost not counted: ")
    assert result.tool_usage.cost_usd is None


@pytest.mark.parametrize(
    ("cost", "recorded"), [(0.1, "0.1"), (2, "2"), (Decimal("0.30"), "0.30"), (0, "0"), (None, None)]
)
async def test_costs_may_be_any_kind_of_number(cost: Any, recorded: str | None) -> None:
    usage = await usage_of(Policies(usage=UsageMeter(None, Gives(cost))), {"text": ""}, 1)
    assert usage.get("cost_usd") == recorded
    assert "decisions" not in usage


async def test_an_error_that_cannot_be_told_fails_no_call_either() -> None:
    usage = await usage_of(Policies(usage=UsageMeter(_mute)), {"text": ""}, 1)
    assert usage["decisions"] == ["tokens not counted: Mute: (it cannot say what)"] * 2


async def test_tokens_that_could_not_be_counted_have_no_price() -> None:
    usage = await usage_of(Policies(usage=UsageMeter(_broken, Rates(per_token_in=Decimal(1)))), {"text": ""}, 1)
    assert "cost_usd" not in usage


async def test_counters_of_ones_own() -> None:
    usage = await usage_of(Policies(usage=UsageMeter(len, Rates(per_token_in=Decimal(1)))), {"text": "abc"}, 1)
    assert (usage["tokens_in"], usage["tokens_out"], usage["cost_usd"]) == (14, 1, "14")


@pytest.mark.parametrize(
    ("value", "arguments"),
    [(10**30, "x"), (1e300, "x"), ("\u2028", "\x00"), ([None] * 1000, ""), ({"": {"": []}}, "é")],
)
async def test_no_value_breaks_the_meter(value: Any, arguments: str) -> None:
    usage = await usage_of(Policies(usage=Meter(tokens="o200k_base", per_byte_usd="1")), {"text": arguments}, value)
    assert usage["tokens_out"] > 0
    assert "decisions" not in usage


async def test_an_execution_adds_its_calls_up(exec: AsyncExec) -> None:  # noqa: A002 - as above
    @exec.tool(policies=Policies(usage=Meter(tokens="chars", per_call_usd="0.1")))
    def priced() -> str:
        return "ok"

    @exec.tool
    def free() -> str:
        return "ok"

    result = await exec.execute_code("tools.priced(); tools.priced(); tools.free()")
    totals = result.tool_usage
    assert (totals.calls, totals.attempts, totals.tokens_out) == (3, 3, 2)
    assert (totals.cost_usd, totals.input_bytes, totals.output_bytes) == (Decimal("0.2"), 6, 12)
    assert (await exec.execute_code("pass")).tool_usage == UsageTotals()


@pytest.mark.parametrize(
    "options",
    [
        {"tokens": "o300k"},
        {"tokens": "chars", "model": "no-such-model-9"},
        {"model": "gpt-4o"},
        {"per_token_in_usd": "1"},
        {"tokens": "chars", "model": "gpt-4o", "per_token_in_usd": "1"},
        {"per_call_usd": "-1"},
        {"per_call_usd": "NaN"},
        {"per_call_usd": "cheap"},
        {"per_call_usd": 0.1},
    ],
)
def test_what_cannot_be_counted_is_said_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        Meter(**options)


def test_a_missing_extra_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    metering.counter.cache_clear()
    metering._model_prices.cache_clear()
    monkeypatch.setitem(sys.modules, "bpe_openai", None)
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert counter("chars") is not None
    with pytest.raises(MissingExtra, match="tokens"):
        Meter(tokens="o200k_base")
    with pytest.raises(MissingExtra, match="prices"):
        Meter(tokens="chars", model="gpt-4o")


def test_a_meter_is_written_and_read() -> None:
    written = {"usage": {"kind": "meter", "tokens": "chars", "per_call_usd": "0.1"}}
    policies = policies_from_json(written)
    assert policies.usage == Meter(tokens="chars", per_call_usd=Decimal("0.1"))
    assert policies_from_json(policies_json(policies)) == policies
    encode(policies_json(policies))
