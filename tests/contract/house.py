"""Runs in a guest's place, as its first process: starts an agent for each guest that it is told of, side by side.

Each agent is a process of its own, as `runtimes/guest/init.py` would start it, with its own socket, token and folder;
what they share is the place, and the modules that each would have imported. `housed.py` is the host's part: it
gives this file to Python as text, tells it one JSON line for each guest to start or to end, and hears what guests
write and how they ended.
"""

import base64
import ctypes
import json
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, "/opt/toolexec")  # where images have the agent

from runtimes.guest import agent, init

CHUNK = 1 << 16
PR_SET_PDEATHSIG = 1
STDIN = 0


class Guest:
    """One agent's process. `outputs` are its standard output and error, while they are open."""

    def __init__(self, number: int, config: dict[str, Any]) -> None:
        self.number = number
        stdin, out, err = os.pipe(), os.pipe(), os.pipe()
        os.write(stdin[1], json.dumps(config).encode() + b"\n")
        self.outputs = {out[0]: "stdout", err[0]: "stderr"}
        self.pid = os.fork()
        if self.pid == 0:
            _become_agent((stdin[0], out[1], err[1]))
        for descriptor in (*stdin, out[1], err[1]):
            os.close(descriptor)
        for descriptor in self.outputs:
            os.set_blocking(descriptor, False)

    def read(self, descriptor: int) -> bool:
        """Pass on what it wrote; whether there may be more."""
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return False
        if data:
            say(guest=self.number, stream=self.outputs[descriptor], data=base64.b64encode(data).decode())
        else:
            os.close(descriptor)
            del self.outputs[descriptor]
        return bool(data)

    def kill(self) -> None:
        """With what it has in the background."""
        with suppress(ProcessLookupError):  # it has not left the house's group yet, or everything of it is gone
            os.killpg(self.pid, signal.SIGKILL)

    def bury(self, status: int) -> None:
        self.kill()
        for descriptor in list(self.outputs):
            while self.read(descriptor):
                pass
        for descriptor in self.outputs:
            os.close(descriptor)
        say(guest=self.number, exit=init.encode(os.waitstatus_to_exitcode(status)))


def _become_agent(streams: tuple[int, int, int]) -> NoReturn:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor, pipe in enumerate(streams):
        os.dup2(pipe, descriptor)
    agent.main()


def say(**words: Any) -> None:
    line = json.dumps(words).encode() + b"\n"
    while line:
        line = line[os.write(1, line) :]


class House:
    def __init__(self) -> None:
        self.guests: dict[int, Guest] = {}
        self.woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake)
        self.told = b""

    def run(self) -> NoReturn:
        while True:
            writing = {descriptor: guest for guest in self.guests.values() for descriptor in guest.outputs}
            ready, _, _ = select.select([STDIN, self.woken, *writing], [], [])
            for descriptor in ready:
                if descriptor in writing:
                    writing[descriptor].read(descriptor)
            if STDIN in ready:
                self.hear(os.read(STDIN, CHUNK))
            if self.woken in ready:
                os.read(self.woken, CHUNK)
                self.reap()

    def hear(self, data: bytes) -> None:
        *lines, self.told = (self.told + data).split(b"\n")
        for order in map(json.loads, lines):
            if (number := order.get("start")) is not None:
                Path(order["config"]["work"]).parent.mkdir()
                self.guests[number] = Guest(number, order["config"])
            elif (guest := self.guests.get(order.get("end"))) is not None:
                guest.kill()
                os.kill(guest.pid, signal.SIGKILL)

    def reap(self) -> None:
        by_pid = {guest.pid: guest for guest in self.guests.values()}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (guest := by_pid.get(pid)) is not None:  # else it was a guest's own child
                del self.guests[guest.number]
                guest.bury(status)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        init._take_streams(sys.argv[1])
    House().run()
