"""The agent of guests that are processes: attaches to the gateway, waits for the snippet, runs it, says how it ended.

Its configuration is one JSON line on standard input: address and token of the endpoint, the language, the working
folder, and limits for the kernel to hold. Until the snippet runs nothing here is the guest's, so what is set before can
be relied on; from then on everything this process says is an attacker's, and the host treats it so.
"""

import asyncio
import contextlib
import gc
import io
import json
import os
import queue
import random
import resource
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn, Protocol

import grpc

from gateway.frames import GUEST_OPTIONS
from gateway.v1 import gateway_pb2 as pb
from gateway.v1 import gateway_pb2_grpc as pb_grpc
from runtimes.guest import files
from runtimes.guest.ending import finished
from runtimes.guest.languages import PATH, figures
from runtimes.guest.outcome import Ending, Request, run_snippet
from runtimes.guest.places import Places, Site, nowhere
from runtimes.guest.processloop import Pending
from runtimes.guest.tools import GatewayRefusal, Tools

VERSION = "1"
CHUNK = 1 << 20
KINDS = {
    "completed": pb.Finished.KIND_COMPLETED,
    "raised": pb.Finished.KIND_RAISED,
    "exited": pb.Finished.KIND_EXITED,
    "too_large": pb.Finished.KIND_TOO_LARGE,
}


class Stream:
    """The guest's stream: frames out from any thread, replies in to whoever waits for them."""

    def __init__(self, address: str, authority: str | None = None) -> None:
        self._outbox: queue.SimpleQueue[pb.GuestFrame | None] = queue.SimpleQueue()
        stub = pb_grpc.GatewayServiceStub(_channel(address, authority))
        self._frames = stub.Attach(iter(self._outbox.get, None))
        self._waiting: dict[int, Future[str]] = {}
        self._ids = iter(range(1, 1 << 32))

    def send(self, **frame: Any) -> None:
        self._outbox.put(pb.GuestFrame(**frame))

    def ask(self, operation: str, arguments: str, site: str = "") -> Future[str]:
        """The result as JSON, or GatewayRefusal."""
        number, future = next(self._ids), Future[str]()
        self._waiting[number] = future
        call = pb.ToolCall(id=number, operation=operation, arguments=arguments.encode(), site=site)
        self.send(tool_call=call)
        return future

    def wait_for_execute(self) -> pb.Execute:
        for frame in self._frames:
            if frame.HasField("execute"):
                execute: pb.Execute = frame.execute
                return execute
        return _leave()

    def listen(self) -> None:
        """Hand replies out until the host hangs up; then this process has no more to do."""
        try:
            for frame in self._frames:
                reply = frame.tool_reply
                future = self._waiting.pop(reply.id, None)
                if future is None or not future.set_running_or_notify_cancel():
                    continue  # nobody waits for it any more
                if reply.WhichOneof("outcome") == "error":
                    future.set_exception(GatewayRefusal(reply.error.decode()))
                else:
                    future.set_result(reply.value.decode())
        except grpc.RpcError:
            pass
        _leave()


class StreamTransport:
    """The gateway through the stream."""

    def __init__(self, stream: Stream, pending: Pending, site: Site = nowhere) -> None:
        self._stream = stream
        self._pending = pending
        self._site = site

    def call(self, operation: str, arguments: str) -> str:
        return self._stream.ask(operation, arguments, self._site(operation)).result()

    async def acall(self, operation: str, arguments: str) -> str:
        self._pending.calls += 1
        try:
            return await asyncio.wrap_future(self._stream.ask(operation, arguments, self._site(operation)))
        finally:
            self._pending.calls -= 1


def _channel(address: str, authority: str | None) -> grpc.Channel:
    """A Unix socket is the guest's own; what is behind an address must show a certificate by `authority`."""
    if authority is None:
        return grpc.insecure_channel(address, options=GUEST_OPTIONS)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.encode()), options=GUEST_OPTIONS)


def main() -> NoReturn:
    config = json.loads(sys.stdin.buffer.readline())
    sys.argv = [""]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = _unbuffered(1, "<stdout>"), _unbuffered(2, "<stderr>")
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]  # the interpreter's own are done with
    try:
        _serve(config)
    except grpc.RpcError:
        _leave()


class Whole(io.FileIO):
    """Writes everything: gVisor takes a part of what is longer than a pipe, and a raw stream would lose the rest."""

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):
            written += super().write(view[written:]) or 0
        return written


def _unbuffered(descriptor: int, name: str) -> io.TextIOWrapper:
    raw = Whole(descriptor, "w", closefd=False)
    raw.name = name  # as the interpreter itself does
    return io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)


def _serve(config: dict[str, Any]) -> NoReturn:
    stream, language = Stream(config["address"], config.get("authority")), config.get("language", "python")
    for folder in (Path(config["work"]), Path(config["work"]).parent / "tmp"):
        folder.mkdir(exist_ok=True)
    _hold(config)
    snippets = _snippets(stream, config)
    hello = pb.Hello(
        token=config["token"], agent_version=VERSION, language=language, evidence=json.dumps(_evidence()).encode()
    )
    del config["token"]
    gc.freeze()
    stream.send(hello=hello)
    execute = stream.wait_for_execute()
    threading.Thread(target=stream.listen, daemon=True).start()
    _run(execute, stream, Path(config["work"]), snippets)
    while True:  # until the host has heard it all and hangs up: `listen` ends the process
        threading.Event().wait()


def _run(execute: pb.Execute, stream: Stream, work: Path, snippets: "Snippets") -> None:
    os.environ.clear()
    os.environ.update({"HOME": str(work), "TMPDIR": str(work.parent / "tmp"), "PATH": PATH, **execute.env})
    os.chdir(work)
    files.write_files(work, {file.path: file.data for file in execute.files})
    before = files.snapshot(work)
    request = Request(
        execute.code, execute.value_bytes, execute.seed.hex(), earlier=tuple(execute.earlier), unheard=_unheard
    )
    ending = snippets.run(request)
    for path, data in files.collect_files(work, before):
        for at in range(0, max(len(data), 1), CHUNK):
            stream.send(artifact=pb.Artifact(path=path, data=data[at : at + CHUNK]))
    facts, value = finished(ending)
    error = facts.pop("error", None)
    kind = KINDS[facts.pop("kind")]
    stream.send(finished=pb.Finished(kind=kind, value=value, error=error and pb.GuestError(**error), **facts))


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """What this process and its children write goes nowhere."""
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        yield
    finally:
        for descriptor, back in zip((1, 2), kept, strict=True):
            os.dup2(back, descriptor)
            os.close(back)
        os.close(nowhere)


class Snippets(Protocol):
    """Runs the one snippet of a guest, in its language. What can be made ready ahead of it is, when this is made."""

    def run(self, request: Request) -> Ending:
        """Run it in the environment and the folder that are this process's own by now."""
        ...


class Python:
    """Runs the snippet in this very process."""

    def __init__(self, stream: Stream, work: Path) -> None:
        self._stream = stream
        self._work = work
        self._environment = figures.environment(work.parent / "tmp")

    def run(self, request: Request) -> Ending:
        for name, value in self._environment.items():
            os.environ.setdefault(name, value)
        places, pending = Places(), Pending()
        pending.on_loop = places.watch
        asyncio.events.new_event_loop = asyncio.new_event_loop = pending.new_loop
        if request.seed:
            random.seed(request.seed)
        ending = run_snippet(request, Tools(StreamTransport(self._stream, pending, places.site)), asyncio.run)
        figures.save(self._work)
        return ending


def _snippets(stream: Stream, config: dict[str, Any]) -> Snippets:
    # Guests in one language need nothing of the others.
    match config.get("language", "python"):
        case "bash":
            from runtimes.guest.languages.bash import Bash  # noqa: PLC0415

            return Bash(StreamTransport(stream, Pending()), Path(config["work"]))
        case "javascript":
            from runtimes.guest.languages.javascript import JavaScript  # noqa: PLC0415

            return JavaScript(stream.ask, Path(config["work"]), config.get("memory_bytes"))
        case _:
            return Python(stream, Path(config["work"]))


def _hold(config: dict[str, Any]) -> None:
    """Have the kernel hold this process to its limits, on top of what the agent itself has taken so far."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What runs JavaScript is held to it on its own: it reserves far more address space than it uses.
    if (memory_bytes := config.get("memory_bytes")) is not None and config.get("language") != "javascript":
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory_bytes,) * 2)
    if (cpu_seconds := config.get("cpu_seconds")) is not None:
        used = sum(os.times()[:2])
        soft = max(1, round(used + cpu_seconds + 0.5))
        resource.setrlimit(resource.RLIMIT_CPU, (soft, soft + 1))


def _evidence() -> dict[str, str]:
    wanted = {"Uid", "CapEff", "NoNewPrivs", "Seccomp"}
    lines = (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: value.strip() for name, _, value in lines if name in wanted}


def _leave() -> NoReturn:
    """At once: whatever the guest left in its threads and exit handlers has no say any more."""
    os._exit(0)
