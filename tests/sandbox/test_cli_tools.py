"""`toolexec tools` as its users see it."""

import ast
import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from sandbox._exit import ExitCode
from tests.sandbox.command import process, toolexec

MODULE = '''
from collections.abc import Iterator

def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b

def spell(text: str) -> Iterator[str]:
    """Letter by letter."""
    for letter in text:
        if letter == "!":
            raise ValueError("no letter")
        yield letter

def fail() -> None:
    """Never works."""
    raise LookupError("no row")

ALL = {"math": {"add": add}, "spell": spell, "fail": fail}

from sandbox import Tool, ToolId

class Sick:
    async def call(self, arguments, context):
        return None
    async def health(self):
        raise OSError("it is ill\x1b[2J")
    async def aclose(self):
        pass

SICK = Tool(id=ToolId("sick"), provider=Sick(), input_schema={"type": "object"})
'''

Tools: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    (tmp_path / "my_tools.py").write_text(MODULE)
    (tmp_path / "good.py").write_text("tools.math.add(a=1)")
    (tmp_path / "bad.py").write_text("x = 1\ntools.math.add(a='one')")
    return partial(_tools, tmp_path)


def _tools(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return toolexec("tools", *args, "--tools", "my_tools:ALL", cwd=folder)


@pytest.mark.parametrize(
    "args",
    [
        ("list",),
        ("search", "number"),
        ("show", "math:add"),
        ("call", "math:add", '{"a": "x"}'),
        ("stubs",),
        ("check", "bad.py"),
    ],
    ids=lambda args: args[0],
)
def test_a_process_of_its_own_says_the_same(tools: Tools, tmp_path: Path, args: tuple[str, ...]) -> None:
    here, apart = tools(*args), process("tools", *args, "--tools", "my_tools:ALL", cwd=tmp_path)
    assert (apart.returncode, apart.stdout, apart.stderr) == (here.returncode, here.stdout, here.stderr)


def test_tools_are_listed_and_found(tools: Tools) -> None:
    assert tools("list").stdout == "fail\tNever works.\nmath:add\tAdd two numbers.\nspell\tLetter by letter.\n"
    assert tools("list", "--namespace", "math").stdout == "math:add\tAdd two numbers.\n"
    found = json.loads(tools("search", "number", "--json").stdout)
    assert [tool["id"] for tool in found] == ["math:add"]
    assert tools("search", "zebra").stdout == ""


def test_one_tool_is_shown_at_each_level(tools: Tools) -> None:
    summary = json.loads(tools("show", "math:add", "--level", "summary").stdout)
    assert summary["signature"] == "tools.math.add(a: int, b: int = 2) -> int"
    assert "input_schema" not in summary
    assert "input_schema" in json.loads(tools("show", "math:add").stdout)
    assert tools("show", "math:add", "--level", "all").returncode == ExitCode.USAGE


def test_a_call_prints_its_result_and_a_failure_its_reason(tools: Tools) -> None:
    assert tools("call", "math:add", '{"a": 3}').stdout == "5\n"
    for args, code, says in (
        (("math:ad",), ExitCode.USAGE, "did you mean math:add?"),
        (("math:add", '{"a": "x"}'), ExitCode.USAGE, "is not of type"),
        (("math:add", "[1]"), ExitCode.USAGE, "must be a JSON object"),
        (("math:add", "{"), ExitCode.USAGE, "no JSON"),
        (("fail",), ExitCode.RAISED, "LookupError: no row"),
    ):
        done = tools("call", *args)
        assert (done.returncode, done.stdout) == (code, "")
        assert says in done.stderr


def test_a_stream_prints_each_event_on_a_line(tools: Tools) -> None:
    done = tools("call", "spell", '{"text": "ab"}', "--stream")
    assert [json.loads(line)["data"] for line in done.stdout.splitlines()] == ["a", "b", None]
    assert done.returncode == ExitCode.COMPLETED
    failed = tools("call", "spell", '{"text": "a!"}', "--stream")
    assert json.loads(failed.stdout.splitlines()[-1])["error"]["message"] == "ValueError: no letter"
    assert failed.returncode == ExitCode.RAISED


def test_stubs_are_python_and_snippets_are_checked_against_them(tools: Tools) -> None:
    stubs = tools("stubs").stdout
    ast.parse(stubs)
    assert "def add(*, a: int, b: int = 2) -> int:" in stubs
    assert (tools("check", "good.py").returncode, tools("check", "good.py").stdout) == (ExitCode.COMPLETED, "")
    bad = tools("check", "bad.py")
    assert bad.returncode == ExitCode.RAISED
    assert bad.stdout.startswith("bad.py:2:16: ")


def test_a_snippet_is_checked_before_it_runs(tmp_path: Path) -> None:
    (tmp_path / "my_tools.py").write_text(MODULE)
    code = "print('ran')\ntools.math.add(a='one')"
    done = toolexec("run", "-", "--check", "--tools", "my_tools:ALL", code=code, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (ExitCode.RAISED, "")
    assert "TypeCheckError" in done.stderr
    unchecked = toolexec("run", "-", "--tools", "my_tools:ALL", code=code, cwd=tmp_path)
    assert unchecked.stdout == "ran\n"


def test_tools_may_be_described_in_a_file(tmp_path: Path) -> None:
    described = {
        "id": "text:upper",
        "description": "In capitals.",
        "provider": {"type": "cli", "argv": ["tr", "a-z", "A-Z"], "stdin": "{text}"},
        "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    }
    (tmp_path / "tools.json").write_text(json.dumps({"tools": [described]}))
    done = toolexec("tools", "call", "text:upper", '{"text": "abc"}', "--tools", "tools.json", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ('"ABC"\n', "")
    snippet = toolexec("run", "-", "--tools", "tools.json", code="tools.text.upper(text='x')", cwd=tmp_path)
    assert 'value: "X"' in snippet.stderr
    (tmp_path / "tools.toml").write_text("tools = 1")
    for name, says in (("tools.toml", "tools"), ("missing.toml", "cannot be read")):
        wrong = toolexec("tools", "list", "--tools", name, cwd=tmp_path)
        assert wrong.returncode == ExitCode.USAGE
        assert says in wrong.stderr


def test_health_is_told_of_each_tool_and_of_all(tools: Tools, tmp_path: Path) -> None:
    done = process("tools", "health", "--tools", "my_tools:ALL", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (ExitCode.COMPLETED, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["fail", "healthy"],
        ["math:add", "healthy"],
        ["spell", "healthy"],
        ["3", "tools:"],
    ]
    found = json.loads(tools("health", "--json").stdout)
    assert (found["status"], found["total"], found["healthy"], found["disabled"]) == ("healthy", 3, 3, 0)
    assert [one["tool_id"] for one in found["tools"]] == ["fail", "math:add", "spell"]


def test_a_tool_that_is_unhealthy_is_exit_code_1(tools: Tools) -> None:
    done = tools("health", "--tools", "my_tools:SICK")
    assert done.returncode == ExitCode.RAISED
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("sick")]
    assert "unhealthy" in line
    assert line.endswith(r"OSError: it is ill\x1b[2J")
    assert done.stdout.splitlines()[-1] == "4 tools: unhealthy"
