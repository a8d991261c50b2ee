"""Programs of the operator's choice: started without a shell, read with bounds, ended with everything they started."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

import anyio
import anyio.lowlevel
import anyio.to_thread

from gateway.errors import InvalidInput, ToolFailed, ToolUnavailable

CHUNK_BYTES = 64 << 10
REAP_SECONDS = 5.0
"""How long a killed process is waited for: one that hangs in the kernel dies later."""

_SCARCE = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_ROUNDS = 100


class Program:
    """A running program that leads its own session. Use it as `async with`: leaving kills its whole process tree.

    asyncio's subprocesses fork under uvloop, which copies the page tables of a large host; this one does not.
    """

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus the signal that ended it, or None while it is not known to have ended."""
        return self._popen.returncode

    async def wait(self) -> None:
        """Return when the program has ended by itself; what it left in its process group is killed. For one caller."""
        if self.returncode is None:
            await anyio.wait_readable(self._pidfd)
            self._reap()

    async def write(self, data: bytes) -> bool:
        """Write all of it to the standard input; False when nobody reads it any more."""
        left = memoryview(data)
        descriptor = _descriptor(self._popen.stdin)
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:
                await anyio.wait_writable(descriptor)
            except BrokenPipeError:
                return False
        return True

    def end_input(self) -> None:
        """Close its standard input. Not while `write` is under way."""
        if self._popen.stdin is not None:
            self._popen.stdin.close()

    async def read_stdout(self) -> bytes:
        """What it prints next, at most 64 KiB; nothing when its standard output has ended."""
        return await _read(_descriptor(self._popen.stdout))

    async def keep_stderr(self, tail: "Tail") -> None:
        """Read its standard error until that ends, and keep the end of it."""
        while chunk := await _read(_descriptor(self._popen.stderr)):
            tail.add(chunk)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            if self.returncode is None:
                await self._end()
            os.close(self._pidfd)
            for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
                if pipe is not None:
                    pipe.close()

    async def _end(self) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(REAP_SECONDS):
            # In a thread, because /proc may be long: 10 ms for 150 processes, which no call that went well should pay.
            await anyio.to_thread.run_sync(_kill_tree, self.pid)
            await anyio.wait_readable(self._pidfd)
            self._reap()

    def _reap(self) -> None:
        # Kill first: once it is reaped, its number may be another's.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.poll()


class Tail:
    """Keeps the last `limit` bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = b""

    def add(self, chunk: bytes) -> None:
        self._data = (self._data + chunk)[-self._limit :]

    @property
    def text(self) -> str:
        return self._data.decode(errors="replace").strip()


def start(argv: Sequence[str], *, folder: Path, env: Mapping[str, str], with_input: bool = True) -> Program:
    """Start a program in `folder` with `env` and nothing else of ours; without input it reads from /dev/null.

    Blocks for about a millisecond. Raises ToolUnavailable when the host has no process to give, InvalidInput when the
    arguments are longer than the kernel takes, ToolFailed when there is no such program or folder.
    """
    pipe = subprocess.PIPE
    try:
        popen = subprocess.Popen(
            argv,
            cwd=folder,
            env=dict(env),
            stdin=pipe if with_input else subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        raise _refusal(Path(argv[0]).name, error) from error
    return Program(popen)


def _refusal(name: str, error: OSError) -> InvalidInput | ToolUnavailable | ToolFailed:
    reason = os.strerror(error.errno or 0)
    if error.errno in _SCARCE:
        return ToolUnavailable(f"program {name}", reason)
    if error.errno == errno.E2BIG:
        return InvalidInput(f"the arguments are too long for the command line of {name}; pass less at a time")
    return ToolFailed(f"program {name} cannot be started: {reason}", details={"type": type(error).__name__})


def _descriptor(pipe: IO[bytes] | None) -> int:
    assert pipe is not None
    return pipe.fileno()


async def _read(descriptor: int) -> bytes:
    await anyio.lowlevel.checkpoint()  # whoever prints without end must not keep the loop to itself
    while True:
        try:
            return os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            await anyio.wait_readable(descriptor)


def _kill_tree(pid: int) -> None:
    """Kill `pid`, its session, and everything that descends from them; return when they are dead.

    Each process is stopped before its children are looked for, so that none is born unseen. Only one that began a
    session of its own and whose parent has ended gets away.
    """
    stopped: set[int] = set()
    for _ in range(_ROUNDS):
        found = _family(pid) - stopped
        if not found:
            break
        for member in found:
            _signal(member, signal.SIGSTOP)
        stopped |= found
    for member in stopped:
        _signal(member, signal.SIGKILL)
    until = time.monotonic() + REAP_SECONDS
    while time.monotonic() < until and any(map(_is_alive, stopped)):
        time.sleep(0.001)


def _family(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    family = {pid}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            member = int(folder.name)
            parents[member] = int(fields[1])
            if int(fields[3]) == pid:
                family.add(member)
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _is_alive(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] not in {"Z", "X"}


def _stat(pid: int) -> list[str]:
    """State, parent, process group, session and more; nothing for a process that is gone."""
    try:
        text = Path("/proc", str(pid), "stat").read_text(errors="replace")
    except OSError:
        return []
    # The name, in parentheses, may itself hold spaces and parentheses.
    return text.rpartition(")")[2].split()


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
