"""Every bound of a container is set, whatever was asked; how it ended is told from its init's exit code."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.endpoint import Endpoint
from runtimes._container import (
    AGENT_MEMORY_BYTES,
    AGENT_PIDS,
    DEFAULT_DISK_BYTES,
    DEFAULT_MEMORY_BYTES,
    DEFAULT_PIDS,
    Container,
    agent_config,
    container_for,
    ending_of,
)
from runtimes.base import Ending, SandboxSpec
from runtimes.guest.init import encode

MIB = 1 << 20
bounds = st.none() | st.integers(1, 1 << 40)


def container(spec: SandboxSpec) -> Container:
    return container_for(spec, argv=("init",), uid=7, gid=8, socket_folder=Path("/run/x"))


def test_whoever_asks_for_nothing_gets_bounds_on_everything() -> None:
    made = container(SandboxSpec())
    assert made.memory_bytes == DEFAULT_MEMORY_BYTES + AGENT_MEMORY_BYTES
    assert made.pids == DEFAULT_PIDS + AGENT_PIDS
    assert made.cpus == 1.0
    assert made.tmpfs[0].size_bytes == DEFAULT_DISK_BYTES
    assert (made.rlimits["core"], made.rlimits["msgqueue"], made.rlimits["nofile"]) == (0, 0, 1024)


def test_what_is_asked_for_is_set_on_top_of_what_the_agent_takes() -> None:
    made = container(SandboxSpec(memory_bytes=100 * MIB, disk_bytes=3 * MIB, pids=5))
    assert made.memory_bytes == 100 * MIB + AGENT_MEMORY_BYTES
    assert made.pids == 5 + AGENT_PIDS
    assert [tmpfs.size_bytes for tmpfs in made.tmpfs] == [3 * MIB, 3 * MIB]


@given(bounds, bounds, bounds)
def test_every_bound_is_above_zero(memory_bytes: int | None, disk_bytes: int | None, pids: int | None) -> None:
    made = container(SandboxSpec(memory_bytes=memory_bytes, disk_bytes=disk_bytes, pids=pids))
    assert made.memory_bytes > AGENT_MEMORY_BYTES
    assert made.pids > AGENT_PIDS
    assert all(tmpfs.size_bytes > 0 and tmpfs.inodes > 0 for tmpfs in made.tmpfs)


def test_file_systems_in_memory_are_the_guests_alone() -> None:
    guest, shared = container(SandboxSpec(disk_bytes=MIB)).tmpfs
    assert guest.options(7, 8) == (
        *("rw", "nosuid", "nodev", "exec"),
        *("size=1048576", "nr_inodes=16384", "mode=0700", "uid=7", "gid=8"),
    )
    assert {"noexec", "mode=1777"} <= set(shared.options(7, 8))


@pytest.mark.parametrize(("language", "held"), [("python", 100), ("javascript", None), ("bash", None)])
def test_address_space_is_bounded_for_python_alone(language: str, held: int | None) -> None:
    line = agent_config(SandboxSpec(language=language, memory_bytes=100, cpu_seconds=2.5), Endpoint("unix:/x", "token"))
    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "address": "unix:/x",
        "token": "token",
        "work": "/guest/work",
        "language": language,
        "memory_bytes": held,
        "cpu_seconds": 2.5,
        "authority": None,
    }


@given(st.integers(0, 127) | st.integers(128, 255).filter(lambda code: code != 137 and not 192 < code < 224))
def test_an_agents_own_exit_code_comes_back(code: int) -> None:
    assert ending_of(encode(code), out_of_memory=False) == Ending(exit_code=code)


@given(st.integers(1, 31).filter(lambda number: number != signal.SIGXCPU))
def test_a_signal_comes_back(number: int) -> None:
    assert ending_of(encode(-number), out_of_memory=False) == Ending(signal=number)


def test_an_agent_that_imitates_the_engines_kill_is_taken_for_killed_and_not_for_lost() -> None:
    assert ending_of(encode(137), out_of_memory=False) == Ending(signal=signal.SIGKILL)


def test_a_container_that_something_else_killed_is_lost() -> None:
    assert ending_of(137, out_of_memory=False).lost is not None


@pytest.mark.parametrize("code", [137, encode(-signal.SIGKILL)])
def test_out_of_memory_is_told_from_a_signal(code: int) -> None:
    assert ending_of(code, out_of_memory=True) == Ending(limit="memory_bytes")


@pytest.mark.parametrize("code", [0, 1, encode(-signal.SIGSEGV)])
def test_an_agent_that_ended_by_itself_is_not_taken_for_out_of_memory(code: int) -> None:
    """A process of its own may have been ended for want of memory before."""
    assert ending_of(code, out_of_memory=True).limit is None


@pytest.mark.parametrize(
    ("used", "allowed", "ending"),
    [
        (1.2, 1.0, Ending(limit="cpu_seconds")),
        (None, 1.0, Ending(limit="cpu_seconds")),
        (0.1, 1.0, Ending(signal=signal.SIGXCPU)),
        (9.0, None, Ending(signal=signal.SIGXCPU)),
    ],
)
def test_the_processors_signal_counts_when_the_time_was_used(
    used: float | None, allowed: float | None, ending: Ending
) -> None:
    found = ending_of(encode(-signal.SIGXCPU), out_of_memory=False, cpu_seconds=used, allowed_cpu_seconds=allowed)
    assert found == ending


STAND_IN = """
import os, sys
class Agent:
    @staticmethod
    def main():
        {act}
sys.modules["runtimes.guest.agent"] = Agent
import runtimes.guest
runtimes.guest.agent = Agent
from runtimes.guest import init
init.main()
"""


@pytest.mark.parametrize(
    ("act", "code"),
    [
        ("os._exit(7)", 7),
        ("os.kill(os.getpid(), 9)", encode(-9)),
        ("os.kill(os.getpid(), 11)", encode(-11)),
        ("os._exit(0 if os.fork() == 0 else 3)", 3),
    ],
)
def test_init_ends_as_its_agent_does(act: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", STAND_IN.format(act=act)], timeout=20, stdin=subprocess.DEVNULL)
    assert done.returncode == code


def test_init_takes_its_streams_from_pipes(tmp_path: Path) -> None:
    pipes = {name: tmp_path / name for name in ("stdin", "stdout", "stderr")}
    for path in pipes.values():
        os.mkfifo(path)
    held = {name: os.open(path, os.O_RDWR | os.O_NONBLOCK) for name, path in pipes.items()}
    os.write(held["stdin"], b"hello\n")
    act = "print(sys.stdin.readline(), end='', flush=True); print('bad', file=sys.stderr); os._exit(0)"
    done = subprocess.run(
        [sys.executable, "-c", STAND_IN.format(act=act), str(tmp_path)], timeout=20, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert os.read(held["stdout"], 100) == b"hello\n"
    assert os.read(held["stderr"], 100) == b"bad\n"
    for descriptor in held.values():
        os.close(descriptor)
