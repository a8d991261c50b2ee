"""One WASM guest in its worker: a store, a thread, a stream to the gateway, a private folder. Runs one snippet."""

import base64
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from wasmtime import Engine, Store, WasiConfig, WasmtimeError
from wasmtime.component import Component, Linker

from gateway.v1 import gateway_pb2 as pb
from runtimes.wasm import wasi
from runtimes.wasm.border import add_import, export
from runtimes.wasm.engine import Ticker, checked
from runtimes.wasm.place import Place, Places
from runtimes.wasm.stream import HungUp, Inbox, Outbox
from runtimes.wasm.tape import Tape
from runtimes.wasm.wasi import Chance

FLUSH_BYTES = 16 << 10
"""Output is sent when this much has gathered, at every tick, and before the guest waits for anything."""

DISK_CHECK_TICKS = 5
"""Every so many ticks, and at its end, the guest's folder is measured, if its size is limited."""

MAX_FRAME_BYTES = 5 << 20
"""The gateway ends the stream of a guest that sends more at once."""

STDOUT, STDERR = 1, 2
STREAMS = {STDOUT: pb.Output.STREAM_STDOUT, STDERR: pb.Output.STREAM_STDERR}
FINISHED = {
    "completed": pb.Finished.KIND_COMPLETED,
    "raised": pb.Finished.KIND_RAISED,
    "exited": pb.Finished.KIND_EXITED,
    "too_large": pb.Finished.KIND_TOO_LARGE,
}

HOST_SAYS = {"tape", "departed"}
"""Fields of the last frame that are not the guest's to fill in."""

SEED_BYTES = 32

# What a native interpreter would have died of. (libc's abort traps, and so does a stack that runs over.)
TRAPS = {"unreachable": 6, "stack": 11, "memory fault": 11, "out of bounds": 11}


@dataclass(frozen=True, slots=True)
class Order:
    """What the host asks for: one guest, held to these limits (None for not asked)."""

    id: int
    address: str
    token: str
    memory_bytes: int | None
    cpu_seconds: float | None
    disk_bytes: int | None


class Exited(Exception):
    """The guest called os._exit."""


class Guest:
    """Lives once: instantiate, attach, wait for the snippet, run it, say how it ended."""

    def __init__(
        self,
        order: Order,
        places: Places,
        attach: Callable[[Iterator[pb.GuestFrame]], Iterable[pb.HostFrame]],
        engine: Engine,
        component: Component,
        linker: Linker,
        ticker: Ticker,
    ) -> None:
        self.order = order
        self._places = places
        self._place: Place | None = None
        self._engine = engine
        self._component = component
        self._linker = linker
        self._attach = attach
        self._ticker = ticker
        self._outbox = Outbox(lambda: self._stopped is not None)
        self._inbox: Inbox | None = None
        self._output: dict[int, bytearray] = {STDOUT: bytearray(), STDERR: bytearray()}
        self._writing = threading.Lock()  # wasmtime calls back for raw writes on a thread of its own
        self.tape = Tape(b"", 0)
        self.chance = Chance(b"")
        self._arrived: dict[int, str] = {}
        self._ahead: dict[int, str] = {}
        self._unanswered: set[int] = set()
        self._handles = 0
        self._ticks = 0
        self._cpu_start = 0.0
        self._stopped: str | None = None
        self._exit_code: int | None = None

    def stop(self, reason: str) -> None:
        """Make the guest trap at its next tick; the first reason counts."""
        self._stopped = self._stopped or reason

    def live(self, report: Callable[[dict[str, Any]], None]) -> None:
        """The guest's whole life. Reports its end exactly once, before the gateway hears its last word."""
        ending: dict[str, Any] = {"lost": "the guest could not be made"}
        finished: pb.Finished | None = None
        store = Store(self._engine)
        try:
            with contextlib.suppress(HungUp):
                ending = {"lost": "the host hung up"}
                ending, finished = self._run(store)
        except WasmtimeError as error:
            ending = {"lost": f"the guest could not be made: {str(error)[:200]}"}
        finally:
            report({"id": self.order.id, "ended": ending, "cpu_seconds": time.thread_time() - self._cpu_start})
            self._leave(finished)
            store.close()
            if self._place is not None:
                self._places.give_back(self._place)

    def _run(self, store: Store) -> tuple[dict[str, Any], pb.Finished | None]:
        place = self._place = self._places.take()
        run, hand_out = self._instantiate(store, place)
        self._inbox = Inbox(iter(self._attach(iter(self._outbox))))
        self._outbox.put(pb.GuestFrame(hello=pb.Hello(token=self.order.token, agent_version="1", language="python")))
        request = self._inbox.take()
        if request is None or not request.HasField("execute"):
            raise HungUp
        execute = request.execute
        self.tape = Tape(execute.tape, execute.unix_micros or time.time_ns() // 1000)
        self.chance = Chance(execute.seed or os.urandom(SEED_BYTES))
        self._ahead = {reply.id: _told(reply) for reply in execute.replies}
        self._cpu_start = time.thread_time()
        guests[threading.get_ident()] = self
        wasi.begin(self)
        try:
            with checked(store, self.order.id, self._check), self._ticker.running():
                said = run(*_request(execute), self.chance.take(SEED_BYTES).hex())
                if place.is_touched():
                    if self._overfills_disk():
                        return {"limit": "disk_bytes"}, None
                    hand_out()
        except Exited:
            return {"exit_code": self._exit_code}, None
        except WasmtimeError as error:
            return self._trapped(str(error)), None
        except (ValueError, OverflowError):  # nonsense for an import, which only hostile code passes
            return {"signal": 6}, None
        finally:
            wasi.end()
            del guests[threading.get_ident()]
            self.flush()
        return {}, self._said(said)

    def _instantiate(self, store: Store, place: Place) -> tuple[Callable[..., Any], Callable[..., Any]]:
        if self.order.memory_bytes is not None:
            store.set_limits(memory_size=self.order.memory_bytes)
        wasi = WasiConfig()
        wasi.stdout_custom = lambda data: self._write(STDOUT, data)
        wasi.stderr_custom = lambda data: self._write(STDERR, data)
        wasi.preopen_dir(str(place.root), "/")
        store.set_wasi(wasi)
        store.set_epoch_deadline(1 << 60)
        instance = self._linker.instantiate(store, self._component)
        export(instance, store, "prepare")()
        return export(instance, store, "run", results=1), export(instance, store, "hand-out")

    def _said(self, said: str) -> pb.Finished | None:
        """Its last word, and what is left to say of the time it was told."""
        finished = _finished(said)
        if finished is not None:
            finished.departed = self.tape.departed or self.tape.playing
            finished.tape = self.tape.take()
        return finished

    def _leave(self, finished: pb.Finished | None) -> None:
        """Say the last word, if there is one, and wait until the host has heard it."""
        self._outbox.close(finished and pb.GuestFrame(finished=finished))
        if self._inbox is not None:
            with contextlib.suppress(HungUp):
                while True:
                    self._inbox.take()

    def _trapped(self, message: str) -> dict[str, Any]:
        if self._stopped == "killed":
            return {}
        if self._stopped is not None:
            return {"limit": self._stopped}
        cause = message.rsplit("wasm trap:", 1)[-1] if "wasm trap:" in message else message
        return {"signal": next((number for text, number in TRAPS.items() if text in cause), 6)}

    def _check(self) -> str | None:
        """At every tick, in the guest's thread: why it must stop now, if it must."""
        self.flush()
        self._ticks += 1
        cpu_seconds = self.order.cpu_seconds
        if cpu_seconds is not None and time.thread_time() - self._cpu_start > cpu_seconds:
            self.stop("cpu_seconds")
        if self._ticks % DISK_CHECK_TICKS == 0 and self._overfills_disk():
            self.stop("disk_bytes")
        return self._stopped

    def _overfills_disk(self) -> bool:
        limit = self.order.disk_bytes
        return limit is not None and self._place is not None and self._place.size_bytes() > limit

    # What the guest may import. All run in the guest's thread.

    def call(self, operation: str, arguments: str, site: str) -> str:
        return self._reply(self.send(operation, arguments, site))

    def send(self, operation: str, arguments: str, site: str) -> int:
        self.flush()
        self._handles += 1
        self._unanswered.add(self._handles)
        call = pb.ToolCall(
            id=self._handles,
            operation=_bounded(operation),
            arguments=_bounded(arguments).encode(),
            site=_bounded(site),
            tape=self.tape.take(),
        )
        self._outbox.put(pb.GuestFrame(tool_call=call))
        if (told := self._ahead.pop(self._handles, None)) is not None:
            self._arrived[self._handles] = told
        return self._handles

    def wait(self, seconds: float) -> str:
        self.flush()
        told = self.tape.wait()
        if told and told not in self._unanswered:
            self.tape.depart()
            told = None
        if told is None:
            if not self._arrived:
                self._receive(None if seconds < 0 else seconds)
            told = next(iter(self._arrived), 0)
            self.tape.waited(told)
        return f"{told} {self._reply(told)}" if told else ""

    def sleep(self, seconds: float) -> None:
        self.flush()
        if self.tape.wait() is not None:
            return  # it has been slept before
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._receive(left)
        self.tape.waited(0)

    def _reply(self, handle: int) -> str:
        while handle not in self._arrived:
            self._receive(None)
        self._unanswered.discard(handle)
        return self._arrived.pop(handle)

    def emit(self, descriptor: int, data: str) -> None:
        self._write(descriptor, data.encode("latin-1"))

    def artifact(self, path: str, data: str) -> None:
        self.flush()
        artifact = pb.Artifact(path=_bounded(path), data=_bounded(data).encode("latin-1"))
        self._outbox.put(pb.GuestFrame(artifact=artifact))

    def exit(self, code: int) -> None:
        self._exit_code = code
        raise Exited

    def _receive(self, seconds: float | None) -> None:
        assert self._inbox is not None
        frame = self._inbox.take(seconds)
        if frame is not None and frame.HasField("tool_reply"):
            self._arrived[frame.tool_reply.id] = _told(frame.tool_reply)

    def _write(self, descriptor: int, data: bytes) -> None:
        with self._writing:
            buffer = self._output[STDERR if descriptor == STDERR else STDOUT]
            buffer += data
        if len(buffer) >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        with self._writing:
            for descriptor, buffer in self._output.items():
                for at in range(0, len(buffer), MAX_FRAME_BYTES):
                    output = pb.Output(stream=STREAMS[descriptor], data=bytes(buffer[at : at + MAX_FRAME_BYTES]))
                    self._outbox.put(pb.GuestFrame(output=output))
                buffer.clear()


def _told(reply: pb.ToolReply) -> str:
    """As the guest reads it."""
    ok = reply.WhichOneof("outcome") == "value"
    return "1" + reply.value.decode() if ok else "0" + reply.error.decode()


def _bounded(text: str) -> str:
    if len(text) > MAX_FRAME_BYTES:
        raise ValueError(f"{len(text)} characters for one frame")
    return text


guests: dict[int, Guest] = {}
"""The guest that runs in each thread, by which the one linker finds whom a call came from."""


def make_linker(engine: Engine) -> Linker:
    """WASI and the imports of guest.wit, for every guest of this worker: making one costs half a millisecond."""
    linker = Linker(engine)
    linker.add_wasip2()
    linker.allow_shadowing = True
    with linker.root() as root:
        wasi.install(root)
        for name in ("call", "send", "wait", "sleep", "emit", "artifact", "exit"):
            add_import(root, name, _import(name))
    return linker


def _import(name: str) -> Callable[..., Any]:
    method = getattr(Guest, name)

    def imported(*arguments: Any) -> Any:
        return method(guests[threading.get_ident()], *arguments)

    return imported


def _request(execute: pb.Execute) -> tuple[str, int, str, str, str]:
    """The first arguments of the guest's `run`. Without environment and files, which is usual, nothing is encoded."""
    env = json.dumps(dict(execute.env)) if execute.env else ""
    files = {file.path: base64.b64encode(file.data).decode() for file in execute.files}
    earlier = json.dumps(list(execute.earlier)) if execute.earlier else ""
    return execute.code, execute.value_bytes, env, json.dumps(files) if files else "", earlier


def _finished(said: str) -> pb.Finished | None:
    """The guest's answer as its last frame, None when it is not one: a snippet can reach the code that writes it."""
    head, _, value = said.partition("\n")
    try:
        facts = {name: fact for name, fact in json.loads(head).items() if name not in HOST_SAYS}
        kind, error = FINISHED[facts.pop("kind")], facts.pop("error", None)
        return pb.Finished(kind=kind, value=value.encode(), error=error and pb.GuestError(**error), **facts)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
