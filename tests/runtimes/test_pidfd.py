"""A process that is not our child: held, ended, and told when it is as good as gone."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import anyio
import pytest

from runtimes._pidfd import HeldProcess, first_child, is_leaving
from tests.gateway.raw import eventually

pytestmark = pytest.mark.anyio

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(SLEEPER) as process:
        yield process
        process.kill()


async def test_it_says_when_it_ended(sleeper: "subprocess.Popen[bytes]") -> None:
    ended = []
    held = HeldProcess(sleeper.pid, lambda: ended.append(True))
    assert not held.ended.is_set()
    held.kill()
    with anyio.fail_after(10):
        await held.ended.wait()
    held.kill()
    held.close()
    assert ended == [True]
    assert sleeper.wait() == -signal.SIGKILL


async def test_letting_go_leaves_it_alone(sleeper: "subprocess.Popen[bytes]") -> None:
    held = HeldProcess(sleeper.pid, lambda: None)
    held.close()
    held.close()
    assert held.ended.is_set()  # there is nothing more to wait for
    held.kill()
    assert sleeper.poll() is None


async def test_a_process_that_is_gone_cannot_be_held() -> None:
    gone = subprocess.Popen(["true"])  # noqa: ASYNC220 - it ends at once
    gone.wait()
    with pytest.raises(ProcessLookupError):
        HeldProcess(gone.pid, lambda: None)
    assert is_leaving(gone.pid)


async def test_a_process_that_nobody_waited_for_is_leaving(sleeper: "subprocess.Popen[bytes]") -> None:
    assert not is_leaving(sleeper.pid)
    sleeper.kill()
    await eventually(lambda: is_leaving(sleeper.pid))


async def test_the_oldest_child_is_found(sleeper: "subprocess.Popen[bytes]") -> None:
    assert first_child(sleeper.pid) is None
    assert first_child(os.getpid()) is not None
