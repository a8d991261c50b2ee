"""Every example runs and says what was recorded beside it; figures that differ from run to run are made alike."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import Exec
from tests.conftest import FRUGAL, require
from tests.scripts import Scripts

pytestmark = pytest.mark.usefixtures("wasm")

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"), key=lambda path: path.name)
CONFINED = ("NOT filtered", "NOT confined", "POSSIBLE")


def normalised(text: str) -> str:
    """Times, bars and the kernel's Landlock version."""
    text = re.sub(r" +\d+\.\d ms", " # ms", text)
    text = re.sub(r"\|[ =]+\|", "|#|", text)
    return re.sub(r"ABI \d+", "ABI #", text)


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOOLEXEC_", "FORCE_"))}
    return kept | FRUGAL


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_says_what_was_recorded(path: Path, scripts: Scripts, tmp_path: Path) -> None:
    done = scripts.run(path, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr
    if any(word in done.stdout for word in CONFINED):
        require("confinement", "this kernel does not confine the worker fully")
    assert normalised(done.stdout) == path.with_suffix(".out").read_text()


def test_every_recording_belongs_to_an_example() -> None:
    recordings = {path.stem for path in (ROOT / "examples").glob("*.out")}
    assert recordings == {path.stem for path in EXAMPLES}


def test_example_output_is_plain_when_piped(tmp_path: Path) -> None:
    """As a user runs it, in a process that has imported nothing yet."""
    argv = [sys.executable, str(ROOT / "examples" / "demo.py")]
    done = subprocess.run(argv, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=50, check=True)
    assert normalised(done.stdout) == (ROOT / "examples" / "demo.out").read_text()
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout


def test_readme_example_is_the_ten_line_one() -> None:
    first_block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first_block is not None
    assert first_block[1] == (ROOT / "examples" / "ten_lines.py").read_text()


def test_snippet_sees_neither_passwd_nor_the_hosts_environment(
    shared_exec: Exec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_SECRET", "only for the host")
    result = shared_exec.execute_code(SPY)
    assert result.ok, result.summary()
    assert result.value["readable"] == []
    assert result.value["folders"] == ["tmp", "work"]
    assert set(result.value["environment"]) <= {"HOME", "PATH", "TMPDIR"}
    assert "only for the host" not in str(result.value)
    assert os.environ["HOST_SECRET"] == "only for the host"


SPY = """
import os

readable = []
for path in ("/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/1/environ", "/work/../etc/passwd"):
    try:
        readable.append(open(path).read())
    except OSError:
        pass
{"environment": dict(os.environ), "readable": readable, "folders": sorted(os.listdir("/"))}
"""
