"""Output of a guest's own file descriptors, on its way to whoever listens."""

from gateway.frames import StreamName
from runtimes.base import OutputSink


class Output:
    """Passes output on, or keeps it, in order, until somebody listens."""

    def __init__(self) -> None:
        self._unheard: list[tuple[StreamName, bytes]] = []
        self._sink: OutputSink = lambda stream, data: self._unheard.append((stream, data))

    def __call__(self, stream: StreamName, data: bytes) -> None:
        self._sink(stream, data)

    def listen(self, sink: OutputSink) -> None:
        for stream, data in self._unheard:
            sink(stream, data)
        self._unheard.clear()
        self._sink = sink
