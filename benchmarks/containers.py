"""Docker and gVisor, where they are usable: warm sandboxes beside `docker run` and `runsc run` of the same snippet."""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from executions import one_after_another, reference, settled, tool_calls
from figures import Figure, left_out, rounds, spread

from sandbox import AsyncExec, Capabilities

SNIPPET = ("-I", "-c", "print(1 + 1)")
POOL_SIZE = 8


@dataclass(frozen=True)
class Goal:
    """The most that one warm execution (ms) and one tool call (µs) may take."""

    execute: float
    tool_call: float


GOALS = {"docker": Goal(15.0, 500.0), "gvisor": Goal(40.0, 2000.0)}


async def measure(share: float) -> list[Figure]:
    async with AsyncExec() as host:
        found = await host.probe()
    figures = []
    for kind, goal in GOALS.items():
        if found[kind].usable:
            figures += await _figures(kind, goal, found[kind], share)
        else:
            left_out(kind, found[kind].reason)
    return figures


async def _figures(kind: str, goal: Goal, found: Capabilities, share: float) -> list[Figure]:
    cold = _docker_run(found, rounds(10, share)) if kind == "docker" else _runsc_run(found, rounds(10, share))
    warm, pool = await _warm(kind, goal, rounds(40, share))
    faster = [
        Figure(f"{kind}: times faster than cold", "x", one.p50 / warm.p50, target=10.0, more_is_better=True)
        for one in cold
    ]
    calls = await tool_calls(f"{kind}: tool call from inside", rounds(1000, share), goal.tool_call, backend=kind)
    return [*cold, warm, *faster, calls, *pool]


def _docker_run(found: Capabilities, count: int) -> list[Figure]:
    argv = ("docker", "run", "--rm", "--network=none", "--entrypoint=python3", found.details["image"], *SNIPPET)
    return reference("reference: docker run", argv, count)


def _runsc_run(found: Capabilities, count: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(_bundle()))
        options = (
            "--network=none",
            f"--platform={found.details['platform']}",
            "--ignore-cgroups",
            f"--root={folder}/state",
        )
        script = f"exec runsc {' '.join(options)} run --bundle={folder} bench-$$"
        return reference("reference: runsc run", ("sh", "-c", script), count)


def _bundle() -> dict[str, object]:
    """The least that `runsc run` takes: this interpreter on the host's root, read-only."""
    process = {"user": {"uid": 0, "gid": 0}, "args": [os.path.realpath(sys.executable), *SNIPPET], "cwd": "/"}
    return {
        "ociVersion": "1.0.0",
        "process": process,
        "root": {"path": "/", "readonly": True},
        "linux": {"namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")]},
    }


async def _warm(kind: str, goal: Goal, count: int) -> tuple[Figure, list[Figure]]:
    """At half the rate that the pool can be refilled at: then no claim should ever wait."""
    async with AsyncExec(pool_size=POOL_SIZE) as host:
        await settled(host, backend=kind)
        (before,) = await host.pool_metrics()
        assert before.refill_seconds is not None
        warm = await one_after_another(host, count, 2 * before.refill_seconds, backend=kind)
        (after,) = await host.pool_metrics()
    hits = 100.0 * (after.hits - before.hits) / (after.claims - before.claims)
    return spread(f"{kind}: execute 1 + 1, warm", "ms", warm, goal.execute), [
        Figure(f"{kind}: a new sandbox, of a pool of {POOL_SIZE}", "ms", before.refill_seconds * 1e3),
        Figure(f"{kind}: claims that found one ready", "%", hits, target=100.0, more_is_better=True),
    ]
