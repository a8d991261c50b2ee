"""The host's tools from inside: the seven operations, and what a call leaves in the record."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sandbox import Outcome
from tests.contract.conftest import Run

pytestmark = pytest.mark.one_container


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("tools.demo.add(a=1, b=2)", 3),
        ("tools.demo.add(a=1)", 11),
        ("tools.demo_plain()", "plain"),
        ("tools.run_tool('demo:add', {'a': 1, 'b': 2})", 3),
        ("tools.run_tool('demo_plain')", "plain"),
        ("add = tools.demo.add\nadd(a=5)", 15),
        ("import tools\ntools.demo.add(a=1)", 11),
        ("from tools import demo\ndemo.add(a=1)", 11),
        ("def f(): return tools.demo.add(a=1)\nf()", 11),
        ("tools.demo.echo(value={'ä': [None, True, 1.5, '😀']})", {"ä": [None, True, 1.5, "😀"]}),
        ("tools.demo.echo(value='x' * 500_000) == 'x' * 500_000", True),
        ("len(tools.demo.bulky(size=3_000_000))", 3_000_000),
        ("sum(map(lambda n: tools.demo.add(a=n, b=0), range(20)))", 190),
    ],
)
def test_a_call_returns_the_tools_result(run: Run, code: str, value: Any) -> None:
    result = run(code)
    assert (result.outcome, result.value) == (Outcome.COMPLETED, value)


def test_a_call_is_recorded_with_arguments_result_and_timing(run: Run) -> None:
    before = datetime.now(UTC)
    result = run("tools.demo.add(a=1)\ntools.demo.slow(seconds=0.1)\ntools.run_parallel([('demo_plain', {})])")
    first, second, third = result.tool_calls
    assert [call.index for call in result.tool_calls] == [0, 1, 2]
    assert (first.tool_id, first.arguments, first.result, first.error) == ("demo:add", {"a": 1}, 11, None)
    assert [call.status for call in result.tool_calls] == ["completed"] * 3
    assert [call.via for call in result.tool_calls] == ["run_tool", "run_tool", "run_parallel"]
    assert [call.attempts for call in result.tool_calls] == [1, 1, 1]
    assert 0.09 < second.duration_seconds < 5
    assert before - timedelta(seconds=1) < first.started_at <= second.started_at <= third.started_at
    assert third.started_at < datetime.now(UTC) + timedelta(seconds=1)


def test_list_namespaces_knows_only_what_may_be_called(run: Run) -> None:
    assert {"", "demo"} <= set(run("tools.list_namespaces()").value)
    assert run("tools.list_namespaces()", allowed_tools=["demo:*"]).value == ["demo"]
    assert run("tools.list_namespaces()", allowed_tools=["demo_plain"]).value == [""]
    assert run("tools.list_namespaces()", allowed_tools=[]).value == []


def test_search_finds_tools_by_words(run: Run) -> None:
    found = run("tools.search_tools('add numbers', limit=3)", allowed_tools=["demo:*"]).value
    assert found[0]["id"] == "demo:add"
    assert found[0]["namespace"] == "demo"
    assert "whole numbers" in found[0]["description"]
    assert found[0]["score"] > 0
    hidden = run("[hit['id'] for hit in tools.search_tools('add numbers')]", allowed_tools=["demo:echo"]).value
    assert hidden == []


def test_search_without_words_lists_tools(run: Run) -> None:
    result = run("[tool['id'] for tool in tools.search_tools('')]", allowed_tools=["demo:echo", "demo:add"])
    assert result.value == ["demo:add", "demo:echo"]


def test_describe_tool_tells_more_with_every_level(run: Run) -> None:
    code = "[tools.describe_tool('demo:add', level) for level in ('summary', 'schema', 'full')]"
    summary, schema, full = run(code).value
    assert "whole numbers" in str(summary)
    assert "integer" not in str(summary)
    assert "integer" in str(schema)
    assert "their sum" in str(full)


def test_list_tool_examples_gives_worked_calls(run: Run) -> None:
    result = run("tools.list_tool_examples('demo:add', limit=1)")
    assert result.value == [{"title": "Two numbers", "arguments": {"a": 1, "b": 2}, "result_hint": "their sum"}]
    assert run("tools.list_tool_examples('demo:echo')").value == []


def test_looking_around_is_not_a_call(run: Run) -> None:
    code = "tools.search_tools('add'), tools.describe_tool('demo:add'), tools.list_namespaces()"
    result = run(code, limits={"tool_calls": 1})
    assert (len(result.value), result.tool_calls) == (3, ())


@pytest.mark.parametrize(
    "code",
    [
        "[tools.list_namespaces(), tools.describe_tool('demo:add'), tools.list_tool_examples('demo:add')]",
        """
        import asyncio
        aio = tools.aio
        calls = aio.list_namespaces(), aio.describe_tool('demo:add'), aio.list_tool_examples('demo:add')
        return await asyncio.gather(*calls)
        """,
    ],
)
def test_every_operation_has_an_async_twin(run: Run, code: str) -> None:
    namespaces, described, examples = run(code, allowed_tools=["demo:*"]).value
    assert (namespaces, len(examples)) == (["demo"], 1)
    assert described["id"] == "demo:add"


def test_a_chain_passes_results_on(run: Run) -> None:
    result = run(
        "tools.run_chain([('demo:add', {'a': 1, 'b': 1}), {'tool_id': 'demo:double', 'use_previous': True},"
        " {'tool_id': 'demo:double', 'arguments': {}, 'use_previous': True}])"
    )
    assert result.value["value"] == 8
    assert [(step["tool_id"], step["ok"], step["value"]) for step in result.value["steps"]] == [
        ("demo:add", True, 2),
        ("demo:double", True, 4),
        ("demo:double", True, 8),
    ]
    assert [call.arguments for call in result.tool_calls] == [{"a": 1, "b": 1}, {"previous": 2}, {"previous": 4}]


def test_a_failing_step_stops_the_chain_unless_told_otherwise(run: Run) -> None:
    stopped = run("tools.run_chain([('demo:fail', {}), ('demo:add', {'a': 1})])").value
    assert (stopped["value"], [step["skipped"] for step in stopped["steps"]]) == (None, [False, True])
    assert stopped["steps"][0]["error"]["code"] == "tool_failed"
    gone_on = run("tools.run_chain([{'tool_id': 'demo:fail', 'stop_on_error': False}, ('demo:add', {'a': 1})])").value
    assert (gone_on["value"], [step["ok"] for step in gone_on["steps"]]) == (11, [False, True])


def test_an_empty_chain_and_an_empty_batch_do_nothing(run: Run) -> None:
    result = run("[tools.run_chain([]), tools.run_parallel([])]")
    assert result.value == [{"value": None, "steps": []}, []]
    assert result.tool_calls == ()


def test_a_parallel_batch_keeps_order_and_isolates_failures(run: Run) -> None:
    result = run(
        "import time\nstarted = time.monotonic()\n"
        "batch = [('demo:slow', {'seconds': 0.4 - n / 50, 'answer': n}) for n in range(10)]\n"
        "done = tools.run_parallel([*batch, ('demo:fail', {}), ('demo:nothing', {})])\n"
        "[done, time.monotonic() - started]"
    )
    done, seconds = result.value
    assert [call["value"] for call in done[:10]] == list(range(10))
    assert [call["error"]["code"] for call in done[10:]] == ["tool_failed", "tool_not_found"]
    assert seconds < 2.5
    assert len(result.tool_calls) == 12


def test_versions_are_called_by_id(run: Run) -> None:
    result = run("[tools.demo.edition(), tools.run_tool('demo:edition:1.0'), tools.run_tool('demo:edition:2.0')]")
    assert result.value == ["2.0", "1.0", "2.0"]


@pytest.mark.parametrize("code", ["tools.demo.add(1, 2)", "tools.demo_plain('x')", "tools.run_tool(5)"])
def test_arguments_go_by_name(run: Run, code: str) -> None:
    result = run(code)
    assert result.outcome is Outcome.RAISED
    assert result.error is not None
    assert result.error.type == "TypeError"
    assert result.tool_calls == ()


def test_arguments_that_are_not_json_are_refused_with_their_place(run: Run) -> None:
    result = run("tools.demo.echo(value={'a': [1, {2, 3}]})")
    assert result.error is not None
    assert result.error.type == "ToolError"
    assert "value.a[1]: set is not a JSON value" in result.error.message
    (call,) = result.tool_calls
    assert call.error is not None
    assert (call.status, call.error["code"], call.error["message"]) == (
        "refused",
        "invalid_input",
        result.error.message,
    )
    assert call.arguments == {"malformed": result.error.message.removeprefix("the arguments are not JSON: ")}


def test_of_a_batch_only_what_is_no_json_fails(run: Run) -> None:
    result = run(
        "nan = float('nan')\n"
        "steps = [('demo:echo', {'value': nan}), ('demo_plain', {})]\n"
        "chain = tools.run_chain([{'tool_id': a, 'arguments': b, 'stop_on_error': False} for a, b in steps])['steps']\n"
        "[[o['value'], o['error'] and o['error']['code']] for o in tools.run_parallel(steps) + chain]"
    )
    assert result.value == [[None, "invalid_input"], ["plain", None]] * 2
    assert sorted(str(call.status) for call in result.tool_calls) == ["completed"] * 2 + ["refused"] * 2


def test_names_with_underscores_are_no_tools(run: Run) -> None:
    result = run("import copy\n[hasattr(tools, '_secret'), hasattr(tools.demo, '__len__'), repr(tools)[:7]]")
    assert result.value == [False, False, "<tools:"]
