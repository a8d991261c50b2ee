"""What JavaScript snippets can ask of `tools` beside plain calls: streams, bounds, chains, batches and lists."""

import pytest

from sandbox import Outcome
from tests.contract.conftest import Run

pytestmark = [pytest.mark.one_container, pytest.mark.usefixtures("streaming_tools")]

READ = "const events = []\nfor await (const event of {stream}) events.push(event)\nevents"


@pytest.mark.parametrize("spelling", ["streamTool", "stream_tool"])
def test_chunks_and_progress_come_before_done(javascript: Run, spelling: str) -> None:
    result = javascript(READ.format(stream=f"tools.{spelling}('stream:count', {{to: 3}})"))
    events = result.value
    assert [event["data"] for event in events if event["kind"] == "chunk"] == [0, 1, 2]
    assert events[-1] == {"kind": "done", "data": None, "error": None}
    told = [event["data"] for event in events if event["kind"] == "progress"]
    assert {"message": "at 0", "progress": 0, "total": 3} in told
    assert [(call.tool_id, call.via, call.result) for call in result.tool_calls] == [
        ("stream:count", "stream_tool", [0, 1, 2])
    ]


@pytest.mark.parametrize(
    ("call", "chunks", "code"),
    [
        ("'stream:count', {to: 9, fail_at: 2}", [0, 1], "tool_failed"),
        ("'stream:nothing'", [], "tool_not_found"),
        ("'stream:count', {to: 'many'}", [], "invalid_input"),
        ("'demo:wait', {}, {timeoutSeconds: 0.1}", [], "timeout"),
    ],
)
def test_a_failure_is_the_last_event_and_throws_nothing(
    javascript: Run, call: str, chunks: list[int], code: str
) -> None:
    result = javascript(READ.format(stream=f"tools.streamTool({call})"))
    assert [event["data"] for event in result.value if event["kind"] == "chunk"] == chunks
    assert (result.value[-1]["kind"], result.value[-1]["error"]["code"]) == ("error", code)
    assert len(result.tool_calls) == 1


@pytest.mark.parametrize(
    "code",
    [
        "for await (const event of tools.streamTool('stream:endless')) break",
        "await (async () => { for await (const event of tools.streamTool('stream:endless')) return })()",
        "try { for await (const event of tools.streamTool('stream:endless')) throw event } catch {}",
        "const stream = tools.streamTool('stream:endless')\nawait stream.next()\nawait stream.return()",
    ],
)
def test_leaving_the_loop_ends_the_call(javascript: Run, code: str) -> None:
    result = javascript(f"{code}\nawait tools.demo.add({{a: 1}})")
    assert (result.outcome, result.value) == (Outcome.COMPLETED, 11)
    assert [call.status for call in result.tool_calls] == ["cancelled", "completed"]


def test_a_stream_left_open_ends_with_the_execution(javascript: Run) -> None:
    result = javascript("const stream = tools.streamTool('stream:endless');\n(await stream.next()).value.kind")
    assert (result.outcome, result.value) == (Outcome.COMPLETED, "chunk")
    assert [call.status for call in result.tool_calls] == ["cancelled"]


def test_streams_are_read_side_by_side(javascript: Run) -> None:
    result = javascript(
        "async function read(to) {\n"
        "  const found = []\n"
        "  for await (const event of tools.streamTool('stream:count', {to})) found.push(event)\n"
        "  return found.filter(event => event.kind === 'chunk').map(event => event.data)\n"
        "}\n"
        "Promise.all([0, 1, 2, 3, 4].map(read))"
    )
    assert result.value == [list(range(n)) for n in range(5)]


def test_any_tool_can_be_streamed_and_a_stream_can_be_called(javascript: Run) -> None:
    read = READ.format(stream="tools.streamTool('demo:add', {a: 1})")
    result = javascript(f"{read};[events, await tools.stream.spell({{text: 'abc'}})]")
    assert result.value == [[{"kind": "done", "data": 11, "error": None}], ["a", "b", "c"]]


def test_a_guest_has_so_many_streams_and_no_more(javascript: Run) -> None:
    result = javascript(
        "const streams = Array.from({length: 33}, () => tools.streamTool('stream:endless'))\n"
        "for (const stream of streams.slice(0, 32)) await stream.next()\n"
        "try { await streams[32].next() } catch (error) { console.log(error.code, error.message) }\n"
        "await streams[0].return()\n"
        "const one = await tools.streamTool('demo:add', {a: 2}).next()\n"
        "one.value.data"
    )
    assert result.stdout == "invalid_input 32 streams are open; read one to its end, or close it\n"
    assert result.value == 12


def test_a_chunk_may_be_as_large_as_a_result_and_a_stream_larger(javascript: Run) -> None:
    result = javascript(
        "let size = 0\n"
        "for await (const event of tools.streamTool('stream:endless')) {\n"
        "  size += event.data.length\n"
        "  if (size > 10_000_000) break\n"
        "}\n"
        "size"
    )
    assert result.value == 10_100_000


def test_a_streamed_chain_tells_each_step_and_makes_no_further_call_once_it_is_left(javascript: Run) -> None:
    steps = "[['demo:add', {a: 1}], {toolId: 'demo:add', mapping: {a: '/previous'}, arguments: {b: 5}}, ['demo_plain']]"
    result = javascript(READ.format(stream=f"tools.streamChain({steps}, {{timeoutSeconds: 9}})"))
    assert [event["data"]["value"] for event in result.value if event["kind"] == "chunk"] == [11, 16, "plain"]
    assert [event["data"]["progress"] for event in result.value if event["kind"] == "progress"] == [1, 2, 3]
    assert result.value[-1] == {"kind": "done", "data": "plain", "error": None}
    result = javascript(
        f"for await (const event of tools.stream_chain({steps})) {{ if (event.data.value === 16) break }}\n"
        "await tools.demo.add({a: 2})"
    )
    assert [call.via for call in result.tool_calls] == ["stream_chain", "stream_chain", "run_tool"]


def test_of_a_batch_only_what_is_no_json_fails(javascript: Run) -> None:
    result = javascript(
        "const steps = [{toolId: 'demo:echo', arguments: {value: NaN}}, {toolId: 'demo_plain'}]\n"
        "const chain = await tools.runChain(steps.map(step => ({...step, stopOnError: false})))\n"
        "const all = [...await tools.runParallel(steps), ...chain.steps]\n"
        "all.map(one => [one.value, one.error?.code])"
    )
    assert result.value == [[None, "invalid_input"], ["plain", None]] * 2
    assert sorted(str(call.status) for call in result.tool_calls) == ["completed"] * 2 + ["refused"] * 2


def test_a_stream_counts_as_one_call(javascript: Run) -> None:
    result = javascript(
        "const kinds = []\n"
        "for (const _ of [1, 2, 3]) {\n"
        "  for await (const event of tools.streamTool('stream:count', {to: 50})) kinds.push(event.kind)\n"
        "}\n"
        "kinds",
        limits={"tool_calls": 2},
    )
    assert [kind for kind in result.value if kind in {"done", "error"}] == ["done", "done", "error"]


@pytest.mark.parametrize(
    "second",
    [
        "{toolId: 'demo:add', mapping: {a: '/previous/n/0'}, arguments: {b: 1}, timeoutSeconds: 5, stopOnError: true}",
        "{tool_id: 'demo:add', mapping: {a: '/previous/n/0'}, arguments: {b: 1}, timeout_seconds: 5}",
    ],
)
def test_steps_take_arguments_from_any_earlier_result(javascript: Run, second: str) -> None:
    result = javascript(
        f"(await tools.runChain([['demo:echo', {{value: {{n: [5, 7]}}}}], {second},\n"
        "{toolId: 'demo:add', mapping: {a: '/previous', b: '/steps/0/n/1'}}])).value"
    )
    assert result.value == 13


def test_every_shape_of_call_has_a_bound_of_its_own(javascript: Run) -> None:
    result = javascript(
        "const code = error => error && error.code\n"
        "try { await tools.runTool('demo:wait', {}, {timeoutSeconds: 0.1}) } catch (e) { console.log(e.code) }\n"
        "const chain = await tools.runChain([['demo:wait'], ['demo:add', {a: 1}]], {timeout_seconds: 0.1})\n"
        "const slow = {toolId: 'demo:wait', timeoutSeconds: 0.1, stopOnError: false}\n"
        "const step = await tools.runChain([slow, ['demo:add', {a: 1}]])\n"
        "const bounds = {timeoutSeconds: 0.1, maxConcurrent: 2}\n"
        "const batch = await tools.runParallel([['demo:wait'], ['demo_plain']], bounds)\n"
        "const call = await tools.run_parallel([{tool_id: 'demo:wait', timeout_seconds: 0.1}], {max_concurrent: 1})\n"
        "const shown = ({ok, skipped, error}) => [ok, skipped, code(error)];\n"
        "[chain.steps.map(shown), step.value, [...batch, ...call].map(({error}) => code(error))]"
    )
    assert result.stdout == "timeout\n"
    assert result.value == [
        [[False, False, "timeout"], [False, True, None]],
        11,
        ["timeout", None, "timeout"],
    ]


def test_so_many_calls_of_a_batch_are_under_way_at_once(javascript: Run) -> None:
    batch = "tools.runParallel(Array(4).fill(['demo:slow', {seconds: 0.3}]), {maxConcurrent: 1})"
    one_by_one = javascript(f"const start = Date.now(); await {batch}; Date.now() - start").value
    assert one_by_one >= 1200


def test_tools_are_listed_page_by_page(javascript: Run) -> None:
    result = javascript(
        "const found = []\n"
        "let cursor\n"
        "do {\n"
        "  const page = await tools.listTools(3, cursor, {namespace: 'stream'})\n"
        "  found.push(...page.tools.map(tool => tool.id))\n"
        "  cursor = page.cursor\n"
        "} while (cursor !== null)\n"
        "try { await tools.list_tools(3, 'forged') } catch (error) { console.log(error.code) }\n"
        "found"
    )
    assert result.value == ["stream:count", "stream:endless", "stream:hesitate", "stream:spell"]
    assert result.stdout == "invalid_cursor\n"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (
            "tools.searchTools('', 9, {namespace: 'stream'})",
            [f"stream:{name}" for name in ("count", "endless", "hesitate", "spell")],
        ),
        ("tools.searchTools('count', {namespace: 'demo'})", []),
        ("tools.searchTools('', {tags: ['talk']})", ["stream:hesitate", "stream:spell"]),
        ("tools.searchTools('', 1, {tags: ['talk']})", ["stream:hesitate"]),
        ("(await tools.listTools({query: 'letter', tags: ['talk']})).tools", ["stream:spell"]),
        ("(await tools.listTools({tags: ['talk', 'nothing']})).tools", []),
    ],
)
def test_tools_are_filtered_by_words_namespace_and_tags(javascript: Run, code: str, found: list[str]) -> None:
    assert [tool["id"] for tool in javascript(code).value] == found


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "runTool('demo_plain', {}, {timeout: 1})",
            "unknown option 'timeout'; there are timeout_seconds, timeoutSeconds",
        ),
        ("runTool('demo_plain', {}, 1)", "runTool takes (toolId, arguments, {timeoutSeconds}), and nothing else"),
        ("runTool('demo_plain', {}, {}, {})", "runTool takes (toolId, arguments, {timeoutSeconds}), and nothing else"),
        ("runTool('demo_plain', {}, {timeoutSeconds: 1, timeout_seconds: 2})", "'timeout_seconds' is given twice"),
        ("streamTool('demo_plain', {}, {timeout: 1})", "streamTool: unknown option 'timeout'"),
        ("runChain([['demo_plain', {}, 5]])", "steps[0]: expected [toolId, arguments]"),
        ("runChain([{toolId: 'demo_plain', timeout: 1}])", "steps[0]: unknown field 'timeout'"),
        ("runChain(5)", "steps are an array, not 5"),
        ("runParallel([{toolId: 'demo_plain', mapping: {}}])", "calls[0]: unknown field 'mapping'"),
        ("runParallel([], {concurrent: 1})", "'concurrent'; there are max_concurrent, maxConcurrent, timeout_"),
        ("searchTools('x', 3, {limit: 3})", "searchTools: unknown option 'limit'; there are namespace, tags"),
        ("listTools(3, null, {}, 'x')", "listTools takes (limit, cursor, {query, namespace, tags}), and nothing else"),
        ("describeTool('demo:add', 'full', {})", "describeTool takes (toolId, level), and nothing else"),
        ("listNamespaces('x')", "listNamespaces takes (), and nothing else"),
    ],
)
def test_what_an_operation_does_not_take_is_an_error_that_says_what_it_takes(
    javascript: Run, code: str, message: str
) -> None:
    result = javascript(f"const x = 1\nawait tools.{code}")
    assert result.error is not None
    assert (result.error.type, result.error.line, result.tool_calls) == ("TypeError", 2, ())
    assert message in result.error.message


def test_what_is_left_undefined_is_not_given(javascript: Run) -> None:
    code = "tools.runTool('demo:add', {a: 1, b: undefined}, {timeoutSeconds: undefined, timeout_seconds: null})"
    assert javascript(code).value == 11
