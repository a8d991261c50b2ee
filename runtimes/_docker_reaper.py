"""Finds the containers of hosts that are dead, and removes them. A host is known by its run folder; see folder.py."""

import socket
from contextlib import suppress
from pathlib import Path

import anyio

from gateway.errors import SandboxError
from runtimes._docker_config import OWNER_LABEL
from runtimes._docker_engine import Engine
from runtimes.folder import is_alive

ROUND_SECONDS = 0.05


def owner_of(run: Path) -> str:
    """Names a run among all that may share a daemon: process ids mean something within one pid namespace only."""
    return f"{_here()}/{run.name}"


async def reap(engine: Engine) -> None:
    """Remove the containers whose hosts were on this machine and are dead."""
    for container in await engine.containers(OWNER_LABEL):
        here, _, run = container["Labels"][OWNER_LABEL].rpartition("/")
        if here == _here() and not is_alive(run):
            await _remove(engine, container["Id"])


async def remove_all(engine: Engine, owner: str) -> None:
    """Remove every container of this owner, and wait until the daemon knows of none, those included that it was told to
    remove before."""
    while containers := await engine.containers(f"{OWNER_LABEL}={owner}"):
        for container in containers:
            await _remove(engine, container["Id"])
        await anyio.sleep(ROUND_SECONDS)


async def _remove(engine: Engine, container: str) -> None:
    with suppress(SandboxError):  # being removed already; what the daemon cannot remove now, the next start tries
        await engine.remove(container)


def _here() -> str:
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    return f"{socket.gethostname()}-{namespace}"
