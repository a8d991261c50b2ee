"""Bash snippets: their value, output, errors and limits, and the tools by the command `tool`."""

from typing import Any

import pytest

from sandbox import Artifact, Outcome
from tests.contract.conftest import Run

pytestmark = pytest.mark.one_container


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
    ["tool", "tool --nothing", "tool demo:add 5", "tool demo:add a:=x", "tool demo:add a=1 a=2", "tool demo:echo '{x'"],
)
def test_a_command_line_without_sense_exits_with_2_and_shows_the_usage(bash: Run, command: str) -> None:
    result = bash(f"{command}; echo $?")
    assert (result.stdout, result.tool_calls) == ("2\n", ())
    assert "usage: tool [-r] NAMESPACE:NAME" in result.stderr


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
