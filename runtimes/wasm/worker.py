"""The process that hosts WASM guests: each in a store and a thread of its own, attached to the gateway ahead of need.

Started by `backend.py`, which speaks JSON lines with it: a configuration line first, then `start` and `kill` orders in,
`ready` and `ended` reports out. It holds no secrets but the tokens of its guests, confines itself before the first
guest starts, and ends with its host.
"""

import gc
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from wasmtime.component import Component

from gateway.frames import GUEST_OPTIONS
from gateway.v1 import gateway_pb2_grpc as pb_grpc
from runtimes import _confine
from runtimes.wasm.engine import Ticker, compiled_path, make_engine
from runtimes.wasm.guest import Guest, Order, make_linker
from runtimes.wasm.place import Places


class Worker:
    """Keeps guests by id and does the host's orders."""

    def __init__(self, folder: Path, compiled: Path, max_guests: int) -> None:
        self._places = Places(folder)
        engine, self.pools = make_engine(max_guests)
        component = Component.deserialize_file(engine, str(compiled))
        self._parts = (engine, component, make_linker(engine), Ticker(engine))
        self._stubs: dict[str, pb_grpc.GatewayServiceStub] = {}
        self._guests: dict[int, Guest] = {}
        self._threads = ThreadPoolExecutor(max_guests, thread_name_prefix="guest")

    def obey(self, line: bytes) -> None:
        order = json.loads(line)
        if order["op"] == "start":
            self._start(Order(**order["guest"]))
        elif (guest := self._guests.get(order["id"])) is not None:
            guest.stop("killed")

    def _start(self, order: Order) -> None:
        guest = Guest(order, self._places, self._stub(order.address).Attach, *self._parts)
        self._guests[order.id] = guest
        self._threads.submit(self._live, guest)

    def _stub(self, address: str) -> pb_grpc.GatewayServiceStub:
        """One connection for all guests of a gateway."""
        if address not in self._stubs:
            self._stubs[address] = pb_grpc.GatewayServiceStub(grpc.insecure_channel(address, options=GUEST_OPTIONS))
        return self._stubs[address]

    def _live(self, guest: Guest) -> None:
        try:
            guest.live(report)
        finally:
            del self._guests[guest.order.id]


_reporting = threading.Lock()


def report(facts: dict[str, Any]) -> None:
    """Tell the host one thing, in one line."""
    line = json.dumps(facts).encode() + b"\n"
    with _reporting:
        os.write(1, line)


def main() -> None:
    config = json.loads(sys.stdin.buffer.readline())
    _confine.die_with_parent(config["parent_pid"])
    cache = Path(config["cache"])
    compiled = compiled_path(cache, config["digest"], config["wasmtime"])
    if not compiled.exists():
        # In a process of its own: it needs threads, and Landlock holds only those that start after it.
        argv = [sys.executable, "-I", "-m", "runtimes.wasm.engine", config["wasm"], str(compiled)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    code = {Path(path) for path in (*sys.path, str(cache)) if path}
    readable = sorted(path for path in code if path.exists())
    confinement = _confine.confine(readable=readable, writable=[Path(config["folder"])])
    # On one core its threads share page tables without interrupting another: a third less time for every guest.
    os.sched_setaffinity(0, {config["core"]})
    gc.set_threshold(100_000, 50, 50)
    worker = Worker(Path(config["folder"]), compiled, config["max_guests"])
    report(
        {
            "ready": True,
            "pooling": worker.pools,
            "missing": list(confinement.missing),
            "confinement": _confine.evidence(),
        }
    )
    for line in sys.stdin.buffer:
        worker.obey(line)
    os._exit(0)  # the host is gone or done with us; gRPC's threads would keep an ordinary exit waiting


if __name__ == "__main__":
    main()
