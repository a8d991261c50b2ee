"""Nothing is left behind: not after close, and not after the host was killed."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

KINDS = ["unsafe", "wasm"]

OPEN_AND_CLOSE = """
import gc, json, os, sys, threading
from pathlib import Path
from sandbox import Exec

def left():
    gc.collect()
    task = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "children": Path(task).read_text().split(),
        "files": sorted(name for fd in os.listdir("/proc/self/fd") if (name := target(fd)) is not None),
        "folders": [str(path) for path in Path(os.environ["XDG_RUNTIME_DIR"]).rglob("*") if path.name != "toolexec"],
    }

def target(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
    except OSError:
        return None

def use(kind):
    with Exec(allow_unsafe=True, pool_size=2) as exec:
        exec.tool(add)
        profile = "dev"
        for code in ("tools.add(a=1, b=2)", "while True: pass", "1 / 0"):
            exec.execute_code(code, profile=profile, backend=kind, limits={"wall_seconds": 0.5})
        stream = exec.stream_code("while True: print('x')", profile=profile, backend=kind)
        next(stream)
        stream.close()
        exec.execute_code("import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)",
                          profile=profile, backend=kind)
        running = left()

def add(a: int, b: int) -> int:
    "Add."
    return a + b

use(sys.argv[1])  # gRPC keeps its own few threads and descriptors once it was used
before = left()
for _ in range(2):
    use(sys.argv[1])
print(json.dumps([before, left()]))
"""

HANG = """
import sys
from sandbox import Exec

def hold(pid: int) -> None:
    "Keep the execution in the middle of a call."
    print(pid, flush=True)
    import time
    time.sleep(1000)

with Exec(allow_unsafe=True, pool_size=2) as exec:
    exec.tool(hold)
    exec.execute_code(sys.argv[2], profile="dev", backend=sys.argv[1], limits={"wall_seconds": 1000})
"""

ESCAPE = """
import os, subprocess
subprocess.Popen(['sleep', '987.5'], start_new_session=True, env={})
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import time
        time.sleep(1000)
    os._exit(0)
tools.hold(pid=os.getpid())
"""

START = """
from sandbox import Exec
with Exec(allow_unsafe=True, pool_size=0) as exec:
    assert exec.execute_code("1 + 1", profile="dev", backend="unsafe").value == 2
"""


@pytest.fixture
def runtime_folder() -> Iterator[Path]:
    """Where the hosts of one test keep their folders."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)


def argv(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def environment(runtime_folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_RUNTIME_DIR": str(runtime_folder), "GRPC_VERBOSITY": "ERROR"}


def processes_of(runtime_folder: Path) -> dict[int, str]:
    """Everything alive whose command line or environment names this folder or its marker."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if (
                    str(runtime_folder).encode() in text
                    or b"987.5" in text
                    or str((entry / "cwd").readlink()).startswith(str(runtime_folder))
                ):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


def soon(true: Callable[[], bool], seconds: float = 15.0) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_close_leaves_no_thread_process_descriptor_or_folder(kind: str, runtime_folder: Path) -> None:
    done = subprocess.run(
        argv(OPEN_AND_CLOSE, kind), env=environment(runtime_folder), capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout.splitlines()[-1])
    assert after["children"] == []
    assert after["folders"] == []
    assert after["threads"] == ["MainThread"]
    assert len(after["files"]) <= len(before["files"]), (before["files"], after["files"])
    assert done.stderr == ""
    assert processes_of(runtime_folder) == {}


@pytest.fixture(params=KINDS)
def killed_host(request: pytest.FixtureRequest, runtime_folder: Path) -> int:
    """A host that was killed with SIGKILL in the middle of an execution. Its process id."""
    code = ESCAPE if request.param == "unsafe" else "tools.hold(pid=1)"
    host = subprocess.Popen(
        argv(HANG, request.param, code), env=environment(runtime_folder), stdout=subprocess.PIPE, text=True
    )
    with host:
        assert host.stdout is not None
        assert host.stdout.readline().strip()
        assert len(processes_of(runtime_folder)) > 1
        host.send_signal(signal.SIGKILL)
    return host.pid


def test_a_killed_host_takes_its_guests_and_workers_with_it(killed_host: int, runtime_folder: Path) -> None:
    assert soon(lambda: processes_of(runtime_folder) == {}), processes_of(runtime_folder)


def test_the_next_start_removes_what_a_killed_host_left(killed_host: int, runtime_folder: Path) -> None:
    base = runtime_folder / "toolexec"
    assert [path.name.partition("-")[0] for path in base.iterdir()] == [str(killed_host)]
    subprocess.run(argv(START), env=environment(runtime_folder), check=True, timeout=50)
    assert list(base.iterdir()) == []
    assert soon(lambda: processes_of(runtime_folder) == {}), processes_of(runtime_folder)


def test_a_live_host_is_left_alone_by_the_next_start(runtime_folder: Path) -> None:
    env: dict[str, Any] = {"env": environment(runtime_folder)}
    with subprocess.Popen(argv(HANG, "unsafe", "tools.hold(pid=1)"), stdout=subprocess.PIPE, text=True, **env) as host:
        assert host.stdout is not None
        assert host.stdout.readline().strip()
        before = processes_of(runtime_folder)
        subprocess.run(argv(START), check=True, timeout=50, **env)
        assert set(before) <= set(processes_of(runtime_folder))
        assert len(list((runtime_folder / "toolexec").iterdir())) == 1
        host.kill()
    assert soon(lambda: processes_of(runtime_folder) == {}), processes_of(runtime_folder)


def test_an_exec_that_is_never_closed_does_not_keep_the_process(runtime_folder: Path) -> None:
    code = START.replace("with Exec(allow_unsafe=True, pool_size=0) as exec:\n    ", "exec = Exec(allow_unsafe=True)\n")
    done = subprocess.run(argv(code), env=environment(runtime_folder), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert soon(lambda: processes_of(runtime_folder) == {}), processes_of(runtime_folder)
