"""The agent of guests that are processes: attaches to the gateway, waits for the snippet, runs it, says how it ended.

Its configuration is one JSON line on standard input: address and token of the endpoint, the working folder, and limits
for the kernel to hold. Until the snippet runs nothing here is the guest's, so what is set before can be relied on;
from then on everything this process says is an attacker's, and the host treats it so.
"""

import asyncio
import gc
import json
import os
import queue
import resource
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn

import grpc

from gateway.frames import GUEST_OPTIONS
from gateway.v1 import gateway_pb2 as pb
from gateway.v1 import gateway_pb2_grpc as pb_grpc
from runtimes.guest import files
from runtimes.guest.ending import finished
from runtimes.guest.outcome import Request, run_snippet
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

    def __init__(self, address: str) -> None:
        self._outbox: queue.SimpleQueue[pb.GuestFrame | None] = queue.SimpleQueue()
        stub = pb_grpc.GatewayServiceStub(grpc.insecure_channel(address, options=GUEST_OPTIONS))
        self._frames = stub.Attach(iter(self._outbox.get, None))
        self._waiting: dict[int, Future[pb.ToolReply]] = {}
        self._ids = iter(range(1, 1 << 32))

    def send(self, **frame: Any) -> None:
        self._outbox.put(pb.GuestFrame(**frame))

    def ask(self, operation: str, arguments: str) -> Future[pb.ToolReply]:
        number, future = next(self._ids), Future[pb.ToolReply]()
        self._waiting[number] = future
        self.send(tool_call=pb.ToolCall(id=number, operation=operation, arguments=arguments.encode()))
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
                future = self._waiting.pop(frame.tool_reply.id, None)
                if future is not None:
                    future.set_result(frame.tool_reply)
        except grpc.RpcError:
            pass
        _leave()


class StreamTransport:
    """The gateway through the stream."""

    def __init__(self, stream: Stream, pending: Pending) -> None:
        self._stream = stream
        self._pending = pending

    def call(self, operation: str, arguments: str) -> str:
        return _result(self._stream.ask(operation, arguments).result())

    async def acall(self, operation: str, arguments: str) -> str:
        self._pending.calls += 1
        try:
            return _result(await asyncio.wrap_future(self._stream.ask(operation, arguments)))
        finally:
            self._pending.calls -= 1


def _result(reply: pb.ToolReply) -> str:
    if reply.WhichOneof("outcome") == "error":
        raise GatewayRefusal(reply.error.decode())
    return reply.value.decode()


def main() -> NoReturn:
    config = json.loads(sys.stdin.buffer.readline())
    sys.argv = [""]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", write_through=True)  # type: ignore[union-attr]  # both are text streams
    try:
        _serve(config)
    except grpc.RpcError:
        _leave()


def _serve(config: dict[str, Any]) -> NoReturn:
    stream = Stream(config["address"])
    _hold(config)
    hello = pb.Hello(
        token=config["token"], agent_version=VERSION, language="python", evidence=json.dumps(_evidence()).encode()
    )
    del config["token"]
    gc.freeze()
    stream.send(hello=hello)
    execute = stream.wait_for_execute()
    threading.Thread(target=stream.listen, daemon=True).start()
    _run(execute, stream, Path(config["work"]))
    while True:  # until the host has heard it all and hangs up: `listen` ends the process
        threading.Event().wait()


def _run(execute: pb.Execute, stream: Stream, work: Path) -> None:
    os.environ.clear()
    os.environ.update({"HOME": str(work), "TMPDIR": str(work.parent / "tmp"), "PATH": os.defpath, **execute.env})
    os.chdir(work)
    files.write_files(work, {file.path: file.data for file in execute.files})
    before = files.snapshot(work)
    pending = Pending()
    asyncio.events.new_event_loop = asyncio.new_event_loop = pending.new_loop
    tools = Tools(StreamTransport(stream, pending))
    ending = run_snippet(Request(execute.code, execute.value_bytes), tools, asyncio.run)
    for path, data in files.collect_files(work, before):
        for at in range(0, max(len(data), 1), CHUNK):
            stream.send(artifact=pb.Artifact(path=path, data=data[at : at + CHUNK]))
    facts, value = finished(ending)
    error = facts.pop("error", None)
    kind = KINDS[facts.pop("kind")]
    stream.send(finished=pb.Finished(kind=kind, value=value, error=error and pb.GuestError(**error), **facts))


def _hold(config: dict[str, Any]) -> None:
    """Have the kernel hold this process to its limits, on top of what the agent itself has taken so far."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if (memory_bytes := config.get("memory_bytes")) is not None:
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
