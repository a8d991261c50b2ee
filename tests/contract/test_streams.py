"""Streamed calls from inside: events as they come, always with a last one, and nothing left when the guest stops."""

import pytest

from sandbox import Outcome
from sandbox.result import ToolCall
from tests.contract.conftest import Run

pytestmark = [pytest.mark.one_container, pytest.mark.usefixtures("streaming_tools")]

READ = {
    "sync": "events = list(tools.stream_tool({call}))\nevents",
    "async": "events = [event async for event in tools.aio.stream_tool({call})]\nevents",
}

CHAIN = {
    "sync": "events = list(tools.stream_chain({steps}))\nevents",
    "async": "events = [event async for event in tools.aio.stream_chain({steps})]\nevents",
}


def statuses(calls: tuple[ToolCall, ...]) -> list[str]:
    return [str(call.status) for call in calls]


@pytest.mark.parametrize("how", ["sync", "async"])
def test_chunks_and_progress_come_before_done(run: Run, how: str) -> None:
    result = run(READ[how].format(call="'stream:count', {'to': 3}"))
    events = result.value
    assert [event["data"] for event in events if event["kind"] == "chunk"] == [0, 1, 2]
    assert events[-1] == {"kind": "done", "data": None, "error": None}
    told = [event["data"] for event in events if event["kind"] == "progress"]
    assert {"message": "at 0", "progress": 0, "total": 3} in told
    assert [(call.tool_id, call.via, call.result) for call in result.tool_calls] == [
        ("stream:count", "stream_tool", [0, 1, 2])
    ]


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_failure_in_the_middle_is_the_last_event(run: Run, how: str) -> None:
    result = run(READ[how].format(call="'stream:count', {'to': 9, 'fail_at': 2}"))
    assert [event["data"] for event in result.value if event["kind"] == "chunk"] == [0, 1]
    last = result.value[-1]
    assert (last["kind"], last["error"]["code"], last["error"]["message"]) == (
        "error",
        "tool_failed",
        "ValueError: no 2",
    )
    assert statuses(result.tool_calls) == ["failed"]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("'stream:nothing'", "tool_not_found"),
        ("'stream:count', {'to': 'many'}", "invalid_input"),
        ("'no id at all'", "invalid_tool_id"),
    ],
)
def test_a_refusal_is_an_event_too(run: Run, call: str, code: str) -> None:
    result = run(READ["sync"].format(call=call))
    assert [event["kind"] for event in result.value] == ["error"]
    assert result.value[0]["error"]["code"] == code
    assert len(result.tool_calls) == 1


def test_any_tool_can_be_streamed_and_a_stream_can_be_called(run: Run) -> None:
    result = run("[list(tools.stream_tool('demo:add', {'a': 1})), tools.stream.spell(text='abc')]")
    assert result.value == [[{"kind": "done", "data": 11, "error": None}], ["a", "b", "c"]]


def test_leaving_the_loop_ends_the_call(run: Run) -> None:
    result = run("for event in tools.stream_tool('stream:endless'):\n    break\ntools.demo.add(a=1)")
    assert (result.outcome, result.value) == (Outcome.COMPLETED, 11)
    assert statuses(result.tool_calls) == ["cancelled", "completed"]


def test_a_stream_left_open_ends_with_the_execution(run: Run) -> None:
    result = run("stream = tools.stream_tool('stream:endless')\nnext(stream)['kind']")
    assert (result.outcome, result.value) == (Outcome.COMPLETED, "chunk")
    assert statuses(result.tool_calls) == ["cancelled"]


def test_streams_are_read_side_by_side(run: Run) -> None:
    result = run(
        "import asyncio\n"
        "async def read(n):\n"
        "    events = tools.aio.stream_tool('stream:count', {'to': n})\n"
        "    return [event['data'] async for event in events if event['kind'] == 'chunk']\n"
        "await asyncio.gather(*(read(n) for n in range(5)))"
    )
    assert result.value == [list(range(n)) for n in range(5)]


def test_a_stream_that_is_given_up_while_it_opens_is_closed(run: Run) -> None:
    result = run(
        "import asyncio\n"
        "async def read():\n"
        "    async for event in tools.aio.stream_tool('stream:endless'): pass\n"
        "for turns in range(40):\n"
        "    task = asyncio.ensure_future(read())\n"
        "    for _ in range(turns % 4): await asyncio.sleep(0)\n"
        "    task.cancel()\n"
        "    await asyncio.sleep(0)\n"
        "    if turns % 2: task.cancel()\n"  # as timeouts within each other do
        "    try:\n        await task\n    except asyncio.CancelledError:\n        pass\n"
        "[event async for event in tools.aio.stream_tool('demo:add', {'a': 2})][-1]['data']"
    )
    assert result.value == 12, result.error


def test_a_guest_has_so_many_streams_and_no_more(run: Run) -> None:
    result = run(
        "streams = [tools.stream_tool('stream:endless') for _ in range(33)]\n"
        "for stream in streams[:32]: next(stream)\n"
        "try:\n    next(streams[32])\nexcept tools.ToolError as error:\n    print(error.code, error.message)\n"
        "streams[0].close()\nnext(tools.stream_tool('demo:add', {'a': 2}))['data']"
    )
    assert result.stdout == "invalid_input 32 streams are open; read one to its end, or close it\n"
    assert result.value == 12


def test_a_chunk_may_be_as_large_as_a_result_and_a_stream_larger(run: Run) -> None:
    result = run(
        "size = 0\n"
        "for event in tools.stream_tool('stream:endless'):\n"
        "    size += len(event['data'])\n"
        "    if size > 10_000_000: break\n"
        "size"
    )
    assert result.value == 10_100_000


def test_a_stream_counts_as_one_call(run: Run) -> None:
    code = "[list(tools.stream_tool('stream:count', {'to': 50}))[-1] for _ in range(3)]"
    result = run(code, limits={"tool_calls": 2})
    assert [event["kind"] for event in result.value] == ["done", "done", "error"]
    assert result.value[2]["error"]["code"] == "budget_exceeded"


def test_steps_take_arguments_from_any_earlier_result(run: Run) -> None:
    result = run(
        "tools.run_chain([\n"
        "    ('demo:echo', {'value': {'n': [5, 7]}}),\n"
        "    {'tool_id': 'demo:add', 'mapping': {'a': '/previous/n/0'}, 'arguments': {'b': 1}},\n"
        "    {'tool_id': 'demo:add', 'mapping': {'a': '/previous', 'b': '/steps/0/n/1'}},\n"
        "])['value']"
    )
    assert result.value == 13


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_streamed_chain_tells_each_step_and_how_far_it_is(run: Run, how: str) -> None:
    steps = "[('demo:add', {'a': 1}), {'tool_id': 'demo:add', 'mapping': {'a': '/previous'}, 'arguments': {'b': 5}}]"
    result = run(CHAIN[how].format(steps=steps))
    done = [event["data"] for event in result.value if event["kind"] == "chunk"]
    assert [(step["tool_id"], step["ok"], step["value"]) for step in done] == [
        ("demo:add", True, 11),
        ("demo:add", True, 16),
    ]
    told = [event["data"] for event in result.value if event["kind"] == "progress"]
    assert told == [{"message": "demo:add completed", "progress": n, "total": 2} for n in (1, 2)]
    assert result.value[-1] == {"kind": "done", "data": 16, "error": None}
    assert [(call.tool_id, call.via) for call in result.tool_calls] == [("demo:add", "stream_chain")] * 2


def test_what_a_step_reports_is_progress_of_its_chain(run: Run) -> None:
    result = run(CHAIN["sync"].format(steps="[('demo_plain', {}), ('stream:count', {'to': 4})]"))
    told = [event["data"] for event in result.value if event["kind"] == "progress"]
    assert {"message": "at 2", "progress": 1.5, "total": 2} in told
    assert [event["data"]["value"] for event in result.value if event["kind"] == "chunk"][1] == [0, 1, 2, 3]


def test_a_streamed_chain_skips_what_comes_after_a_failure(run: Run) -> None:
    steps = "[('demo:fail', {}), ('demo:add', {'a': 1}), ('demo:add', {'a': 2})]"
    result = run(CHAIN["sync"].format(steps=steps))
    done = [event["data"] for event in result.value if event["kind"] == "chunk"]
    assert [(step["ok"], step["skipped"]) for step in done] == [(False, False), (False, True), (False, True)]
    assert done[0]["error"]["code"] == "tool_failed"
    assert result.value[-1] == {"kind": "done", "data": None, "error": None}
    assert statuses(result.tool_calls) == ["failed"]


def test_leaving_a_streamed_chain_makes_no_further_call(run: Run) -> None:
    result = run(
        "for event in tools.stream_chain([('demo:add', {'a': n}) for n in range(5)]):\n"
        "    if event['kind'] == 'chunk' and event['data']['value'] == 12: break\n"
        "tools.demo_plain()"
    )
    assert result.outcome is Outcome.COMPLETED
    assert [call.tool_id for call in result.tool_calls] == ["demo:add"] * 3 + ["demo_plain"]


def test_a_chain_that_cannot_begin_has_its_error_only(run: Run) -> None:
    result = run(
        "[list(tools.stream_chain([('demo:add', {'a': 1})] * 3)), list(tools.stream_chain([]))]",
        limits={"tool_calls": 2},
    )
    (refused,), (empty,) = result.value
    assert (refused["kind"], refused["error"]["code"]) == ("error", "budget_exceeded")
    assert empty == {"kind": "done", "data": None, "error": None}


def test_every_shape_of_call_has_a_bound_of_its_own(run: Run) -> None:
    result = run(
        "def code(error): return error and error['code']\n"
        "try:\n    tools.run_tool('demo:wait', timeout_seconds=0.1)\nexcept tools.ToolError as e:\n    print(e.code)\n"
        "chain = tools.run_chain([('demo:wait', {}), ('demo:add', {'a': 1})], timeout_seconds=0.1)\n"
        "slow = {'tool_id': 'demo:wait', 'timeout_seconds': 0.1, 'stop_on_error': False}\n"
        "step = tools.run_chain([slow, ('demo:add', {'a': 1})])\n"
        "batch = tools.run_parallel([('demo:wait', {}), ('demo_plain', {})], timeout_seconds=0.1)\n"
        "events = list(tools.stream_tool('demo:wait', timeout_seconds=0.1))\n"
        "[[[s['ok'], s['skipped'], code(s['error'])] for s in chain['steps']], step['value'],\n"
        " [code(c['error']) for c in batch], code(events[-1]['error'])]"
    )
    assert result.stdout == "timeout\n"
    assert result.value == [[[False, False, "timeout"], [False, True, None]], 11, ["timeout", None], "timeout"]


def test_tools_are_listed_page_by_page(run: Run) -> None:
    result = run(
        "found, cursor = [], None\n"
        "while True:\n"
        "    page = tools.list_tools(3, cursor, namespace='stream')\n"
        "    found += [tool['id'] for tool in page['tools']]\n"
        "    cursor = page['cursor']\n"
        "    if cursor is None: break\n"
        "try:\n    tools.list_tools(cursor='forged')\nexcept tools.ToolError as error:\n    print(error.code)\n"
        "found"
    )
    assert result.value == ["stream:count", "stream:endless", "stream:hesitate", "stream:spell"]
    assert result.stdout == "invalid_cursor\n"
