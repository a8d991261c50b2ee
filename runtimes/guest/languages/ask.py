"""What the commands `tool` and `result` run: passes a command line on to the agent, and passes its answer on.

It imports as little as can be, because a snippet waits for it at every call; so it is run by its path, with `-I -S`.
"""

import os
import sys
from _socket import AF_UNIX, SHUT_WR, socket  # the module around it takes longer to import than all of this

MISUSED = 2


def main(name: str, *arguments: str) -> int:
    """Exit code of the command `name`."""
    address = os.environ.get("TOOLEXEC_AGENT")
    if address is None:
        os.write(2, f"{name}: TOOLEXEC_AGENT is not set; run it with the snippet's environment\n".encode())
        return MISUSED
    takes_input = arguments[-1:] == ("-",) or (name == "result" and set(arguments) <= {"-r"})
    words = [os.fsencode(word) for word in (str(len(arguments) + 1), name, *arguments)]
    connection = socket(AF_UNIX)
    connection.connect(b"\0" + address.encode())
    connection.sendall(b"\0".join([*words, sys.stdin.buffer.read() if takes_input else b""]))
    connection.shutdown(SHUT_WR)
    status = connection.recv(1)
    while chunk := connection.recv(1 << 16):
        _write(1 if status == b"\0" else 2, chunk)
    return status[0] if status else 1


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    try:
        code = main(*sys.argv[1:])
    except OSError as error:
        os.write(2, f"{sys.argv[1]}: {error}\n".encode())
        code = 1
    os._exit(code)
