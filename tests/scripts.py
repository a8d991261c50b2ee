"""Scripts to run: see `script_host.py`."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.script_host import Script

ROOT = Path(__file__).parent.parent


class Scripts:
    """The process that runs them, one after the other. What warns fails, in it as in them."""

    def __init__(self) -> None:
        argv = [sys.executable, "-W", "error", "-m", "tests.script_host"]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(
        self, *argv: object, cwd: Path, env: Mapping[str, str], seconds: int = 50
    ) -> subprocess.CompletedProcess[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            script = Script([str(word) for word in argv], str(cwd), {**env}, str(out), str(err), seconds)
            self.process.stdin.write(json.dumps(asdict(script)) + "\n")
            self.process.stdin.flush()
            code = self.process.stdout.readline()
            assert code, "the process that runs scripts is gone"
            return subprocess.CompletedProcess(script.argv, int(code), out.read_text(), err.read_text())

    def close(self) -> None:
        self.process.communicate(timeout=10)


@pytest.fixture(scope="session")
def scripts() -> Iterator[Scripts]:
    made = Scripts()
    yield made
    made.close()
