"""The command as its users see it, with pipes or a terminal."""

import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path

import pytest

from gateway.errors import InvalidRequest, SandboxError
from sandbox import Artifact, Limits
from sandbox._exit import ExitCode
from sandbox._options import empty_folder, parse_limits, tools_at, write_artifacts
from sandbox._render import visible
from sandbox.cli import EXIT_CODES
from tests.sandbox.command import COMMAND, environment, process, toolexec

pytestmark = pytest.mark.usefixtures("wasm")

TOOLS = '''
import asyncio
from sandbox import Tool
from gateway.providers.function import function_tool

async def slow(n: int) -> int:
    """Take a while."""
    await asyncio.sleep(0.02)
    return n

def add(a: int, b: int) -> int:
    return a + b

LIST = [slow, function_tool(add, name="plus")]
NAMED = {"sum": add, "work": {"slow": slow}}
NUMBER = 7
raising = None
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_tools.py").write_text(TOOLS)
    (tmp_path / "broken.py").write_text("1 / 0")
    return tmp_path


def test_output_goes_where_the_snippet_sent_it_and_the_value_to_stderr() -> None:
    done = process("run", "-", code="import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7")
    assert done.returncode == 0
    assert done.stdout == "out\n"
    assert re.search(r"^err\nvalue: 42\n", done.stderr, re.MULTILINE)  # after a word to the patient, on a busy machine
    assert re.search(r"outcome: completed; in \d+\.\d ms on backend wasm, profile standard", done.stderr)


def test_output_arrives_while_the_snippet_runs() -> None:
    argv = ["env", "--default-signal=INT", COMMAND, "run", "-", "--limit", "wall_seconds=20"]  # a shell may ignore it
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"print('first', flush=True)\nwhile True: pass")
        process.stdin.close()
        assert process.stdout.readline() == b"first\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == ExitCode.INTERRUPTED


def test_nothing_but_text_when_piped(folder: Path) -> None:
    code = "import asyncio\nawait asyncio.gather(*(tools.aio.work.slow(n=n) for n in range(3)))"
    done = process("run", "-", "--tools", "my_tools:NAMED", code=code, cwd=folder)
    said = done.stdout + done.stderr + process("run", "--help").stdout + process("doctor").stdout
    assert done.stderr.count("work:slow") == 3
    assert "\x1b" not in said
    assert said.isascii()


def test_on_a_terminal_it_is_coloured_and_the_guests_escapes_are_shown() -> None:
    status, said = in_terminal("print('\\x1b]0;owned\\x07 \\x1b[2J', end='')\n1 / 0")
    assert status == ExitCode.RAISED
    assert "\\x1b]0;owned\\x07 \\x1b[2J" in said
    assert "\x1b]0;" not in said
    assert "\x1b[2J" not in said
    assert re.search(r"\x1b\[\d+mraised: ZeroDivisionError", said)


def in_terminal(code: str) -> tuple[int, str]:
    main, other = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "run", "-"], stdin=subprocess.PIPE, stdout=other, stderr=other, env=environment()
    )
    os.close(other)
    assert process.stdin is not None
    process.stdin.write(code.encode())
    process.stdin.close()
    said = b""
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # how Linux says that the other end was closed
            break
        if not chunk:
            break
        said += chunk
    os.close(main)
    return process.wait(timeout=20), said.decode()


def test_json_is_the_whole_result_and_nothing_else(folder: Path) -> None:
    code = "print('hi')\nopen('left.bin', 'wb').write(b'\\xff')\ntools.sum(a=1, b=2)"
    done = process("run", "-", "--tools", "my_tools:NAMED", "--json", code=code, cwd=folder)
    result = json.loads(done.stdout)
    assert done.stderr == ""
    assert (result["outcome"], result["value"], result["stdout"]) == ("completed", 3, "hi\n")
    assert result["tool_calls"][0]["tool_id"] == "sum"
    assert result["artifacts"] == [{"path": "left.bin", "data": "/w=="}]
    assert result["enforced"] == ["disk_bytes", "memory_bytes", "output_bytes", "tool_calls", "wall_seconds"]


def test_json_of_a_refusal_is_json_too() -> None:
    done = toolexec("run", "-", "--backend", "unsafe", "--json", code="1")
    assert json.loads(done.stdout)["error"]["code"] == "policy_denied"
    assert done.returncode == ExitCode.REFUSED


@pytest.mark.parametrize(
    ("code", "args", "expected"),
    [
        ("1", (), ExitCode.COMPLETED),
        ("import sys; sys.exit(0)", (), ExitCode.COMPLETED),
        ("1 / 0", (), ExitCode.RAISED),
        ("def", (), ExitCode.RAISED),
        ("import sys; sys.exit(7)", (), 7),
        ("import sys; sys.exit(300)", (), 125),
        ("import sys; sys.exit(-1)", (), 125),
        ("1", ("--profile", "paranoid"), ExitCode.USAGE),
        ("1", ("--profile", "dev", "--backend", "unsafe"), ExitCode.REFUSED),
        ("while True: pass", ("--limit", "wall_seconds=0.3"), ExitCode.STOPPED),
        ("while True: pass", ("--limit", "cpu_seconds=0.3"), ExitCode.STOPPED),
        ("import os; os.abort()", (), ExitCode.STOPPED),
    ],
)
def test_exit_code_says_how_it_ended(code: str, args: tuple[str, ...], expected: int) -> None:
    assert toolexec("run", "-", *args, code=code).returncode == expected


def test_unsafe_runs_when_it_is_allowed() -> None:
    done = toolexec("run", "-", "--profile", "dev", "--backend", "unsafe", "--allow-unsafe", code="40 + 2")
    assert done.returncode == 0
    assert "value: 42\n" in done.stderr


@pytest.mark.parametrize(
    ("name", "args", "value"),
    [
        ("snippet.sh", (), "5"),
        ("snippet", ("--language", "bash"), "5"),
        ("snippet.py", ("--language", "bash"), "5"),
    ],
)
def test_the_language_is_told_or_goes_by_the_files_ending(
    tmp_path: Path, name: str, args: tuple[str, ...], value: str
) -> None:
    (tmp_path / name).write_text("result $((2 + 3))")
    unsafe = ("--profile", "dev", "--backend", "unsafe", "--allow-unsafe")
    done = toolexec("run", name, *unsafe, *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"value: {value}\n" in done.stderr


def test_a_language_that_nothing_runs_is_a_usage_error() -> None:
    done = toolexec("run", "-", "--language", "cobol", code="")
    assert done.returncode == ExitCode.USAGE
    assert "no backend here runs language 'cobol'" in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--limit", "wall_seconds"), "--limit must be NAME=VALUE"),
        (("--limit", "speed=3"), "unknown limit speed; there are wall_seconds"),
        (("--limit", "wall_seconds=0"), "limit wall_seconds must be above zero"),
        (("--limit", "wall_seconds=nan"), "limit wall_seconds must be above zero"),
        (("--limit", "tool_calls=1.5"), "--limit tool_calls must be a whole number, not '1.5'"),
        (("--limit", "tool_calls=1", "--limit", "tool_calls=2"), "--limit tool_calls was given twice"),
        (("--env", "=x"), "--env must be NAME=VALUE"),
        (("--file", "nowhere.csv"), "--file nowhere.csv: No such file or directory"),
        (("--file", "my_tools.py", "--file", "./my_tools.py"), "there is a my_tools.py already"),
        (("--tools", "nowhere:X"), "--tools nowhere:X: importing it failed: ModuleNotFoundError"),
        (("--tools", "broken:X"), "--tools broken:X: importing it failed: ZeroDivisionError"),
        (("--tools", "my_tools"), "--tools must be MODULE:ATTR, or a .toml or .json file"),
        (("--tools", "my_tools:NUMBER"), "expected a function, a Tool, a list of these"),
        (("--tools", "my_tools:nothing"), "has no attribute 'nothing'"),
        (("--out", "."), "--out .: the folder is not empty; name a new or an empty one"),
        (("--bogus",), "No such option: --bogus"),
    ],
)
def test_wrong_argument_is_named_with_what_fits(folder: Path, args: tuple[str, ...], said: str) -> None:
    done = toolexec("run", "-", *args, code="print('ran')", cwd=folder)
    assert done.returncode == ExitCode.USAGE
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_missing_snippet_is_a_usage_error(folder: Path) -> None:
    done = toolexec("run", "nowhere.py", cwd=folder)
    assert (done.returncode, done.stderr) == (2, "error: cannot read nowhere.py: No such file or directory\n")


def test_snippet_that_is_no_text_is_a_usage_error(folder: Path) -> None:
    (folder / "latin.py").write_bytes(b"'\xe9'")
    assert "latin.py is not UTF-8 text: byte 1" in toolexec("run", "latin.py", cwd=folder).stderr


def test_only_allowed_tools_can_be_called(folder: Path) -> None:
    code = "try: tools.plus(a=1, b=2)\nexcept tools.ToolError as error: print(error.code)\ntools.slow(n=3)"
    done = toolexec("run", "-", "--tools", "my_tools:LIST", "--allow-tool", "slow", code=code, cwd=folder)
    assert done.stdout == "tool_denied\n"
    assert re.search(r"plus +refused .*\n +slow +completed ", done.stderr)


def test_files_and_environment_go_in_and_files_come_out(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "name.txt").write_text("Ada")
    code = (
        "import os, pathlib\npathlib.Path('deep').mkdir()\n"
        "pathlib.Path('deep/out.txt').write_text(os.environ['GREETING'] + ' ' + open('name.txt').read())"
    )
    args = ("--file", "in/name.txt", "--env", "GREETING=hello=", "--out", "results/today")
    assert toolexec("run", "-", *args, code=code, cwd=folder).returncode == 0
    assert (folder / "results/today/deep/out.txt").read_text() == "hello= Ada"


@pytest.mark.parametrize("path", ["../escaped", "/tmp/escaped", "a/../../escaped", ""])
def test_artifact_never_leaves_its_folder(tmp_path: Path, path: str) -> None:
    out = empty_folder(tmp_path / "out")
    with pytest.raises(SandboxError, match="has no plain relative path"):
        write_artifacts(out, [Artifact(path, b"x")])
    assert [found.name for found in tmp_path.iterdir()] == ["out"]


def test_artifact_that_is_in_anothers_way_is_said_to_be() -> None:
    with pytest.raises(InvalidRequest, match=r"Not a directory|File exists"):
        empty_folder(Path(__file__))


def test_doctor_says_what_fits_and_exits_0() -> None:
    done = toolexec("doctor")
    assert done.returncode == 0
    assert re.search(r"^wasm usable\n +boundaries +[12]\n +profiles +dev, standard", done.stdout, re.MULTILINE)
    assert re.search(r"^unsafe usable\n +boundaries +0\n +profiles +dev \(only with", done.stdout, re.MULTILINE)


def test_doctor_speaks_json() -> None:
    found = json.loads(toolexec("doctor", "--json").stdout)
    assert found["unsafe"]["boundaries"] == 0
    assert found["wasm"]["enforces"] == sorted(found["wasm"]["enforces"])


def test_doctor_exits_3_and_names_the_fix_when_nothing_fits(open_cache: Path) -> None:
    missing = {"docker": {"host": "unix:///nonexistent"}, "gvisor": {"runsc": "/nonexistent/runsc"}}
    done = toolexec("doctor", XDG_CACHE_HOME=str(open_cache), TOOLEXEC_BACKEND_OPTIONS=json.dumps(missing))
    assert done.returncode == ExitCode.REFUSED
    assert "wasm not usable\n" in done.stdout
    assert re.search(r" +reason +.*can be written by others.*\n +fix +Set XDG_CACHE_HOME", done.stdout)


def test_backend_that_cannot_be_used_is_a_refusal_with_the_fix(open_cache: Path) -> None:
    done = toolexec("run", "-", "--backend", "wasm", code="print('ran')", XDG_CACHE_HOME=str(open_cache))
    assert (done.returncode, done.stdout) == (ExitCode.REFUSED, "")
    assert "error: backend 'wasm' cannot be used here: " in done.stderr
    assert "Set XDG_CACHE_HOME" in done.stderr


@pytest.fixture
def open_cache(tmp_path: Path) -> Path:
    """A cache that anybody can write to, which is refused."""
    compiled = tmp_path / "toolexec" / "wasm"
    compiled.mkdir(parents=True)
    compiled.chmod(0o777)
    return tmp_path


def test_versions_are_said_as_text_and_as_json() -> None:
    found = json.loads(toolexec("version", "--json").stdout)
    assert set(found) == {"toolexec", "python", "platform"}
    said = toolexec("version").stdout
    assert said.startswith(f"toolexec {found['toolexec']} (Python ")
    assert process("--version").stdout == said


def test_help_lists_every_exit_code() -> None:
    said = toolexec("run", "--help").stdout
    listed = [int(number) for number in re.findall(r"^ +(\d+) +\w", EXIT_CODES, re.MULTILINE)]
    assert listed == sorted(ExitCode)
    for line in EXIT_CODES.strip("\b\n").splitlines():
        assert line.strip() in said


def test_control_characters_are_made_visible_and_text_is_left_alone() -> None:
    assert visible("a\tb\n é 漢 \x1b[0m \x9b \u202e \r") == "a\tb\n é 漢 \\x1b[0m \\x9b \\u202e \\r"


def test_limits_keep_their_kinds() -> None:
    assert parse_limits(["wall_seconds=1.5", "tool_calls=3"]) == Limits(wall_seconds=1.5, tool_calls=3)


def test_tools_of_a_mapping_are_named_by_it() -> None:
    assert [str(tool.id) for tool in tools_at("tests.sandbox.test_cli:MAPPING")] == ["ends", "text:starts"]


def starts(text: str, with_: str) -> bool:
    return text.startswith(with_)


MAPPING = {"ends": starts, "text": {"starts": starts}}


def test_a_log_is_written_to_standard_error_when_it_is_asked_for(folder: Path) -> None:
    argv = ["run", "-", "--tools", "my_tools:LIST", "--json"]
    code = "tools.plus(a=1, b=2)"
    assert process(*argv, cwd=folder, code=code).stderr == ""
    done = process(*argv, "--log", "json", cwd=folder, code=code)
    result, found = json.loads(done.stdout), [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in found] == ["tool call completed", "execution ended"]
    assert {line["execution_id"] for line in found} == {result["execution_id"]}
    done = process(*argv, "--log", "text", cwd=folder, code=code)
    assert 'event="tool call completed"' in done.stderr
    done = process(*argv, "--log", "xml", cwd=folder, code=code)
    assert (done.returncode, "json or text" in done.stderr) == (ExitCode.USAGE, True)
