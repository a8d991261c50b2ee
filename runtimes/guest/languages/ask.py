"""What the commands `tool` and `result` run: passes a command line to the agent, and its answer on as it comes.

It imports as little as can be, because a snippet waits for it at every call; so it is run by its path, with `-I -S`.
`asker.py` says what goes over the socket.
"""

import os
import sys
from _socket import AF_UNIX, socket  # the module around it takes longer to import than all of this

FAILED, MISUSED = 1, 2
NOBODY_READS = 141
"""What a shell says of a program that was writing when its reader went away."""

LOOK_MILLISECONDS = 200
"""How often to look: gVisor knows that a pipe's reader is gone, and does not wake who waits for that."""


def main(name: str, *arguments: str) -> int:
    """Exit code of the command `name`."""
    address = os.environ.get("TOOLEXEC_AGENT")
    if address is None:
        os.write(2, f"{name}: TOOLEXEC_AGENT is not set; run it with the snippet's environment\n".encode())
        return MISUSED
    takes_input = "-" in arguments or (name == "result" and set(arguments) <= {"-r"})
    words = [os.fsencode(word) for word in (str(len(arguments) + 1), name, *arguments)]
    request = b"\0".join([*words, sys.stdin.buffer.read() if takes_input else b""])
    connection = socket(AF_UNIX)
    connection.connect(b"\0" + address.encode())
    try:  # noqa: SIM105 - contextlib takes its time to import
        connection.sendall(len(request).to_bytes(8) + request)
    except ConnectionError:
        pass  # it was too long for the agent, whose answer says so
    return _answer(connection, waits="--stream" in arguments)


def _answer(connection: socket, *, waits: bool) -> int:
    """Write what the agent says, until it gives the exit code. `waits` says that much time may pass in between."""
    while True:
        if waits:
            _wait(connection)
        head = _read(connection, 5)
        if len(head) < 5:
            return FAILED
        descriptor, number = head[0], int.from_bytes(head[1:])
        if descriptor == 0:
            return number
        while number and (chunk := connection.recv(min(number, 1 << 16))):
            _write(descriptor, chunk)
            number -= len(chunk)


def _wait(connection: socket) -> None:
    """For the agent to say more. Ends this process when nobody reads what it would print."""
    from select import POLLERR, POLLIN, poll  # noqa: PLC0415 - only streams pay for it

    either = poll()
    either.register(connection, POLLIN)
    either.register(1, 0)
    while not (seen := either.poll(LOOK_MILLISECONDS)):
        pass
    if any(descriptor == 1 and event & POLLERR for descriptor, event in seen):
        os._exit(NOBODY_READS)


def _read(connection: socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (chunk := connection.recv(size - len(data))):
        data += chunk
    return data


def _write(descriptor: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except BrokenPipeError:
        os._exit(NOBODY_READS)


if __name__ == "__main__":
    try:
        code = main(*sys.argv[1:])
    except OSError as error:
        os.write(2, f"{sys.argv[1]}: {error}\n".encode())
        code = FAILED
    os._exit(code)
