"""The `tools` object turns attribute calls into gateway operations, and gateway errors into ToolError."""

import asyncio
import copy
import inspect
import json
import math
import pickle
import sys
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest

from runtimes.guest.tools import GatewayRefusal, ToolError, Tools

REFUSAL = {"code": "tool_denied", "message": "not yours", "retryable": True, "details": {"tool_id": "a:b"}}


class RecordingTransport:
    """Answers with what it was asked."""

    def __init__(self) -> None:
        self.refusing = False
        self.asked: list[tuple[str, Any]] = []

    def call(self, operation: str, arguments: str) -> str:
        self.asked.append((operation, json.loads(arguments)))
        if self.refusing:
            raise GatewayRefusal(json.dumps(REFUSAL))
        return json.dumps([operation, json.loads(arguments)])

    async def acall(self, operation: str, arguments: str) -> str:
        await asyncio.sleep(0)
        return self.call(operation, arguments)


@pytest.fixture
def transport() -> RecordingTransport:
    return RecordingTransport()


@pytest.fixture
def tools(transport: RecordingTransport) -> Iterator[Tools]:
    tools = Tools(transport)
    sys.modules["tools"] = tools  # type: ignore[assignment]  # as the snippet's namespace does
    yield tools
    del sys.modules["tools"]


CALLS = [
    ("weather.today(city='Rome')", "run_tool", {"tool_id": "weather:today", "arguments": {"city": "Rome"}}),
    ("ping()", "run_tool", {"tool_id": "ping", "arguments": {}}),
    (
        "a.b(self=1, args=2, operation=3)",
        "run_tool",
        {"tool_id": "a:b", "arguments": {"self": 1, "args": 2, "operation": 3}},
    ),
    ("run_tool('a:b:v2')", "run_tool", {"tool_id": "a:b:v2", "arguments": {}}),
    ("run_tool('a-b', {'x': (1, 2)})", "run_tool", {"tool_id": "a-b", "arguments": {"x": [1, 2]}}),
    (
        "run_chain([('a', {'x': 1}), {'tool_id': 'b', 'use_previous': True, 'stop_on_error': False}])",
        "run_chain",
        {
            "steps": [
                {"tool_id": "a", "arguments": {"x": 1}, "use_previous": False, "stop_on_error": True},
                {"tool_id": "b", "arguments": {}, "use_previous": True, "stop_on_error": False},
            ]
        },
    ),
    (
        "run_parallel((('a', {}), {'tool_id': 'b', 'arguments': {'y': None}}))",
        "run_parallel",
        {"calls": [{"tool_id": "a", "arguments": {}}, {"tool_id": "b", "arguments": {"y": None}}]},
    ),
    ("search_tools()", "search_tools", {"query": "", "limit": 10}),
    ("search_tools('rain', limit=3)", "search_tools", {"query": "rain", "limit": 3}),
    ("describe_tool('a:b')", "describe_tool", {"tool_id": "a:b", "level": "summary"}),
    ("describe_tool('a:b', 'full')", "describe_tool", {"tool_id": "a:b", "level": "full"}),
    ("list_namespaces()", "list_namespaces", {}),
    ("list_tool_examples('a:b')", "list_tool_examples", {"tool_id": "a:b", "limit": 5}),
    ("list_tool_examples('a:b', 2)", "list_tool_examples", {"tool_id": "a:b", "limit": 2}),
]


@pytest.mark.parametrize(("call", "operation", "arguments"), CALLS)
def test_operations(tools: Tools, transport: RecordingTransport, call: str, operation: str, arguments: Any) -> None:
    async def twin() -> Any:
        return await eval(f"tools.aio.{call}", {"tools": tools})

    assert eval(f"tools.{call}", {"tools": tools}) == [operation, arguments]
    assert asyncio.run(twin()) == [operation, arguments]
    assert transport.asked == [(operation, arguments)] * 2


def test_a_refusal_is_a_tool_error(tools: Tools, transport: RecordingTransport) -> None:
    transport.refusing = True

    async def twin() -> Any:
        return await tools.aio.a.b()

    calls: list[Callable[[], Any]] = [tools.a.b, lambda: asyncio.run(twin()), tools.list_namespaces]
    for call in calls:
        with pytest.raises(tools.ToolError) as caught:
            call()
        error = caught.value
        assert str(error) == "not yours"
        assert (error.code, error.message, error.retryable, error.details) == tuple(REFUSAL.values())
        assert error.__cause__ is None
        assert error.__context__ is None


@pytest.mark.usefixtures("tools")
def test_tool_error_survives_copying_and_shows_what_it_holds() -> None:
    error = ToolError("busy", "later", retryable=True, details={"seconds": 1})

    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert repr(twin) == repr(error)
        assert str(twin) == "later"
    assert repr(error) == "ToolError(code='busy', message='later', retryable=True, details={'seconds': 1})"
    assert f"{ToolError.__module__}.{ToolError.__qualname__}" == "tools.ToolError"
    assert ToolError("x", "y").details == {}


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        ("a.b('Rome')", TypeError, "tools.a.b(name=value), not tools.a.b(value)"),
        ("run_tool('a', [1])", TypeError, "the arguments of 'a' are a dict, not list"),
        ("run_tool(3)", TypeError, "a tool id is a str, not int"),
        ("run_chain(['a'])", TypeError, "steps[0]: expected (tool_id, arguments) or a dict"),
        ("run_chain([{'tool': 'a'}])", TypeError, "steps[0]: unknown ['tool']"),
        ("run_chain([{}])", TypeError, "steps[0]: 'tool_id' is missing"),
        ("run_parallel([{'tool_id': 'a', 'use_previous': True}])", TypeError, "calls[0]: unknown ['use_previous']"),
        ("run_parallel([('a', {}, 1)])", TypeError, "calls[0]: expected"),
        ("search_tools(limit={1})", TypeError, "limit: set is not a JSON value"),
    ],
)
def test_what_cannot_be_sent_is_refused_here(
    tools: Tools, transport: RecordingTransport, call: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        eval(f"tools.{call}", {"tools": tools})

    assert message in str(caught.value)
    assert transport.asked == []


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("a.b(x={1})", "x: set is not a JSON value; use dict, list, str, int, float, bool or None"),
        ("a.b(x=[{'not a name': {'k': object}}])", "x[0]['not a name'].k: type is not a JSON value"),
        ("a.b(x=nan)", "x: JSON has no nan"),
        ("a.b(x=10**4400)", "x: an integer of more than 4300 digits"),
        ("a.b(x={None: 1})", "x: keys of a JSON object are str, not NoneType"),
        ("a.b(x=itself)", "nested deeper than"),
        ("run_tool('a:b', {1: 2})", "keys of a JSON object are str, not int"),
    ],
)
def test_arguments_that_are_no_json_are_sent_as_the_reason(tools: Tools, call: str, reason: str) -> None:
    itself: list[Any] = []
    itself.append(itself)

    _, sent = eval(f"tools.{call}", {"tools": tools, "nan": math.nan, "itself": itself})

    assert sent["tool_id"] == "a:b"
    assert reason in sent["malformed"]
    assert "arguments" not in sent


def test_only_the_call_whose_arguments_are_no_json_is_sent_without_them(tools: Tools) -> None:
    calls = [("a", {"x": 1}), {"tool_id": "b", "arguments": {"x": 1j}, "timeout_seconds": 2}]
    _, sent = tools.run_parallel(calls, max_concurrent=3)
    assert sent["calls"][0] == {"tool_id": "a", "arguments": {"x": 1}}
    assert sent["calls"][1].pop("malformed").startswith("x: complex is not a JSON value")
    assert sent["calls"][1] == {"tool_id": "b", "timeout_seconds": 2}
    assert sent["max_concurrent"] == 3


def test_any_mapping_holds_arguments(tools: Tools) -> None:
    assert tools.run_tool("a", MappingProxyType({"x": 1})) == ["run_tool", {"tool_id": "a", "arguments": {"x": 1}}]


@pytest.mark.parametrize("name", ["__wrapped__", "__len__", "_repr_html_", "__deepcopy__", "_x"])
def test_underscore_names_are_no_tools(tools: Tools, name: str) -> None:
    for thing in (tools, tools.aio, tools.a, tools.a.b):
        assert not hasattr(thing, name)


def test_introspection_finds_an_ordinary_object(tools: Tools) -> None:
    assert copy.copy(tools.a.b)(x=1) == tools.a.b(x=1)
    assert repr(copy.deepcopy(tools).a.b) == "<tool a:b>"
    assert not inspect.iscoroutinefunction(tools.a.b)
    assert inspect.unwrap(tools.a) is not None
    assert not asyncio.isfuture(tools.a)
    assert inspect.getdoc(type(tools))
    assert "search_tools" in dir(tools)
    assert "tools.search_tools(query)" in repr(tools)
    assert "await tools.aio." in repr(tools.aio)


def test_a_tool_has_no_tools_of_its_own(tools: Tools) -> None:
    with pytest.raises(AttributeError, match="run_tool"):
        tools.a.b.c(x=1)


def test_calls_under_way_at_once(tools: Tools, transport: RecordingTransport) -> None:
    async def several() -> list[Any]:
        return list(await asyncio.gather(*(tools.aio.a.b(x=x) for x in range(3))))

    assert [reply[1]["arguments"]["x"] for reply in asyncio.run(several())] == [0, 1, 2]
    assert len(transport.asked) == 3
