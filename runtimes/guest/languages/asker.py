"""The process that runs a command of ours (`ask.py`), as the agent hears it and speaks to it.

It sends how long its request is (8 bytes, as all numbers the most significant first) and the request: how many words
the command line has, the words, and its standard input, separated by NUL. It then gets, each as it comes, a descriptor
(1 byte), a length (4 bytes) and what to write there; in the end descriptor 0, and the exit code in place of a length.
"""

import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

MAX_REQUEST_BYTES = 8 << 20
"""Of one command line and its standard input: arguments of 4 MiB, and as much again for escapes."""


class Request(NamedTuple):
    """A command line and its standard input."""

    name: str
    arguments: Sequence[str]
    stdin: str


class Asker:
    """One process at the other end of `connection`, which may go away at any time: an OSError of each method.

    After the request it says nothing more, so when `connection` can be read from then, it is gone.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    @property
    def is_ours(self) -> bool:
        """Without a sandbox around it, the socket is there for every user."""
        credentials = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        uid: int = struct.unpack("3i", credentials)[1]
        return uid == os.geteuid()

    def request(self) -> Request | None:
        """What it asks for; None when that is too long."""
        size = int.from_bytes(self._read(8))
        if size > MAX_REQUEST_BYTES:
            return None
        count, _, rest = self._read(size).partition(b"\0")
        *words, stdin = rest.split(b"\0", int(count) if count.isdigit() else 0)
        name, *arguments = (_text(word) for word in words) if words else ("",)
        return Request(name, arguments, _text(stdin))

    def print(self, text: str) -> None:
        """Have it write to its standard output."""
        self._write(1, text)

    def complain(self, text: str) -> None:
        """Have it write to its standard error."""
        self._write(2, text)

    def exit(self, status: int) -> None:
        """Have it exit. The last that is said."""
        self.connection.sendall(b"\0" + status.to_bytes(4))

    def _write(self, descriptor: int, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        self.connection.sendall(bytes([descriptor]) + len(data).to_bytes(4) + data)

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size and (chunk := self.connection.recv(min(size - len(data), 1 << 20))):
            data += chunk
        return bytes(data)


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
