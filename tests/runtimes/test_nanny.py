"""The nanny: whatever a guest starts dies with it, with the host, and when the host says so; endings are passed on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from runtimes import _nanny

STAND_IN = """
import os, signal, subprocess, sys, time
from runtimes import _nanny
from runtimes.guest import agent

def guest():
    code = sys.stdin.readline()
    exec(code, globals())
    os._exit(0)

agent.main = guest
_nanny.main()
"""
"""The nanny as it is, with one line of Python instead of our agent as its guest."""

SLEEP = "[sys.executable, '-I', '-S', '-c', 'import time; time.sleep(100)']"

ESCAPES = {
    "child": f"p = [subprocess.Popen({SLEEP}).pid]",
    "setsid": f"p = [subprocess.Popen({SLEEP}, start_new_session=True).pid]",
    "clean environment": f"p = [subprocess.Popen({SLEEP}, start_new_session=True, env={{}}).pid]",
    "double fork": (
        "r, w = os.pipe(); pid = os.fork(); "
        "pid or (os.setsid(), os.fork() and os._exit(0), os.write(w, str(os.getpid()).encode()), time.sleep(100)); "
        "p = [int(os.read(r, 20))]"
    ),
    "deaf": (
        "r, w = os.pipe(); pid = os.fork(); "
        "pid or ([signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)], os.write(w, b'1'), time.sleep(100)); "
        "os.read(r, 1); p = [pid]"
    ),
    "from a thread": (
        f"import threading; p = []; t = threading.Thread(target=lambda: p.append(subprocess.Popen({SLEEP}).pid)); "
        "t.start(); t.join()"
    ),
    "stopped": f"p = [subprocess.Popen({SLEEP}).pid]; os.kill(p[0], 19)",
}
TELL = "; print(*p, os.getpid(), flush=True); "


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soon(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


class Nanny:
    def __init__(self, line: str) -> None:
        argv = [sys.executable, "-c", STAND_IN, str(os.getpid())]
        self.process: subprocess.Popen[str] = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.pids: list[int] = []
        _stream(self.process.stdin).write(line + "\n")
        _stream(self.process.stdin).flush()

    def hear(self) -> list[int]:
        self.pids = [int(pid) for pid in _stream(self.process.stdout).readline().split()]
        assert self.pids
        return self.pids

    def wait(self) -> int:
        return self.process.wait(15)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            _stream(stream).close()
        for pid in self.pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@pytest.fixture
def nanny() -> Iterator[Callable[[str], Nanny]]:
    made: list[Nanny] = []

    def make(line: str) -> Nanny:
        made.append(Nanny(line))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("escape", ESCAPES)
def test_what_the_guest_started_dies_when_the_guest_ends(nanny: Callable[[str], Nanny], escape: str) -> None:
    one = nanny(ESCAPES[escape] + TELL + "os._exit(3)")
    pids = one.hear()
    assert one.wait() == 3
    assert [pid for pid in pids if alive(pid)] == []


@pytest.mark.parametrize("escape", ESCAPES)
def test_what_the_guest_started_dies_when_the_host_says_so(nanny: Callable[[str], Nanny], escape: str) -> None:
    one = nanny(ESCAPES[escape] + TELL + "time.sleep(100)")
    pids = one.hear()
    assert all(alive(pid) for pid in pids)
    one.process.terminate()
    assert one.wait() == -signal.SIGTERM
    assert [pid for pid in pids if alive(pid)] == []


def test_a_tree_that_goes_on_forking_is_ended_as_well(nanny: Callable[[str], Nanny]) -> None:
    chain = "[os.fork() and os._exit(0) for _ in iter(int, 1)]"
    hydra = f"(os.setsid(), [os.fork() or {chain} for _ in range(4)], time.sleep(100))"
    one = nanny(f"kid = os.fork(); kid or {hydra}; p = [kid]{TELL} time.sleep(2); os._exit(5)")
    session, _ = one.hear()
    assert soon(lambda: len(_children_of_session(session)) > 1)
    assert one.wait() == 5
    assert _children_of_session(session) == []


def test_a_child_that_was_forked_during_the_killing_is_not_waited_for(nanny: Callable[[str], Nanny]) -> None:
    # It leaves a child behind each time the nanny looks away, and the child itself does nothing for long.
    chain = "[os.fork() and os._exit(0) for _ in range(300)]; time.sleep(100)"
    one = nanny(f"p = []{TELL} os.fork() or [{chain.replace('; ', ', ')}]; os._exit(6)")
    one.hear()
    started = time.monotonic()
    assert one.wait() == 6
    assert time.monotonic() - started < 8


def _children_of_session(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and alive(int(entry.name)):
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("os._exit(0)", 0),
        ("os._exit(7)", 7),
        ("os._exit(255)", 255),
        ("os.kill(os.getpid(), 9)", -9),
        ("os.kill(os.getpid(), 11)", -11),
        ("os.kill(os.getpid(), 15)", -15),
        ("import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()", -6),
        ("os.kill(os.getpid(), 24)", -24),
    ],
)
def test_it_ends_as_its_guest_did(nanny: Callable[[str], Nanny], line: str, code: int) -> None:
    assert nanny(line).wait() == code


def test_it_ends_at_once_when_its_host_is_gone_already() -> None:
    argv = [sys.executable, "-c", STAND_IN, "1999999"]
    done = subprocess.run(argv, input="print('ran')\n", capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stdout) == (0, "")


HOST = """
import json, os, subprocess, sys
argv = [sys.executable, "-c", sys.argv[1], str(os.getpid())]
nanny = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
nanny.stdin.write(sys.argv[2] + "\\n"); nanny.stdin.flush()
print(json.dumps([nanny.pid, *map(int, nanny.stdout.readline().split())]), flush=True)
nanny.wait()
"""


@pytest.mark.parametrize("escape", ESCAPES)
def test_all_die_with_a_host_that_was_killed(escape: str) -> None:
    argv: list[Any] = [sys.executable, "-c", HOST, STAND_IN, ESCAPES[escape] + TELL + "time.sleep(100)"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as host:
        pids = json.loads(_stream(host.stdout).readline())
        assert len(pids) > 2
        host.kill()
    assert soon(lambda: not any(alive(pid) for pid in pids)), [pid for pid in pids if alive(pid)]


def test_a_guest_that_has_ended_is_known_before_and_after_it_was_waited_for() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as guest:
        assert not _nanny._has_ended(guest.pid)
        guest.kill()
        os.waitid(os.P_PID, guest.pid, os.WEXITED | os.WNOWAIT)
        assert _nanny._has_ended(guest.pid)
    assert _nanny._has_ended(guest.pid)
