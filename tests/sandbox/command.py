"""The command, run as a user runs it, in a process of its own; or in this one, where the process is not the point.

A process takes longer to import what the command needs than the command takes: each command has one test that starts
it, and the others call it here.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sandbox.cli import app

COMMAND = str(Path(sys.executable).with_name("toolexec"))


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOOLEXEC_", "FORCE_", "NO_"))}
    return kept | {"TERM": "xterm-256color", "COLUMNS": "100"}


def process(*args: str, code: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    argv = [COMMAND, *args]
    env = environment()
    return subprocess.run(argv, input=code, cwd=cwd, env=env, capture_output=True, text=True, timeout=50, check=False)


def toolexec(*args: str, code: str = "", cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """In this process, with that environment and `env`. What would be a traceback there is raised here."""
    modules = {*sys.modules}
    with pytest.MonkeyPatch.context() as patch:
        wanted = environment() | env
        for name in os.environ.keys() - wanted.keys():
            patch.delenv(name)
        for name, value in wanted.items():
            patch.setenv(name, value)
        patch.setattr(sys, "path", [path for path in sys.path if path])  # the command adds the working folder itself
        if cwd is not None:
            patch.chdir(cwd)
        done = CliRunner().invoke(app, args, input=code)
    for name in {*sys.modules} - modules:
        if cwd is not None and (getattr(sys.modules[name], "__file__", None) or "").startswith(str(cwd)):
            del sys.modules[name]  # another test has another module of this name
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert 0 <= done.exit_code < 256
    return subprocess.CompletedProcess(["toolexec", *args], done.exit_code, done.stdout, done.stderr)
