"""Runs scripts as `python SCRIPT` does, each in a process of its own: a fork of this one, which has imported what they
would all import.

`python -W error -m tests.script_host` is given the fields of a `Script` as JSON, a line each, and says the exit code of
each when it has ended. `tests/scripts.py` is the other end.
"""

import gc
import json
import os
import runpy
import signal
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

WARM = (
    *("gateway.journal.sqlite", "gateway.providers.function", "gateway.server"),
    *("runtimes.docker", "runtimes.gvisor", "runtimes.unsafe", "runtimes.wasm.backend"),
    *("sandbox.config", "sandbox.sync", "uvloop"),
)
"""The forks shall not each import these."""


@dataclass(frozen=True, slots=True)
class Script:
    """`argv` begins with its path. `out` and `err` are the files for what it says. It may run for `seconds`, which are
    fewer than its test has: else the next one would hear of its end."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    out: str
    err: str
    seconds: int = 50


def fork() -> Script | None:
    """The script that this process shall be, which is a fork; None when there are no more, in the one that forks."""
    for line in iter(sys.stdin.readline, ""):
        if (child := os.fork()) == 0:
            return Script(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def become(script: Script) -> None:
    signal.alarm(script.seconds)  # one that hangs dies
    wanted = os.O_WRONLY | os.O_CREAT
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, script.out, wanted), (2, script.err, wanted)):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(script.env)
    os.chdir(script.cwd)
    sys.argv[:] = script.argv
    sys.path[0] = str(Path(script.argv[0]).parent)


if __name__ == "__main__":
    for name in WARM:
        import_module(name)
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a fork has one thread"
    gc.freeze()  # so that a fork does not copy all there is when it collects
    if (script := fork()) is not None:
        become(script)
        runpy.run_path(script.argv[0], run_name="__main__")
