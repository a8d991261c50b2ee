"""JavaScript snippets: their value, output, errors and limits, and the tools by the object `tools`."""

import json
from typing import Any

import pytest

from sandbox import Artifact, GuestError, Outcome
from tests.contract.conftest import Run

pytestmark = pytest.mark.one_container


def raised(run: Run, code: str) -> GuestError:
    result = run(code)
    assert result.outcome is Outcome.RAISED, result.summary()
    assert result.error is not None
    assert not [part for part in ("/runtimes/", "main.js", "node:internal/process") if part in result.error.traceback]
    return result.error


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("return 5", 5),
        ("const x = 1\nreturn x + 1\nx.y.z", 2),
        ("if (true) { return 'in a block' }", "in a block"),
        ("for (const n of [1, 2, 3]) if (n === 2) return n;", 2),
        ("return", None),
        ("__out = 3\nreturn", None),
        ("return await Promise.resolve(6)", 6),
        ("return Promise.resolve(7)", 7),
        ("1 + 1", 2),
        ("const x = [1]; x.push(2); x", [1, 2]),
        ("__out = 3\n4", 4),
        ("1, 2;", 2),
        ("'text'", "text"),
        ("'use strict'\n5 // five", 5),
        ("({a: 1})", {"a": 1}),
        ("await Promise.resolve(8)", 8),
        ("async function main() { return 9 }\nmain()", 9),
        ("__out = 3", 3),
        ("const __out = 3", 3),
        ("__out = 3\nconsole.error('')", 3),
        ("const x = 4", None),
        ("function f() { return 5 }", None),
        ("if (true) { 5 }", None),
        ("", None),
        ("// only a comment", None),
        ("    const x = 1\n    x + 1", 2),
        ("\r\n  const x = 1\r\n  return x + 1\r\n", 2),
        (
            "import { sep as s } from 'node:path'\nimport * as os from 'node:os'\nimport 'node:fs'\n[s, os.EOL]",
            ["/", "\n"],
        ),
        ("require('path').join('a', 'b')", "a/b"),
        ("[typeof this, process.argv.length]", ["object", 2]),
    ],
)
def test_return_else_the_last_expression_else_the_out_variable(javascript: Run, code: str, value: Any) -> None:
    result = javascript(code)
    assert (result.outcome, result.value, result.value_is_repr) == (Outcome.COMPLETED, value, False), result.summary()


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 0.1, -0.0, 1e21, 5e-324, "", 'ä😀\u2028\x00\x7f"\\', [], {}, {"": {"ключ": [None, [True]]}}],
)
def test_json_values_make_the_journey_both_ways(javascript: Run, value: Any) -> None:
    result = javascript(
        "return tools.demo.echo({value: JSON.parse(process.env.VALUE)})", env={"VALUE": json.dumps(value)}
    )
    assert (result.outcome, repr(result.value)) == (Outcome.COMPLETED, repr(value))


@pytest.mark.parametrize("value", [2**53 - 1, 2**53 + 1, -(2**63) - 1, 10**400])
def test_integers_of_any_size_survive(javascript: Run, value: int) -> None:
    code = (
        f"const big = await tools.demo.echo({{value: {{list: [{value}n]}}}})\nreturn [big.list[0], typeof big.list[0]]"
    )
    found, kind = javascript(code).value
    assert found == value
    assert kind == ("number" if abs(value) < 2**53 else "bigint")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("new Map([[1, 2]])", "Map(1) { 1 => 2 }"),
        ("new Date(0)", "1970-01-01T00:00:00.000Z"),
        ("NaN", "NaN"),
        ("[1.5, Infinity]", "[ 1.5, Infinity ]"),
        ("() => 1", "[Function (anonymous)]"),
        ("class A { x = 1 }\nnew A()", "A { x: 1 }"),
        ("const a = []; a.push(a); a", "<ref *1> [ [Circular *1] ]"),
        ("({get x() { throw new Error('no') }})", "{ x: [Getter] }"),
        ("Symbol('s')", "Symbol(s)"),
    ],
)
def test_anything_else_arrives_as_its_representation_with_a_flag(javascript: Run, code: str, text: str) -> None:
    result = javascript(code)
    assert (result.outcome, result.value, result.value_is_repr) == (Outcome.COMPLETED, text, True)


def test_members_that_are_undefined_are_left_out(javascript: Run) -> None:
    assert javascript("({a: undefined, b: [undefined], c: null})").value == {"b": [None], "c": None}


@pytest.mark.parametrize(
    "code",
    [
        "'x'.repeat(5_000_000)",
        "Array(1e6).fill('xxxx')",
        "let x = [0]; for (let n = 0; n < 30; n++) x = Array(10).fill(x)\nx",
    ],
)
def test_a_value_that_is_too_large_exceeds_a_limit(javascript: Run, code: str) -> None:
    result = javascript(code)
    assert (result.outcome, result.limit, result.value) == (Outcome.LIMIT_EXCEEDED, "value_bytes", None)


def test_both_streams_arrive_as_written(javascript: Run) -> None:
    result = javascript(
        "console.log('a', {b: 1}); console.error('err'); process.stdout.write('no newline')\n"
        "require('child_process').execSync('echo from a process', {stdio: 'inherit'})"
    )
    assert (result.stdout, result.stderr) == ("a { b: 1 }\nno newlinefrom a process\n", "err\n")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("null.x", ("TypeError", "Cannot read properties of null (reading 'x')", 1, 6)),
        ("const x = 1\n\nconst y = x.f()", ("TypeError", "x.f is not a function", 3, 13)),
        ("    const x = 1\n    throw new Error('indented')", ("Error", "indented", 2, 11)),
        ("function f() { null.x }\n\n1 + f()", ("TypeError", None, 1, 21)),
        ("const é = '😀'; null.x", ("TypeError", None, 1, 21)),
        ("class Own extends Error {}\nreturn f()\nfunction f() { throw new Own('a') }", ("Own", "a", 3, 22)),
        ("undefined_name", ("ReferenceError", "undefined_name is not defined", 1, 1)),
        ("return undefined_name", ("ReferenceError", "undefined_name is not defined", 1, 8)),
        ("await new Promise(done => setTimeout(done))\nthrow new Error('late')", ("Error", "late", 2, 7)),
        ("async function f() { throw new Error('in f') }\nf()", ("Error", "in f", 1, 28)),
        (
            "setTimeout(() => { null.x })\nawait new Promise(() => setTimeout(() => 0, 2000))",
            ("TypeError", None, 1, 25),
        ),
        (
            "Promise.reject(new Error('unhandled'))\nawait new Promise(done => setTimeout(done, 2000))",
            ("Error", "unhandled", 1, 16),
        ),
        ("throw {a: 1}", ("object", "{ a: 1 }", 0, 0)),
        ("throw 'text'", ("string", "'text'", 0, 0)),
        ("f()\nfunction f() { return f() }", ("RangeError", "Maximum call stack size exceeded", 2, None)),
    ],
)
def test_type_message_line_and_column(
    javascript: Run, code: str, error: tuple[str, str | None, int, int | None]
) -> None:
    found = raised(javascript, code)
    seen = (found.type, found.message, found.line, found.column)
    assert all(wanted in {None, real} for real, wanted in zip(seen, error, strict=True)), seen


@pytest.mark.parametrize(
    ("code", "line", "column"),
    [
        ("x = = 1", 1, 5),
        ("console.log('started')\n  const a = 1; const a = 2", 2, 22),
        ("    const a = 1\n    a b", 2, 7),
        ("'open", 1, 1),
        ("export const a = 1", 1, 1),
        ("'use strict'\nwith ({}) {}", 2, None),
        ("await 1; function f() { await 1 }", 1, None),
    ],
)
def test_syntax_errors_have_a_place_and_nothing_runs(javascript: Run, code: str, line: int, column: int | None) -> None:
    result = javascript(code)
    assert (result.outcome, result.stdout) == (Outcome.RAISED, "")
    assert result.error is not None
    assert (result.error.type, result.error.line) == ("SyntaxError", line)
    assert column in {None, result.error.column}


def test_the_traceback_shows_the_snippet_only(javascript: Run) -> None:
    error = raised(javascript, "function f() { throw new TypeError('no', {cause: new Error('why')}) }\nf()")
    assert error.traceback == (
        "TypeError: no\n    at f (<snippet>:1:22)\n    at <snippet>:2:1\n"
        "[cause]: Error: why\n    at f (<snippet>:1:50)\n    at <snippet>:2:1"
    )


def test_stacks_that_the_snippet_prints_have_the_right_places(javascript: Run) -> None:
    assert javascript("console.log(new Error('seen').stack)").stdout == "Error: seen\n    at <snippet>:1:13\n"


def test_code_that_nests_too_deeply_is_an_error_and_no_crash(javascript: Run) -> None:
    assert raised(javascript, "(" * 20000 + ")" * 20000).type in {"RangeError", "SyntaxError"}


def test_waiting_for_nothing_is_an_error_at_once(javascript: Run) -> None:
    assert "deadlock" in raised(javascript, "await new Promise(() => {})").message


@pytest.mark.own_container
@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("process.exit(3)", 3), ("process.exit()", 0), ("process.exitCode = 4; 1", 4), ("process.reallyExit(5)", 5)],
)
def test_exits_are_no_errors(javascript: Run, code: str, exit_code: int) -> None:
    result = javascript(code)
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, exit_code)


@pytest.mark.own_container
def test_an_abort_is_a_kill(javascript: Run) -> None:
    result = javascript("console.log('before'); process.abort()")
    assert (result.outcome, result.stdout) == (Outcome.KILLED, "before\n")


def test_it_runs_in_its_folder_with_its_environment(javascript: Run) -> None:
    result = javascript(
        "const fs = require('fs')\n"
        "fs.writeFileSync('out.txt', fs.readFileSync('in.txt', 'utf8') + process.env.REGION)\n"
        "return Object.keys(process.env).sort()",
        files={"in.txt": "given "},
        env={"REGION": "eu"},
    )
    assert result.value == ["HOME", "PATH", "REGION", "TMPDIR"]
    assert result.artifacts == (Artifact("out.txt", b"given eu"),)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("await tools.demo.add({a: 1, b: 2})", 3),
        ("tools.demo.add({a: 1})", 11),
        ("tools.demo_plain()", "plain"),
        ("tools.runTool('demo:add', {a: 1})", 11),
        ("tools.run_tool('demo_plain')", "plain"),
        ("const { add } = tools.demo\nawait add({a: 5})", 15),
        ("await Promise.all([1, 2, 3].map(a => tools.demo.add({a, b: 0})))", [1, 2, 3]),
        ("(await tools.demo.bulky({size: 3_000_000})).length", 3_000_000),
        ("await tools.demo.echo({value: 'x'.repeat(500_000)}) === 'x'.repeat(500_000)", True),
        ("(await tools.runChain([['demo:add', {a: 1}], {toolId: 'demo:double', usePrevious: true}])).value", 22),
        ("(await tools.run_chain([{tool_id: 'demo:fail', stop_on_error: false}, ['demo_plain']])).value", "plain"),
        ("(await tools.runParallel([['demo_plain'], ['demo:add', {a: 1}]])).map(one => one.value)", ["plain", 11]),
        ("(await tools.searchTools('add numbers', 3))[0].id", "demo:add"),
        ("(await tools.describeTool('demo:add')).id", "demo:add"),
        ("(await tools.listNamespaces()).includes('demo')", True),
        ("(await tools.listToolExamples('demo:add'))[0].title", "Two numbers"),
        ("[await tools, await tools.demo].length", 2),
        (
            "try { await tools.demo.fail() } catch (e) { __out = [e instanceof tools.ToolError, e.name, e.code] }",
            [True, "ToolError", "tool_failed"],
        ),
        (
            "try { await tools.demo.refuse() } catch (e) { __out = [e.message, e.retryable, e.details] }",
            ["out of stock", True, {"left": 0}],
        ),
    ],
)
def test_tools_are_called_and_answer(javascript: Run, code: str, value: Any) -> None:
    result = javascript(code)
    assert (result.outcome, result.value) == (Outcome.COMPLETED, value), result.summary()


def test_a_call_is_recorded_like_any_other(javascript: Run) -> None:
    (call,) = javascript("tools.demo.add({a: 1})").tool_calls
    assert (call.tool_id, call.arguments, call.result, call.via) == ("demo:add", {"a": 1}, 11, "run_tool")


def test_calls_at_the_same_time_take_the_time_of_one(javascript: Run) -> None:
    result = javascript("Promise.all(Array(20).fill(0).map((_, answer) => tools.demo.slow({seconds: 0.5, answer})))")
    assert result.value == list(range(20))
    assert result.duration_seconds < 5


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("tools.demo.fail()", "ToolError", "no luck"),
        ("tools.demo.add(1)", "TypeError", "tools.demo.add({name: value})"),
        ("tools.demo.add({a: 1}, 2)", "TypeError", "one object of arguments"),
        ("tools.demo.echo({value: [() => 1]})", "ToolError", "value[0]: a function is not a JSON value"),
        ("tools.demo.echo({value: new Map()})", "ToolError", "value: a Map is not a JSON value"),
        ("tools.demo.add.more({})", "TypeError", "'demo:add' is a tool"),
        ("tools.runTool(5)", "TypeError", "a tool id is a string"),
        ("tools.runChain([{tool: 'x'}])", "TypeError", "steps[0]: unknown field 'tool'"),
        ("tools.demo.echo({value: 'x'.repeat(5_000_000)})", "ToolError", "are over the limit"),
    ],
)
def test_calls_that_cannot_be_are_errors_at_their_line(javascript: Run, code: str, kind: str, message: str) -> None:
    error = raised(javascript, f"const x = 1\nawait {code}")
    assert (error.type, error.line) == (kind, 2)
    assert message in error.message


def test_tools_that_were_not_granted_are_refused(javascript: Run) -> None:
    result = javascript("tools.demo.add({a: 1})", allowed_tools=["demo:echo"])
    assert result.outcome is Outcome.RAISED
    assert [call.status for call in result.tool_calls] == ["refused"]


@pytest.mark.own_container
def test_a_snippet_that_goes_on_for_ever_times_out(javascript: Run) -> None:
    result = javascript("console.log('started'); for (;;);", limits={"wall_seconds": 1})
    assert (result.outcome, result.limit, result.stdout) == (Outcome.TIMED_OUT, "wall_seconds", "started\n")


def test_output_is_bounded(javascript: Run) -> None:
    result = javascript("process.stdout.write('x'.repeat(3_000_000))", limits={"output_bytes": 1000})
    assert len(result.stdout) == 1000
    assert result.truncated == frozenset({"stdout"})


@pytest.mark.own_container
@pytest.mark.parametrize(
    "code",
    [
        "const a = []; for (;;) a.push({x: Math.random()})",
        "const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1))",
        "new ArrayBuffer(2 ** 50)",
    ],
)
def test_a_memory_bomb_exceeds_its_limit(javascript: Run, code: str) -> None:
    result = javascript(code, limits={"memory_bytes": 128 << 20})
    assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "memory_bytes"), result.summary()


@pytest.mark.own_container
def test_processor_time_is_bounded(javascript: Run) -> None:
    result = javascript("for (;;);", limits={"cpu_seconds": 1})
    assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "cpu_seconds"), result.summary()
