"""Child processes: started without a shell or our environment, read to the end, ended with their group."""

import signal
import sys
from pathlib import Path

import anyio
import pytest

from gateway.errors import SandboxLost
from runtimes import _process
from runtimes._process import ChildProcess, Lines, start
from tests.gateway.raw import eventually

pytestmark = pytest.mark.anyio


def python(folder: Path, code: str) -> ChildProcess:
    return start((sys.executable, "-I", "-u", "-c", code), folder=folder, env={"A": "b"})


async def read(child: ChildProcess) -> tuple[bytes, bytes]:
    out, err = bytearray(), bytearray()
    with anyio.fail_after(10):
        await child.read(out.extend, err.extend)
        await child.wait()
    return bytes(out), bytes(err)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_both_streams_are_read_to_their_end(tmp_path: Path) -> None:
    code = "import sys; sys.stdout.write('o' * 1000000); sys.stderr.write('e' * 1000000)"
    child = python(tmp_path, code)
    assert await read(child) == (b"o" * 1_000_000, b"e" * 1_000_000)
    assert child.returncode == 0
    await child.close()


async def test_a_child_has_its_folder_and_its_environment_and_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    child = python(
        tmp_path, "import os; print(os.getcwd(), 'SECRET' in os.environ, os.environ['A'], os.listdir('/proc/self/fd'))"
    )
    out, _ = await read(child)
    folder, secret, a, descriptors = out.decode().split(maxsplit=3)
    assert (folder, secret, a) == (str(tmp_path), "False", "b")
    assert len(descriptors.split(",")) == 4  # three streams, and the listing itself
    await child.close()


@pytest.mark.parametrize(
    ("code", "returncode"),
    [
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 11)", -signal.SIGSEGV),
        ("import os; os._exit(0)", 0),
    ],
)
async def test_how_it_ended_is_known(tmp_path: Path, code: str, returncode: int) -> None:
    child = python(tmp_path, code)
    await read(child)
    assert child.returncode == returncode
    await child.close()


async def test_it_listens_until_it_is_dead(tmp_path: Path) -> None:
    child = python(tmp_path, "import sys; print(sys.stdin.readline().upper(), end='')")
    assert child.tell(b"hello")
    assert (await read(child))[0] == b"HELLO\n"
    assert not child.tell(b"anybody?")
    await child.close()
    assert not child.tell(b"anybody?")


async def test_who_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    child = python(tmp_path, "import time; time.sleep(100)")
    told = [child.tell(b"x" * 50_000) for _ in range(5)]
    assert told[0]
    assert not told[-1]
    await child.close()
    await read(child)


async def test_close_ends_the_whole_group(tmp_path: Path) -> None:
    code = "import os, time\nfor _ in range(3): print(os.fork() and os.getpid(), flush=True)\ntime.sleep(100)"
    child = python(tmp_path, code)
    pids: set[int] = set()

    async def pump() -> None:
        await child.read(lambda data: pids.update(map(int, data.split())), lambda data: None)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pump)
        await eventually(lambda: len(pids) >= 3)
        with anyio.fail_after(5):
            await child.close()
            await child.close()
    assert child.returncode == -signal.SIGKILL
    await eventually(lambda: all(gone(pid) for pid in pids if pid))


async def test_close_is_not_stopped_by_cancellation(tmp_path: Path) -> None:
    child = python(tmp_path, "import time; time.sleep(100)")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await child.close()
    await read(child)
    assert child.returncode == -signal.SIGKILL


async def test_no_descriptor_is_left(tmp_path: Path) -> None:
    async def run() -> None:
        child = python(tmp_path, "print(1)")
        await read(child)
        await child.close()

    await run()
    before = descriptors()
    for _ in range(5):
        await run()
    assert descriptors() <= before  # what other tests left may be closed meanwhile


async def test_a_program_that_is_not_there_is_a_lost_sandbox(tmp_path: Path) -> None:
    with pytest.raises(SandboxLost, match="a process could not be started"):
        start(("/no/such/program",), folder=tmp_path, env={})


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_are_cut_at_their_ends_wherever_chunks_are(size: int) -> None:
    text = b"one\n\ntwo and \xc3\xbc\nno end"
    lines: list[bytes] = []
    cut = Lines(lines.append)
    for at in range(0, len(text), size):
        cut(text[at : at + size])
    assert lines == [b"one", b"", b"two and \xc3\xbc"]


def test_an_endless_line_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process, "MAX_LINE_BYTES", 10)
    lines: list[bytes] = []
    cut = Lines(lines.append)
    for _ in range(100):
        cut(b"x" * 7)
    cut(b"\nnext\n")
    assert lines[-1] == b"next"
    assert len(lines[0]) <= 20
