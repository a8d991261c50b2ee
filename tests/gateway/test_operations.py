"""The JSON face of a gateway, as an attacker sees it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.direct import DirectGateway
from gateway.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    InvalidInput,
    InvalidOutput,
    InvalidToolId,
    PayloadTooLarge,
    ProtocolError,
    ToolDenied,
    ToolError,
    ToolFailed,
    ToolNotFound,
    ToolTimeout,
)
from gateway.grant import Grant
from gateway.journal.memory import MemoryJournal
from gateway.operations import MAX_OPERATION_BYTES, decode_error, encode_error, perform
from gateway.pipeline import Pipeline
from gateway.providers.function import function_tool
from gateway.runner import Runner
from gateway.tools.model import ToolExample
from gateway.tools.registry import ToolRegistry
from gateway.tools.search import ToolSearch

pytestmark = pytest.mark.anyio


async def add(n: int, previous: int | None = None) -> int:
    """Add numbers."""
    return n + (previous or 0)


async def echo(value: Any) -> Any:
    return value


def make(**grant: Any) -> DirectGateway:
    registry = ToolRegistry(
        [function_tool(add, namespace="math", examples=[ToolExample("one", {"n": 1}, "1")]), function_tool(echo)]
    )
    return DirectGateway(Grant(**grant), Pipeline(Runner(registry)), registry, ToolSearch(registry), MemoryJournal())


async def ask(operation: str, arguments: Any, gateway: DirectGateway | None = None) -> Any:
    return json.loads(await perform(gateway or make(), operation, json.dumps(arguments).encode()))


async def test_run_tool() -> None:
    assert await ask("run_tool", {"tool_id": "math:add", "arguments": {"n": 2}}) == 2
    assert await ask("run_tool", {"tool_id": "echo", "arguments": {"value": {"ä": [1.5, None]}}}) == {"ä": [1.5, None]}
    with pytest.raises(InvalidInput, match='"n" is missing'):
        await ask("run_tool", {"tool_id": "math:add"})


async def test_run_chain() -> None:
    steps = [
        {"tool_id": "math:add", "arguments": {"n": 2}},
        {"tool_id": "math:add", "arguments": {"n": 3}, "use_previous": True},
        {"tool_id": "no", "stop_on_error": True},
        {"tool_id": "echo", "arguments": {"value": 1}},
    ]
    reply = await ask("run_chain", {"steps": steps})
    assert reply["value"] is None
    assert [(s["tool_id"], s["ok"], s["skipped"], s["value"]) for s in reply["steps"]] == [
        ("math:add", True, False, 2),
        ("math:add", True, False, 5),
        ("no", False, False, None),
        ("echo", False, True, None),
    ]
    assert reply["steps"][2]["error"]["code"] == "tool_not_found"
    assert set(reply["steps"][0]) == {"tool_id", "ok", "skipped", "value", "error", "duration_seconds"}
    assert await ask("run_chain", {"steps": []}) == {"value": None, "steps": []}


async def test_run_parallel() -> None:
    reply = await ask("run_parallel", {"calls": [{"tool_id": "echo", "arguments": {"value": 1}}, {"tool_id": "echo"}]})
    assert [outcome["ok"] for outcome in reply] == [True, False]
    assert set(reply[0]) == {"tool_id", "ok", "value", "error", "duration_seconds"}


async def test_the_rest() -> None:
    (found,) = await ask("search_tools", {"query": "numbers", "limit": 1})
    assert set(found) == {"id", "name", "namespace", "description", "score"}
    assert found["id"] == "math:add"
    assert (await ask("describe_tool", {"tool_id": "math:add"}))["name"] == "add"
    assert "input_schema" in await ask("describe_tool", {"tool_id": "math:add", "level": "schema"})
    assert await ask("list_namespaces", {}) == ["", "math"]
    assert await ask("list_tool_examples", {"tool_id": "math:add", "limit": 1}) == [
        {"title": "one", "arguments": {"n": 1}, "result_hint": "1"}
    ]


@pytest.mark.parametrize(
    ("operation", "arguments", "says"),
    [
        ("run_tool", {}, "'tool_id' must be of type str, it is missing"),
        ("run_tool", {"tool_id": 1}, "'tool_id' must be of type str, not int"),
        ("run_tool", {"tool_id": "echo", "arguments": [1]}, "arguments must be an object, not list"),
        ("run_tool", {"tool_id": "echo", "arguments": None}, "arguments must be an object, not NoneType"),
        ("run_tool", {"tool_id": "echo", "args": {}}, "unknown field 'args'"),
        ("run_tool", [], "must be an object, not list"),
        ("run_tool", "x", "must be an object, not str"),
        ("run_chain", {"steps": {}}, "'steps' must be of type list, not dict"),
        ("run_chain", {"steps": [1]}, "a step must be an object, not int"),
        ("run_chain", {"steps": [{"tool_id": "echo", "use_previous": 1}]}, "'use_previous' must be of type bool"),
        ("run_chain", {"steps": [{"tool_id": "echo", "stop_on_error": None}]}, "'stop_on_error' must be of type bool"),
        ("run_chain", {"steps": [{"tool_id": "echo", "x": 1}]}, "unknown field 'x'"),
        ("run_parallel", {"calls": [{"tool_id": "echo", "use_previous": True}]}, "unknown field 'use_previous'"),
        ("run_parallel", {"calls": [None]}, "a call must be an object"),
        ("search_tools", {"query": "x", "limit": True}, "'limit' must be of type int, not bool"),
        ("search_tools", {"query": "x", "limit": 1.0}, "'limit' must be of type int, not float"),
        ("search_tools", {"query": "x", "limit": 10**30}, "limit must be 1 to 100"),
        ("describe_tool", {"tool_id": "echo", "level": "all"}, "unknown level 'all'"),
        ("list_namespaces", {"x": 1}, "unknown field 'x'"),
        ("eval", {}, "unknown operation 'eval'; there are run_tool, run_chain"),
        ("__class__", {}, "unknown operation"),
        ("x" * 100_000, {}, "unknown operation"),
    ],
)
async def test_wrong_shapes_are_told_in_words(operation: str, arguments: Any, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await ask(operation, arguments)
    assert says in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b'{"tool_id":"echo","arguments":{"value":NaN}}',
        b'{"tool_id":"echo","arguments":{"value":-Infinity}}',
        b'{"tool_id":"echo","arguments":{"value":1e999}}',
        b'{"tool_id":"echo","tool_id":"math:add"}',
        b'{"tool_id":"echo","arguments":{"value":1,"value":2}}',
        b'{"tool_id":"echo","arguments":{"value":"\\ud800"}}',
        b'{"tool_id":"echo","arguments":{"value":' + b"[" * 200 + b"]" * 200 + b"}}",
        b'{"tool_id":"echo","arguments":{"value":' + b"[" * 500_000 + b"]" * 500_000 + b"}}",
        b'{"tool_id":"echo","arguments":{"value":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}}",
        b'{"tool_id":"echo","arguments":{"value":' + b"9" * 10_000 + b"}}",
    ],
)
async def test_hostile_bytes_are_invalid_input(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        await perform(make(), "run_tool", data)


async def test_sizes_are_bounded() -> None:
    with pytest.raises(PayloadTooLarge):
        await perform(make(), "run_tool", b" " * (MAX_OPERATION_BYTES + 1))
    with pytest.raises(PayloadTooLarge, match="arguments of echo"):
        await ask("run_tool", {"tool_id": "echo", "arguments": {"value": "x" * 2_000_000}})
    for operation, name in (("run_chain", "steps"), ("run_parallel", "calls")):
        with pytest.raises(BudgetExceeded):
            await ask(operation, {name: [0] * 200_000})


async def test_the_deepest_value_comes_back_through_every_operation() -> None:
    value: Any = 1
    for _ in range(127):
        value = [value]
    call = {"tool_id": "echo", "arguments": {"value": value}}
    assert await ask("run_tool", call) == value
    assert (await ask("run_chain", {"steps": [call]}))["value"] == value
    assert (await ask("run_parallel", {"calls": [call]}))[0]["value"] == value


async def test_a_malformed_call_is_recorded() -> None:
    gateway = make()
    with pytest.raises(InvalidInput):
        await ask("run_tool", {"tool_id": "echo", "arguments": "x"}, gateway)
    (call,) = gateway.calls
    assert (call.tool_id, call.arguments) == ("echo", "x")


@given(st.binary(max_size=100))
def test_any_bytes_are_answered_with_a_tool_error(data: bytes) -> None:
    with pytest.raises(ToolError):
        perform(make(), "run_tool", data).send(None)


ERRORS = [
    InvalidToolId("a b", "bad"),
    ToolNotFound("a", ("b", "c")),
    ToolDenied("a"),
    errors.InvalidCursor("was not made here"),
    errors.Unauthorized("a"),
    errors.PermissionMissing("a", ("write",)),
    errors.RoleDenied("a"),
    errors.ApprovalRejected("a", "too expensive"),
    errors.CallInDoubt("a"),
    errors.CallNotRecorded("a"),
    errors.CircuitOpen("a", 2.5),
    errors.RateLimited("a", 0.25),
    errors.CallInProgress("a"),
    errors.IdempotencyConflict("a"),
    errors.EgressDenied("http://10.0.0.1/", "it is private"),
    errors.ToolUnavailable("it", "it sleeps", retry_after_seconds=2.0),
    InvalidInput("no", details={"errors": [{"path": "a", "message": "b"}]}),
    InvalidOutput("no"),
    ToolFailed("ValueError: x", details={"type": "ValueError"}, retryable=True),
    ToolTimeout("a", 1.5),
    BudgetExceeded("tool_calls", 1, 2),
    DeadlineExceeded(),
    PayloadTooLarge("it", 5, 4),
    ToolError("plain"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_keep_their_class(error: ToolError) -> None:
    found = decode_error(encode_error(error))
    assert type(found) is type(error)
    assert found.to_json() == error.to_json()
    assert str(found) == str(error)


def test_every_tool_error_is_tried_above() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ToolError)}
    assert kinds == {type(error) for error in ERRORS}


class QuotaError(ToolError):
    """An error of a tool's own."""

    code = "quota"
    retryable = True


def test_foreign_codes_stay_readable() -> None:
    found = decode_error(encode_error(QuotaError("later", details={"seconds": 5})))
    assert type(found) is ToolError
    assert found.to_json() == {"code": "quota", "message": "later", "retryable": True, "details": {"seconds": 5}}


@pytest.mark.parametrize("details", [{"x": object()}, {"x": float("nan")}, {"x": "\ud800"}])
def test_no_error_is_too_odd_to_encode(details: dict[str, Any]) -> None:
    found = decode_error(encode_error(ToolError("odd \ud800", details=details)))
    assert found.message == "odd \\ud800"
    assert "not JSON" in found.details["dropped"]


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"code":1,"message":"","retryable":true,"details":{}}', b'{"code":"x"}', b"\xff"]
)
def test_an_error_that_is_none_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_error(data)
