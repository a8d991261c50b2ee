"""The application of the WASM guest: `runtimes.guest` on the imports of guest.wit. Built into a snapshot, never
imported elsewhere. What is imported here is in the snapshot and free at run time."""

# Modules that snippets use most, so that importing them costs nothing.
import abc  # noqa: F401
import asyncio
import base64
import contextlib
import functools  # noqa: F401
import gc
import importlib.util
import io
import json
import os
import pathlib
import random
import string  # noqa: F401
import sys
import time
from collections.abc import Iterator

import wit_world

from runtimes.guest import files, heap, locks, stdlib
from runtimes.guest.ending import finished
from runtimes.guest.hostloop import HostLoop
from runtimes.guest.outcome import Request, run_snippet
from runtimes.guest.places import Places
from runtimes.guest.tools import GatewayRefusal, Tools

WORK = pathlib.Path("/work")
CHUNK = 1 << 20
ENVIRONMENT = {"HOME": str(WORK), "TMPDIR": "/tmp", "PATH": os.defpath}  # noqa: S108 - the guest's own


class WitTransport:
    """The gateway through the worker. A reply is "1" and the result, or "0" and the error."""

    def call(self, operation: str, arguments: str) -> str:
        return _result(wit_world.call(operation, arguments, HostLoop.places.site(operation)))

    async def acall(self, operation: str, arguments: str) -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, HostLoop)
        return _result(await loop.expect(wit_world.send(operation, arguments, loop.places.site(operation))))


def _result(reply: str) -> str:
    if reply[0] == "0":
        raise GatewayRefusal(reply[1:])
    return reply[1:]


class Emit(io.RawIOBase):
    """Bytes to the worker, as they come: what a guest wrote survives whatever happens to it next."""

    muted = False

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]  # what io passes
        text = bytes(data).decode("latin-1")
        if text and not Emit.muted:
            wit_world.emit(self._descriptor, text)
        return len(text)


def _stream(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(Emit(descriptor), "utf-8", "backslashreplace", write_through=True)  # type: ignore[arg-type]  # an unbuffered raw stream


def _sleep(seconds: float) -> None:
    """time.sleep, in the host, where it can be interrupted."""
    if not isinstance(seconds, (int, float)):
        raise TypeError(f"'{type(seconds).__name__}' object cannot be interpreted as an integer")
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    wit_world.sleep(float(seconds))


def _set_up() -> None:
    """Put the guest's own in the place of what WebAssembly has no system for."""
    HostLoop.wait, HostLoop.places = staticmethod(wit_world.wait), Places()
    asyncio.events.new_event_loop = asyncio.new_event_loop = HostLoop
    time.sleep = _sleep  # type: ignore[assignment]  # takes what its callers pass
    os._exit = wit_world.exit  # WASI keeps the code for itself
    locks.install()
    data = importlib.util.find_spec("tzdata")
    assert data is not None
    assert data.origin is not None
    root = pathlib.Path(data.origin).parent.parent
    zones = {name: entry for name, entry in stdlib.bake(root).items() if name.startswith("tzdata")}
    stdlib.install(stdlib.bake(pathlib.Path("/python")) | zones, stdlib.bake_data(root, "tzdata"))


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    Emit.muted = True
    try:
        yield
    finally:
        Emit.muted = False


def _run(code: str, value_bytes: int, earlier: tuple[str, ...] = ()) -> str:
    sys.stdout, sys.stderr = STDOUT, STDERR
    HostLoop.places = Places()
    request = Request(code, value_bytes, earlier=earlier, unheard=_unheard)
    facts, value = finished(run_snippet(request, TOOLS, asyncio.run))
    return json.dumps(facts) + "\n" + value.decode()


# Made once, in the snapshot: each of these costs a guest dozens of page faults.
STDOUT, STDERR, TOOLS = _stream(1), _stream(2), Tools(WitTransport())
before: files.Snapshot = {}

USUAL = (
    "x = [1, 2]\n'{}'.format(len(x))",
    "import json\ndef f(x: int) -> int:\n    return x + 1\n{str(n): f(n) for n in range(3)}",
    "import asyncio\nawait asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))\nprint('', end='')",
    "1 / 0",
)


class WitWorld(wit_world.WitWorld):  # type: ignore[misc]  # made when the guest is built
    """The exports of guest.wit."""

    def prepare(self) -> None:
        os.chdir(WORK)
        # What the snapshot had for these was replaced when this guest came to life.
        os.environ.update(ENVIRONMENT)
        sys.argv = [""]
        random.seed("")  # as `run` will, for the pages that it writes
        _run(USUAL[0], 100)

    def run(self, code: str, value_bytes: int, env: str, given: str, earlier: str, seed: str) -> str:
        random.seed(seed)  # its state was baked into the snapshot, the same for every guest
        if env:
            os.environ.update(json.loads(env))
        if given:
            files.write_files(WORK, {path: base64.b64decode(data) for path, data in json.loads(given).items()})
            before.update(files.snapshot(WORK))
        return _run(code, value_bytes, tuple(json.loads(earlier)) if earlier else ())

    def hand_out(self) -> None:
        for path, data in files.collect_files(WORK, before):
            for at in range(0, max(len(data), 1), CHUNK):
                wit_world.artifact(path, data[at : at + CHUNK].decode("latin-1"))


def _practise() -> None:
    """Run the usual until the interpreter has specialised its bytecode and made all it makes on first use: what is in
    the snapshot already, no guest has to write, and a page it does not write it shares."""
    streams = sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update({"HOME": str(WORK), "TMPDIR": "/tmp"})  # noqa: S108 - the guest's own
    for _ in range(50):
        for code in USUAL:
            _run(code, 100)
    sys.stdout, sys.stderr = streams
    del sys.modules["__main__"]


_set_up()
_practise()
gc.collect()
BALLAST = heap.fill_gaps()
# Objects made before this line are never scanned by the guest's collector, so their pages stay shared between guests.
gc.freeze()
