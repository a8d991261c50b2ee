"""The two directions of a guest's stream, as its thread uses them."""

import queue
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from gateway.v1 import gateway_pb2 as pb

MAX_UNSENT_BYTES = 8 << 20
"""A guest that is this far ahead of its host waits: what is not sent yet lies in the worker's memory."""

WAIT_SECONDS = 0.002


class HungUp(Exception):
    """The host ended the guest's stream; the guest is to stop."""


class Inbox:
    """Frames from the host. Read straight off the stream until somebody waits with a bound; then by a thread."""

    def __init__(self, stream: Iterator[pb.HostFrame]) -> None:
        self._stream = stream
        self._queue: queue.SimpleQueue[pb.HostFrame | None] | None = None

    def take(self, seconds: float | None = None) -> pb.HostFrame | None:
        """The next frame, None when none came in time. Raise HungUp."""
        if self._queue is None:
            if seconds is None:
                return self._read() or _hung_up()
            self._queue = queue.SimpleQueue()
            threading.Thread(target=self._pump, args=(self._queue,), daemon=True).start()
        try:
            return self._queue.get(timeout=seconds) or _hung_up()
        except queue.Empty:
            return None

    def _read(self) -> pb.HostFrame | None:
        try:
            return next(self._stream)
        except (StopIteration, grpc.RpcError):
            return None

    def _pump(self, frames: queue.SimpleQueue[pb.HostFrame | None]) -> None:
        while (frame := self._read()) is not None:
            frames.put(frame)
        frames.put(None)


def _hung_up() -> pb.HostFrame:
    raise HungUp


class Outbox:
    """Frames to the host, in order. A guest that sends faster than the host reads waits until `stopped` says otherwise.

    The stream's thread takes them by iterating; the guest's thread, and wasmtime's for raw output, put.
    """

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._frames: queue.SimpleQueue[pb.GuestFrame | None] = queue.SimpleQueue()
        self._counting = threading.Lock()
        self._put_bytes = 0
        self._taken_bytes = 0

    def put(self, frame: pb.GuestFrame) -> None:
        with self._counting:
            self._put_bytes += frame.ByteSize()
        self._frames.put(frame)
        while self._put_bytes - self._taken_bytes > MAX_UNSENT_BYTES and not self._stopped():
            time.sleep(WAIT_SECONDS)

    def close(self, last: pb.GuestFrame | None = None) -> None:
        """Send what was put, then `last`, and no more. Does not wait."""
        if last is not None:
            self._frames.put(last)
        self._frames.put(None)

    def __iter__(self) -> Iterator[pb.GuestFrame]:
        while (frame := self._frames.get()) is not None:
            self._taken_bytes += frame.ByteSize()
            yield frame
