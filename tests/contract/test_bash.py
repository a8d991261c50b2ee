"""Bash snippets: their value, output, errors and limits, and the tools by the command `tool`."""

import json
from typing import Any

import pytest

from sandbox import Artifact, Exec, Outcome
from tests.contract.conftest import Run

pytestmark = [pytest.mark.one_container, pytest.mark.usefixtures("streaming_tools")]


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("result 5", 5),
        ("result '{\"a\": [1, null, true, 1.5]}'", {"a": [1, None, True, 1.5]}),
        ("result 'plain text'", "plain text"),
        ("result '\"a JSON text\"'", "a JSON text"),
        ("result -r 5", "5"),
        ("result 007", "007"),
        ("result NaN", "NaN"),
        ("result ''", ""),
        ("result ä😀", "ä😀"),
        ("echo '[1, 2]' | result", [1, 2]),
        ("printf 'two\\nlines\\n' | result -", "two\nlines"),
        ("echo 5 | result -r", "5"),
        ("result 1; result 2", 2),
        ("result 1; (result 3)", 3),
        ("result 9007199254740993", 9007199254740993),
        ("echo 5", None),
        ("", None),
        ("# only a comment", None),
        ("  x=4\n  result $x", 4),
        ("seq 1 100000 | result -r | cat; result 6", 6),
    ],
)
def test_the_value_is_what_the_snippet_hands_over(bash: Run, code: str, value: Any) -> None:
    result = bash(code)
    assert (result.outcome, result.value, result.value_is_repr) == (Outcome.COMPLETED, value, False), result.summary()


def test_a_value_that_is_too_large_exceeds_a_limit(bash: Run) -> None:
    result = bash("head -c 5000000 /dev/zero | tr '\\0' x | result")
    assert (result.outcome, result.limit, result.value) == (Outcome.LIMIT_EXCEEDED, "value_bytes", None)


def test_one_value_is_taken_and_no_more(bash: Run) -> None:
    result = bash("result one two")
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 2)
    assert "it takes one value, not 2" in result.stderr


def test_both_streams_arrive_as_written(bash: Run) -> None:
    result = bash("echo out; echo err >&2; printf 'a\\xff\\n'; /bin/echo from a process")
    assert (result.stdout, result.stderr) == ("out\na\ufffd\nfrom a process\n", "err\n")


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("exit 3", 3),
        ("false", 1),
        ("nothing_like_it", 127),
        ("set -e\nfalse\necho not reached", 1),
        ("result 1; exit 4", 4),
    ],
)
def test_an_exit_status_is_how_it_exited(bash: Run, code: str, exit_code: int) -> None:
    result = bash(code)
    assert (result.outcome, result.exit_code, result.stdout) == (Outcome.EXITED, exit_code, "")
    assert result.error is None


@pytest.mark.parametrize("code", ["exit 0", "true", "false || true", "(exit 3)\ntrue"])
def test_status_zero_is_completion(bash: Run, code: str) -> None:
    assert bash(code).outcome is Outcome.COMPLETED


@pytest.mark.parametrize(
    ("code", "line", "message"),
    [
        ("echo started\nif true\nfi", 3, "syntax error near unexpected token `fi'"),
        ("echo 'open", 1, "unexpected EOF while looking for matching `''"),
        ("for", 1, "syntax error near unexpected token"),
    ],
)
def test_code_with_a_syntax_error_does_not_begin_to_run(bash: Run, code: str, line: int, message: str) -> None:
    result = bash(code)
    assert (result.outcome, result.stdout, result.stderr) == (Outcome.RAISED, "", "")
    assert result.error is not None
    assert (result.error.type, result.error.line) == ("SyntaxError", line)
    assert result.error.message.startswith(message)
    assert "/proc" not in result.error.traceback


def test_patterns_that_an_option_allows_are_no_syntax_error(bash: Run) -> None:
    assert bash("shopt -s extglob\ntouch a b\necho !(a)").stdout == "b\n"


def test_messages_of_the_shell_name_the_line(bash: Run) -> None:
    assert bash("true\nnothing_like_it").stderr == "snippet: line 2: nothing_like_it: command not found\n"


def test_it_runs_in_its_folder_with_its_environment_and_without_input(bash: Run) -> None:
    code = "cat in.txt; echo new > out.txt; [ $PWD -ef $HOME ] && echo $REGION $0; cat; echo ${#WORD}"
    result = bash(code, files={"in.txt": "given\n"}, env={"REGION": "eu", "WORD": "äö"})
    assert (result.outcome, result.stdout) == (Outcome.COMPLETED, "given\neu snippet\n2\n")
    assert result.artifacts == (Artifact("out.txt", b"new\n"),)


def test_nothing_of_the_hosts_environment_is_there(bash: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "leaked")
    assert "leaked" not in bash("env").stdout


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("tool demo:add a:=1 b:=2", "3\n"),
        ("tool demo:add '{\"a\": 5}'", "15\n"),
        ("echo '{\"a\": 6}' | tool demo:add -", "16\n"),
        ("tool demo_plain", '"plain"\n'),
        ("tool -r demo_plain", "plain\n"),
        ("tool demo:echo value=1", '"1"\n'),
        ("tool demo:echo value:=1", "1\n"),
        ("tool demo:echo value='a=b:=c'", '"a=b:=c"\n'),
        ("tool demo:echo value=", '""\n'),
        ('tool demo:echo value:=\'{"ä": [null, "😀"]}\'', '{"ä": [null, "😀"]}\n'),
        ("tool demo:echo value:=9007199254740993", "9007199254740993\n"),
        ("tool -r demo:echo value:=[1]", "[1]\n"),
        ("echo demo_plain | xargs tool -r", "plain\n"),
        ("sum=$(tool demo:add a:=1)\ntool demo:add a:=$sum b:=1", "12\n"),
        ("tool demo:bulky size:=3000000 | wc -c", "3000003\n"),
    ],
)
def test_a_tool_prints_its_result(bash: Run, code: str, stdout: str) -> None:
    result = bash(code)
    assert (result.outcome, result.stdout, result.stderr) == (Outcome.COMPLETED, stdout, ""), result.summary()


def test_a_call_is_recorded_like_any_other(bash: Run) -> None:
    (call,) = bash("tool demo:add a:=1").tool_calls
    assert (call.tool_id, call.arguments, call.result, call.via) == ("demo:add", {"a": 1}, 11, "run_tool")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("tool demo:fail", "tool_failed"),
        ("tool demo:nothing", "tool_not_found"),
        ("tool demo:add a=x", "invalid_input"),
        ("tool demo:hang", "timeout"),
    ],
)
def test_a_call_that_fails_exits_with_1_and_says_why(bash: Run, command: str, code: str) -> None:
    result = bash(f"{command}; echo $?")
    assert result.stdout == "1\n"
    assert result.stderr.startswith("tool: ")
    assert result.stderr.endswith(f"({code})\n")


@pytest.mark.parametrize(
    "command",
    [
        "tool",
        "tool --nothing",
        "tool demo:add 5",
        "tool demo:add a:=x",
        "tool demo:add a=1 a=2",
        "tool demo:echo '{x'",
        "tool --stream",
        "tool --timeout",
        "tool --timeout soon demo_plain",
        "tool --timeout true demo_plain",
        "tool --timeout 1 --timeout 2 demo_plain",
        "tool --stream=1 demo_plain",
        "tool --stream -r demo_plain",
        "tool demo_plain --namespace demo",
        "tool --max-concurrent 1 demo_plain",
        "tool --chain '[]' --max-concurrent 1",
        "tool --chain '[]' --parallel '[]'",
        "tool --chain '[]' demo_plain",
        "tool --chain '[5]'",
        "tool --chain '{}'",
        'tool --chain \'[{"tool_id": "demo_plain", "timeout": 1}]\'',
        'tool --parallel \'[{"tool_id": "demo_plain", "mapping": {}}]\'',
        "tool --parallel '[]' --max-concurrent 1.5",
        "tool --list --limit 3",
        "tool --list -r",
        "tool --search x --namespace",
        "tool --describe demo:add --tag talk",
    ],
)
def test_a_command_line_without_sense_exits_with_2_and_shows_the_usage(bash: Run, command: str) -> None:
    result = bash(f"{command}; echo $?")
    assert (result.stdout, result.tool_calls) == ("2\n", ())
    assert "usage: tool [-r | --stream] [--timeout SECONDS] NAMESPACE:NAME" in result.stderr


def test_tools_that_were_not_granted_are_refused(bash: Run) -> None:
    result = bash("tool demo:add a:=1", allowed_tools=["demo:echo"])
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 1)
    assert [call.status for call in result.tool_calls] == ["refused"]


def test_tools_are_found_from_inside(bash: Run) -> None:
    result = bash("tool --search add numbers; tool --describe demo:add; tool --examples demo:add; tool --namespaces")
    found, described, examples, namespaces = result.stdout.splitlines()
    assert '"demo:add"' in found
    assert "whole numbers" in described
    assert "Two numbers" in examples
    assert '"demo"' in namespaces


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_events_are_printed_as_json_lines_with_done_at_the_end(bash: Run) -> None:
    result = bash("tool --stream stream:count to:=3")
    events = lines(result.stdout)
    assert (result.outcome, result.stderr) == (Outcome.COMPLETED, "")
    assert [event["data"] for event in events if event["kind"] == "chunk"] == [0, 1, 2]
    assert {"message": "at 0", "progress": 0, "total": 3} in [event["data"] for event in events]
    assert events[-1] == {"kind": "done", "data": None, "error": None}
    assert [(call.tool_id, call.via, call.result) for call in result.tool_calls] == [
        ("stream:count", "stream_tool", [0, 1, 2])
    ]


def test_events_are_printed_as_they_come(bash: Run) -> None:
    result = bash('tool --stream stream:hesitate | { read -r event; echo "$event"; tool demo:add a:=1; kill $$; }')
    assert (lines(result.stdout)[0]["data"], lines(result.stdout)[1]) == ("well", 11)


@pytest.mark.parametrize(
    ("command", "chunks", "code"),
    [
        ("tool --stream stream:count to:=9 fail_at:=2", [0, 1], "tool_failed"),
        ("tool --stream stream:nothing", [], "tool_not_found"),
        ("tool --stream stream:count to=many", [], "invalid_input"),
        ("tool --stream --timeout 0.1 demo:wait", [], "timeout"),
        ('echo \'{"to": "many"}\' | tool --stream stream:count -', [], "invalid_input"),
    ],
)
def test_a_stream_that_fails_ends_with_an_error_and_exits_with_1(
    bash: Run, command: str, chunks: list[int], code: str
) -> None:
    result = bash(f"{command}; echo $?")
    *events, status = lines(result.stdout)
    assert [event["data"] for event in events if event["kind"] == "chunk"] == chunks
    assert (events[-1]["kind"], events[-1]["error"]["code"], status) == ("error", code, 1)
    assert result.stderr.endswith(f"({code})\n")
    assert len(result.tool_calls) == 1


@pytest.mark.parametrize(
    "command",
    [
        "tool --stream stream:endless | head -c 1 >/dev/null",
        "tool --stream stream:hesitate | head -1 >/dev/null",
        "tool --stream demo:wait | true",
        "timeout 0.5 tool --stream stream:hesitate >/dev/null",
        "tool --stream stream:hesitate >/dev/null & sleep 0.5; kill %1; wait",
    ],
)
def test_a_stream_is_closed_when_its_reader_goes_away(bash: Run, command: str) -> None:
    result = bash(f"{command}; tool demo:add a:=1")
    assert (result.outcome, result.stdout) == (Outcome.COMPLETED, "11\n"), result.summary()
    assert "rror" not in result.stderr
    assert [call.status for call in result.tool_calls] == ["cancelled", "completed"]


def test_any_tool_can_be_streamed_and_a_stream_can_be_called(bash: Run) -> None:
    result = bash("tool demo:add a:=1 --stream; tool stream:spell text=abc")
    assert lines(result.stdout) == [{"kind": "done", "data": 11, "error": None}, ["a", "b", "c"]]


def test_a_stream_counts_as_one_call(bash: Run) -> None:
    code = "for n in 1 2 3; do tool --stream stream:count to:=50 | tail -1; done"
    result = bash(code, limits={"tool_calls": 2})
    events = lines(result.stdout)
    assert [event["kind"] for event in events] == ["done", "done", "error"]
    assert events[2]["error"]["code"] == "budget_exceeded"


STEPS = json.dumps(
    [
        {"tool_id": "demo:echo", "arguments": {"value": {"n": [5, 7]}}},
        {"tool_id": "demo:add", "mapping": {"a": "/previous/n/0"}, "arguments": {"b": 1}, "timeout_seconds": 5},
        {"tool_id": "demo:add", "mapping": {"a": "/previous", "b": "/steps/0/n/1"}},
        {"tool_id": "demo:double", "use_previous": True},
    ]
)


@pytest.mark.parametrize("command", [f"tool --stream --chain '{STEPS}'", f"echo '{STEPS}' | tool --chain - --stream"])
def test_a_streamed_chain_prints_each_step_as_it_ends(bash: Run, command: str) -> None:
    result = bash(command)
    events = lines(result.stdout)
    assert (result.outcome, result.stderr) == (Outcome.COMPLETED, "")
    assert [event["data"]["value"] for event in events if event["kind"] == "chunk"] == [{"n": [5, 7]}, 6, 13, 26]
    assert [event["data"]["progress"] for event in events if event["kind"] == "progress"] == [1, 2, 3, 4]
    assert events[-1] == {"kind": "done", "data": 26, "error": None}


def test_a_streamed_chain_that_is_stopped_exits_with_1(bash: Run) -> None:
    steps = '[{"tool_id": "demo_plain"}, {"tool_id": "demo:fail"}, {"tool_id": "demo_plain"}]'
    result = bash(f"tool --stream --chain '{steps}'; echo $?; tool --stream --chain '[]'; echo $?")
    *events, stopped, empty, status = lines(result.stdout)
    assert [event["data"]["ok"] for event in events if event["kind"] == "chunk"] == [True, False, False]
    assert (stopped, empty["kind"], status) == (1, "done", 0)
    assert result.stderr == "tool: steps[1] demo:fail: ValueError: no luck (tool_failed)\n"


@pytest.mark.parametrize("command", [f"tool --chain '{STEPS}'", f"echo '{STEPS}' | tool --chain - --timeout 9"])
def test_a_chain_prints_its_value_and_its_steps(bash: Run, command: str) -> None:
    result = bash(command)
    (printed,) = lines(result.stdout)
    assert (result.outcome, printed["value"]) == (Outcome.COMPLETED, 26)
    assert [step["value"] for step in printed["steps"]] == [{"n": [5, 7]}, 6, 13, 26]
    assert {call.via for call in result.tool_calls} == {"run_chain"}


FAIL, LENIENT, PLAIN = (
    '{"tool_id": "demo:fail"}',
    '{"tool_id": "demo:fail", "stop_on_error": false}',
    '{"tool_id": "demo_plain"}',
)
SLOW = '{"tool_id": "demo:wait", "stop_on_error": false}'


@pytest.mark.parametrize(
    ("command", "status", "error"),
    [
        (f"tool --chain '[{PLAIN}, {FAIL}, {PLAIN}]'", 1, "steps[1] demo:fail: ValueError: no luck (tool_failed)"),
        (f"tool --chain '[{PLAIN}, {FAIL}]'", 1, "steps[1] demo:fail: ValueError: no luck (tool_failed)"),
        (f"tool --chain '[{LENIENT}, {PLAIN}]'", 0, ""),
        (f"tool --chain '[{PLAIN}, {LENIENT}]'", 0, ""),
        (f"tool --chain '[{LENIENT}, {FAIL}, {PLAIN}]'", 1, "steps[1] demo:fail: ValueError: no luck (tool_failed)"),
        (f"tool --chain '[{SLOW}, {PLAIN}]' --timeout=0.2", 1, "(timeout)"),
        ("tool --chain '[]'", 0, ""),
    ],
)
def test_a_chain_that_was_stopped_exits_with_1_and_says_where(bash: Run, command: str, status: int, error: str) -> None:
    result = bash(f"{command}; echo $?")
    printed, code = lines(result.stdout)
    assert code == status, result.summary()
    assert result.stderr.startswith("tool: steps[") if status else result.stderr == ""
    assert result.stderr.endswith(f"{error}\n" if error else "")
    assert set(printed) == {"value", "steps"}


def test_a_batch_prints_its_outcomes_and_exits_with_1_when_one_failed(bash: Run) -> None:
    result = bash(
        f'tool --parallel \'[{PLAIN}, {FAIL}, {{"tool_id": "demo:wait", "timeout_seconds": 0.1}}]\'; echo $?\n'
        f"echo '[{PLAIN}, {PLAIN}]' | tool --parallel - --timeout 5 --max-concurrent 1; echo $?"
    )
    mixed, failed, well, passed = lines(result.stdout)
    assert [outcome["ok"] for outcome in mixed] == [True, False, False]
    assert [outcome["value"] for outcome in well] == ["plain", "plain"]
    assert (failed, passed) == (1, 0)
    assert [line.partition(":")[2].split()[0] for line in result.stderr.splitlines()] == ["calls[1]", "calls[2]"]
    assert {call.via for call in result.tool_calls} == {"run_parallel"}


def test_so_many_calls_of_a_batch_are_under_way_at_once(bash: Run) -> None:
    calls = json.dumps([{"tool_id": "demo:slow", "arguments": {"seconds": 0.4}}] * 3)
    result = bash(
        f"start=$(date +%s%N); tool --parallel '{calls}' --max-concurrent 1 >/dev/null; echo $(($(date +%s%N) - start))"
    )
    assert int(result.stdout) >= 1_200_000_000


def test_a_call_has_a_bound_of_its_own(bash: Run) -> None:
    result = bash("tool demo:wait --timeout 0.1; echo $?; tool --timeout=5 demo_plain -r")
    assert result.stdout == "1\nplain\n"
    assert result.stderr.endswith("(timeout)\n")


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("tool --list --namespace stream", ["stream:count", "stream:endless", "stream:hesitate", "stream:spell"]),
        ("tool --list --tag talk", ["stream:hesitate", "stream:spell"]),
        ("tool --list --tag talk --tag nothing", []),
        ("tool --list letter --tag talk", ["stream:spell"]),
        ("tool --search count --namespace stream", ["stream:count"]),
        ("tool --search --tag talk --limit 1", ["stream:hesitate"]),
        ("tool --search --namespace=demo -- count", []),
    ],
)
def test_tools_are_filtered_by_words_namespace_and_tags(bash: Run, command: str, found: list[str]) -> None:
    assert [tool["id"] for tool in lines(bash(command).stdout)[0]] == found


def test_a_list_has_all_tools_of_however_many_pages(bash: Run, execs: tuple[Exec, Exec]) -> None:
    ids = [f"many:tool_{number:03}" for number in range(230)]
    for exec in execs:
        for tool_id in ids:
            exec.tool(namespace="many", name=tool_id.partition(":")[2])(nothing)
    try:
        (listed,) = lines(bash("tool --list --namespace many").stdout)
    finally:
        for exec in execs:
            for tool_id in ids:
                exec.unregister(tool_id)
    assert [tool["id"] for tool in listed] == ids


def nothing() -> None:
    """One of many."""


def test_what_is_too_long_for_one_command_is_an_error(bash: Run) -> None:
    result = bash("head -c 9000000 /dev/zero | tr '\\0' x | tool demo:echo -; echo $?")
    assert (result.stdout, result.tool_calls) == ("1\n", ())
    assert result.stderr == "a command line and its input are at most 8388608 bytes\n"


def test_calls_at_the_same_time_do_not_mix(bash: Run) -> None:
    result = bash("for n in 1 2 3 4 5 6 7 8; do tool demo:echo value:=$n > $n & done; wait; cat 1 2 3 4 5 6 7 8")
    assert result.stdout == "1\n2\n3\n4\n5\n6\n7\n8\n"


def test_a_command_that_is_killed_leaves_the_rest_alone(bash: Run) -> None:
    result = bash("timeout 0.3 tool demo:slow seconds:=5; tool demo:add a:=1")
    assert (result.outcome, result.stdout) == (Outcome.COMPLETED, "11\n")


@pytest.mark.own_container
def test_a_snippet_that_goes_on_for_ever_times_out(bash: Run) -> None:
    result = bash("echo started; while :; do :; done", limits={"wall_seconds": 1})
    assert (result.outcome, result.limit, result.stdout) == (Outcome.TIMED_OUT, "wall_seconds", "started\n")


def test_output_is_bounded(bash: Run) -> None:
    result = bash("yes | head -c 3000000", limits={"output_bytes": 1000})
    assert len(result.stdout) == 1000
    assert result.truncated == frozenset({"stdout"})


@pytest.mark.own_container
@pytest.mark.parametrize("name", ["KILL", "USR1", "SEGV"])
def test_a_signal_to_itself_is_a_kill(bash: Run, name: str) -> None:
    result = bash(f"echo before; kill -{name} $$; sleep 5")
    assert (result.outcome, result.stdout) == (Outcome.KILLED, "before\n")
    assert result.error is not None
    assert f"SIG{name}" in result.error.message


@pytest.mark.own_container
def test_the_exit_status_of_a_killed_child_is_no_kill(bash: Run) -> None:
    result = bash("(kill -KILL $BASHPID)")
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 137)


@pytest.mark.own_container
def test_what_runs_on_in_the_background_does_not_hold_the_snippet_up(bash: Run) -> None:
    result = bash("sleep 60 & (sleep 60; echo late) & result done")
    assert (result.outcome, result.value) == (Outcome.COMPLETED, "done")
    assert result.duration_seconds < 15
