"""Programs as tools: what reaches the command line, what comes back, and that nothing is left running."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base import JsonValue
from gateway.context import ToolContext
from gateway.errors import (
    InvalidInput,
    InvalidOutput,
    InvalidRequest,
    PayloadTooLarge,
    ToolFailed,
    ToolTimeout,
    ToolUnavailable,
)
from gateway.providers.cli import cli_tool
from gateway.providers.cli.argv import ArgvTemplate
from gateway.runner import Runner
from gateway.tools.model import Tool
from gateway.tools.registry import ToolRegistry

pytestmark = pytest.mark.anyio

PYTHON = sys.executable
SHOW = "import json, sys; print(json.dumps(sys.argv[1:]))"


async def run(tool: Tool, arguments: dict[str, JsonValue] | None = None, timeout_seconds: float | None = None) -> Any:
    registry = ToolRegistry([tool])
    found = registry.tools()[0]
    return await Runner(registry).run(found, arguments or {}, ToolContext(), timeout_seconds=timeout_seconds)


def python(code: str, *items: Any, **options: Any) -> Tool:
    return cli_tool("t", [PYTHON, "-c", code, *items], **options)


def shows(*items: Any, **options: Any) -> Tool:
    return python(SHOW, *items, output="json", **options)


async def eventually(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not holds():  # noqa: ASYNC110 - other processes set no events
            await anyio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


@pytest.mark.parametrize(
    ("items", "arguments", "expected"),
    [
        (["--max={n}"], {"n": "5"}, ["--max=5"]),
        (["a{x}b{y}c"], {"x": "1", "y": "2"}, ["a1b2c"]),
        (["{x}"], {"x": "two words; $(rm) 'q' \"d\" * \n"}, ["two words; $(rm) 'q' \"d\" * \n"]),
        (["{x}"], {"x": "{y} {{"}, ["{y} {{"]),
        (["{x}"], {"x": ""}, [""]),
        (["{{{x}}}"], {"x": "1"}, ["{1}"]),
        (["--by={who?}", "end"], {}, ["end"]),
        (["--by={who?}", "end"], {"who": "me"}, ["--by=me", "end"]),
        ([["-n", "{n?}"], "end"], {}, ["end"]),
        ([["-n", "{n?}"], "end"], {"n": "3"}, ["-n", "3", "end"]),
        (["{files...}"], {"files": ["a b", "c"]}, ["a b", "c"]),
        (["{files...}", "end"], {}, ["end"]),
        (["{all?--all}"], {"all": True}, ["--all"]),
        (["{all?--all}"], {"all": False}, []),
        (["--", "{x}", "{files...}"], {"x": "-rf", "files": ["--x"]}, ["--", "-rf", "--x"]),
        (["x{v}"], {"v": "-5"}, ["x-5"]),
        ([""], {}, [""]),
    ],
)
async def test_arguments_become_the_items_that_the_template_says(
    items: list[Any], arguments: dict[str, JsonValue], expected: list[str]
) -> None:
    assert await run(shows(*items), arguments) == expected


@pytest.mark.parametrize(
    ("items", "arguments"),
    [
        (["{x}"], {"x": "--exec=sh"}),
        (["{x}"], {"x": "-"}),
        (["{x}y"], {"x": "-o"}),
        (["{x?}"], {"x": "-o"}),
        (["{files...}"], {"files": ["ok", "-rf"]}),
        (["{x}", "--"], {"x": "-late"}),
        (["---", "{x}"], {"x": "-o"}),
    ],
)
async def test_a_value_never_becomes_an_option(items: list[Any], arguments: dict[str, JsonValue]) -> None:
    with pytest.raises(InvalidInput, match="must not begin with '-'"):
        await run(shows(*items), arguments)


@given(value=st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_a_value_is_it_stays_in_its_item(value: str) -> None:
    template = ArgvTemplate([PYTHON, "--flag={x}", "end"])
    if "\0" in value:
        with pytest.raises(InvalidInput, match="NUL"):
            template.filled({"x": value})
    else:
        assert template.filled({"x": value})[1:] == [f"--flag={value}", "end"]


@pytest.mark.parametrize("arguments", [{}, {"x": 1}, {"x": None}, {"x": ["a"]}, {"x": "a", "y": "b"}, {"x": "a\0b"}])
async def test_misfits_are_refused(arguments: dict[str, JsonValue]) -> None:
    with pytest.raises(InvalidInput):
        await run(shows("{x}"), arguments)


async def test_a_schema_of_ones_own_may_ask_for_more() -> None:
    schema = {"properties": {"n": {"type": "integer", "minimum": 1}, "deep": {"default": True}}, "required": ["n"]}
    tool = shows("-n{n}", "--deep={deep}", input_schema=schema)
    assert await run(tool, {"n": 3}) == ["-n3", "--deep=true"]
    with pytest.raises(InvalidInput, match="minimum"):
        await run(tool, {"n": 0})
    with pytest.raises(InvalidInput, match="text, a number or a boolean"):
        await run(tool, {"n": 3, "deep": {"a": 1}})


@pytest.mark.parametrize(
    ("argv", "options", "message"),
    [
        ("git log", {}, "no shell"),
        ([], {}, "begins with a program"),
        (["no-such-program"], {}, "no program 'no-such-program'"),
        (["{x}"], {}, "must be fixed"),
        ([PYTHON, "{"], {}, "no placeholder"),
        ([PYTHON, "{not a name}"], {}, "no placeholder"),
        ([PYTHON, "a{x...}"], {}, "stand alone"),
        ([PYTHON, "{x}"], {"input_schema": {"properties": {"x": {}}}}, "x may be missing"),
        ([PYTHON, "{x}"], {"input_schema": {"properties": {}, "required": ["x"]}}, "no property x"),
        ([PYTHON], {"input_schema": {"properties": {"x": {}}}}, "does not use x"),
        ([PYTHON], {"cwd": "here"}, "absolute"),
        ([PYTHON], {"env": {"A=B": "c"}}, "environment"),
        ([PYTHON], {"output": "xml"}, "output must be one of"),
        ([PYTHON], {"stdin": "{x...}"}, "stdin"),
        ([PYTHON], {"max_output_bytes": 0}, "max_output_bytes"),
        ([PYTHON], {"max_processes": 0}, "max_processes"),
    ],
)
def test_mistakes_are_told_when_the_tool_is_made(argv: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        cli_tool("t", argv, **options)


async def test_results_are_text_lines_json_or_all_there_is() -> None:
    code = "import sys; print('é'); print('b'); print('err', file=sys.stderr); sys.exit(3)"
    assert await run(python(code, output="text", ok_codes=[3])) == "é\nb\n"
    assert await run(python(code, output="lines", ok_codes=None)) == ["é", "b"]
    assert await run(python(code, output="process", ok_codes=None)) == {
        "exit_code": 3,
        "stdout": "é\nb\n",
        "stderr": "err",
    }
    assert await run(python("", output="lines")) == []
    assert await run(python("import os; os.write(1, b'\\xff')")) == "\ufffd"
    with pytest.raises(InvalidOutput, match="printed no JSON"):
        await run(python("print('nope')", output="json"))


async def test_failures_say_how_the_program_ended() -> None:
    with pytest.raises(ToolFailed, match="exit code 3: no such row") as caught:
        await run(python("import sys; sys.exit(print('no such row', file=sys.stderr) or 3)"))
    assert caught.value.details == {"exit_code": 3, "stderr": "no such row"}
    assert not caught.value.retryable
    with pytest.raises(ToolFailed, match="SIGSEGV"):
        await run(python("import os; os.kill(os.getpid(), 11)", ok_codes=None))
    with pytest.raises(ToolUnavailable, match="exit code 75") as later:
        await run(python("raise SystemExit(75)", retry_codes=[75]))
    assert later.value.retryable


async def test_stderr_in_an_error_is_bounded_and_its_end_is_kept() -> None:
    with pytest.raises(ToolFailed, match="the reason") as caught:
        await run(python("import sys; sys.stderr.write('x' * 1_000_000 + 'the reason'); sys.exit(1)"))
    assert len(caught.value.details["stderr"]) == 4000
    assert len(caught.value.message) < 1000


async def test_output_is_bounded() -> None:
    assert await run(python("print('x' * 999)", max_output_bytes=1000)) == "x" * 999 + "\n"
    with pytest.raises(PayloadTooLarge, match="output of program"):
        await run(python("print('x' * 1000)", max_output_bytes=1000))
    with pytest.raises(PayloadTooLarge):  # one that never stops is stopped
        await run(python("while True: print('x' * 10000)", max_output_bytes=100_000))


async def test_the_environment_is_what_was_given_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "only for the host")
    values = iter(["first", "second"])
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    tool = python(code, output="json", env={"A": "1", "TOKEN": lambda: next(values)})
    assert await run(tool) == {"A": "1", "TOKEN": "first", "LC_CTYPE": "C.UTF-8"}  # Python adds LC_CTYPE itself
    assert (await run(tool))["TOKEN"] == "second"


async def test_standard_input_is_a_template_or_nothing(tmp_path: Path) -> None:
    code = "import sys; print(repr(sys.stdin.read()))"
    assert await run(python(code)) == "''\n"
    assert await run(python(code, stdin="-> {text}"), {"text": "é\n"}) == "'-> é\\n'\n"
    schema = {"properties": {"rows": {"type": "array"}}, "required": ["rows"]}
    whole = await run(python("import sys; print(sys.stdin.read())", stdin="{rows}", input_schema=schema), {"rows": [1]})
    assert json.loads(whole) == [1]
    big = "x" * 900_000
    assert await run(python("import sys; print(len(sys.stdin.read()))", stdin="{text}"), {"text": big}) == "900000\n"
    assert await run(python("pass", stdin="{text}"), {"text": big}) == ""  # one that does not read is not wrong
    assert await run(python("import os; print(os.getcwd())", cwd=tmp_path)) == f"{tmp_path}\n"


async def test_arguments_that_no_command_line_can_hold_are_the_callers_mistake() -> None:
    with pytest.raises(InvalidInput, match="too long for the command line"):
        await run(shows("{x}"), {"x": "x" * 500_000})


async def test_a_program_that_has_gone_is_told(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    tool = cli_tool("t", [str(program)])
    assert await run(tool) == "hello\n"
    await tool.provider.health()
    program.unlink()
    with pytest.raises(ToolUnavailable, match="may not be run"):
        await tool.provider.health()
    with pytest.raises(ToolFailed, match="cannot be started: No such file"):
        await run(tool)


FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
apart = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
ignores = subprocess.Popen(["sh", "-c", "trap '' TERM INT HUP; sleep 1000 & wait; sleep 1000"])
with open(sys.argv[1] + ".new", "w") as file:
    print(os.getpid(), child.pid, apart.pid, ignores.pid, file=file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(float(sys.argv[2]))
"""


def family(path: Path, seconds: str) -> Tool:
    return python(FAMILY, str(path), seconds)


async def test_a_timeout_ends_the_whole_tree(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    with pytest.raises(ToolTimeout):
        await run(family(path, "1000"), timeout_seconds=3)
    pids = [int(pid) for pid in path.read_text().split()]
    assert len(pids) == 4
    assert not any(map(is_running, pids))


async def test_cancellation_ends_the_whole_tree(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, family(path, "1000"))
        await eventually(path.exists)
        tasks.cancel_scope.cancel()
    assert not any(is_running(int(pid)) for pid in path.read_text().split())


async def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    path, started = tmp_path / "pids", time.monotonic()
    assert await run(family(path, "0")) == ""
    assert time.monotonic() - started < 20  # the sleepers hold its output open for 1000 s
    _, child, apart, ignores = (int(pid) for pid in path.read_text().split())
    await eventually(lambda: not is_running(child) and not is_running(ignores))
    os.kill(apart, signal.SIGKILL)  # it began a session of its own, and its parent had ended: the one way out


async def test_processes_are_bounded(tmp_path: Path) -> None:
    code = """
import os, sys, time
mine = os.path.join(sys.argv[1], str(os.getpid()))
open(mine, "w").close()
print(len(os.listdir(sys.argv[1])))
time.sleep(0.05)
os.unlink(mine)
"""
    tool = python(code, str(tmp_path), max_processes=2)
    most = []

    async def one() -> None:
        most.append(int(await tool.provider.call({}, ToolContext())))

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(one)
    assert len(most) == 6
    assert max(most) <= 2
