"""What gVisor can do on this host, found by running it: platform, confinement, languages, bounds."""

import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio

from gateway.errors import BackendUnavailable, SandboxError
from gateway.frames import StreamName
from runtimes._background import SandboxTasks
from runtimes._bundle import ISOLATED, RootFs, host_root, image_root, oci_config
from runtimes._container import ENFORCES, FIRST_UID, Container, container_for
from runtimes._groups import Bounds, Groups, find_groups, sweep
from runtimes._gvisor_options import GvisorOptions
from runtimes._runsc import Runsc, find_runsc
from runtimes._sentry import Running, run
from runtimes.base import BackendContext, SandboxSpec
from runtimes.limits import LimitName

FIX = "Install gVisor's runsc (`apt-get install runsc` on Debian), or name it by the option `runsc`"

SENTRY_MEMORY_BYTES = 96 << 20
"""What gVisor's kernel and its gofer take for themselves, on top of the guest."""

SENTRY_PIDS = 192
"""Likewise their threads."""

PIDS_EACH = 24
"""Threads of the host that may stand for one process of the guest. gVisor's kernel holds the guest to its own bound;
it does not survive being refused one itself."""

TRIAL_SECONDS = 15.0
"""Within this the slowest platform runs a program on a busy machine."""

BETTER_SECONDS = 1.0
"""A platform is given up when another took less than half as long, and at least this long."""

SAID_CHARACTERS = 300

TRIAL = """
import json, os, sys
sys.path[:0] = sys.argv[1:]
from runtimes.guest.languages.available import available
print(json.dumps({"kernel": list(os.uname()), "languages": available()}), flush=True)
sys.stdin.read()
"""

UNGROUPED: frozenset[LimitName] = frozenset({"memory_bytes", "cpu_seconds", "disk_bytes"})
"""What is held without control groups: by gVisor, and by looking."""


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that starting a sandbox takes, and what is known of the sandboxes that it makes."""

    runsc: Runsc
    root: RootFs
    platform: str
    mark: str
    groups: Groups | None
    ungrouped: str = ""
    """Why there are no control groups."""
    kernel: str = ""
    languages: frozenset[str] = frozenset()
    confined: bool = False

    @property
    def boundaries(self) -> int:
        """gVisor's kernel is one, if it is what the guest sees; what confines that kernel is the other."""
        return 0 if not self.kernel else 2 if self.confined else 1

    @property
    def enforces(self) -> frozenset[LimitName]:
        return ENFORCES if self.groups is not None else UNGROUPED

    @property
    def facts(self) -> dict[str, Any]:
        """What evidence and `toolexec doctor` say of every sandbox made here."""
        root = "host" if self.root.binds else str(self.root.folder)
        return {"isolation": "gvisor", "platform": self.platform, "kernel": self.kernel, "root": root}

    @property
    def details(self) -> Mapping[str, Any]:
        return {**self.facts, **({"ungrouped": self.ungrouped} if self.ungrouped else {})}

    def run(self, container: Container, folder: Path) -> Running:
        """Start `container`, keeping what belongs to it in `folder`. Raises SandboxLost."""
        config = oci_config(container, self.root)
        (folder / "config.json").write_text(json.dumps(config))
        command = self.runsc.run(state=folder / "state", bundle=folder, name=folder.name, platform=self.platform)
        pids = container.pids * PIDS_EACH + SENTRY_PIDS
        bounds = Bounds(container.memory_bytes + SENTRY_MEMORY_BYTES, pids, container.cpus)
        return run(command, folder=folder, mark=self.mark, groups=self.groups, bounds=bounds)


async def find_site(context: BackendContext, options: GvisorOptions) -> Site:
    """Raises BackendUnavailable, with the reason and the fix."""
    if not sys.platform.startswith("linux"):
        raise BackendUnavailable("gvisor", f"it needs Linux, not {sys.platform}", "Use Linux")
    site = await anyio.to_thread.run_sync(_prepare, context.folder, options)
    wanted = (options.platform,) if options.platform else site.runsc.platforms
    folder = context.folder / "trial"
    folder.mkdir(exist_ok=True)
    try:
        tried = await _try(context, [replace(site, platform=name) for name in wanted], folder)
    finally:
        await anyio.to_thread.run_sync(shutil.rmtree, folder, True)  # noqa: FBT003 - ignore_errors
    for found in tried:
        if isinstance(found, Site):
            return found
    raise BackendUnavailable(
        "gvisor", "; ".join(map(str, tried)), "`runsc --debug --alsologtostderr do true` says more"
    )


def _prepare(folder: Path, options: GvisorOptions) -> Site:
    """What can be known without running a container."""
    try:
        runsc = find_runsc(options.runsc)
    except OSError as error:
        raise BackendUnavailable("gvisor", str(error), FIX) from error
    if runsc is None:
        raise BackendUnavailable("gvisor", f"there is no `{options.runsc or 'runsc'}`", FIX)
    mark = folder.parent.name
    groups = find_groups()
    sweep()
    found, reason = (groups, "") if isinstance(groups, Groups) else (None, groups)
    return Site(runsc, _root(folder / "root", options.root), "", mark, found, reason)


def _root(skeleton: Path, image: Path | None) -> RootFs:
    if image is not None:
        return image_root(image)
    shutil.rmtree(skeleton, ignore_errors=True)
    skeleton.mkdir()
    return host_root(skeleton)


async def _try(context: BackendContext, sites: Sequence[Site], folder: Path) -> list[Site | str]:
    """All platforms at once, the best first: some hang where they do not work, and the others tell how long to wait."""
    found: dict[str, Site | str] = {}
    started = anyio.current_time()
    async with anyio.create_task_group() as trials:
        trials.cancel_scope.deadline = started + TRIAL_SECONDS

        async def one(site: Site) -> None:
            found[site.platform] = await _trial(context, site, folder / secrets.token_hex(4))
            if isinstance(found[site.platform], Site):
                enough = started + max(2 * (anyio.current_time() - started), BETTER_SECONDS)
                trials.cancel_scope.deadline = min(trials.cancel_scope.deadline, enough)
            if _settled(found, sites):
                trials.cancel_scope.cancel()

        for site in sites:
            trials.start_soon(one, site)
    return [found.get(site.platform, f"platform {site.platform} hangs") for site in sites]


def _settled(found: Mapping[str, Site | str], sites: Sequence[Site]) -> bool:
    """Whether one works, and every better one is known not to."""
    for site in sites:
        if not isinstance(found.get(site.platform), str):
            return site.platform in found
    return True


async def _trial(context: BackendContext, site: Site, folder: Path) -> Site | str:
    """Run a program of ours as a guest would be; return what is known then, or why it did not work."""
    socket_folder = folder / "s"
    socket_folder.mkdir(parents=True)
    argv = (site.root.python, *ISOLATED, "-c", TRIAL, *site.root.site)
    container = container_for(SandboxSpec(), argv=argv, uid=FIRST_UID, gid=FIRST_UID, socket_folder=socket_folder)
    try:
        running = site.run(container, folder)
    except SandboxError as error:
        return str(error)
    SandboxTasks(context.tasks, None).start_soon(running.pump)
    try:
        said = await _first_line(running)
        confinement = running.confinement()
    finally:
        with anyio.CancelScope(shield=True):
            await running.end()
            await running.clear()
    return _known(site, said, confinement)


async def _first_line(running: Running) -> bytes:
    """What it says, up to the end of its first line of output or to its own end."""
    said = bytearray()
    async with anyio.create_task_group() as waiting:

        def hear(stream: StreamName, data: bytes) -> None:
            said.extend(data)
            if stream == "stdout" and b"\n" in data:
                waiting.cancel_scope.cancel()

        running.output.listen(hear)
        await running.wait()
    return bytes(said)


def _known(site: Site, said: bytes, confinement: Mapping[str, Any]) -> Site | str:
    try:
        facts = json.loads(said)
    except ValueError:
        return f"platform {site.platform} does not work: {said.decode(errors='replace')[:SAID_CHARACTERS].strip()}"
    kernel = f"{facts['kernel'][0]} {facts['kernel'][2]}"
    confined = confinement.get("seccomp") == "filter" and {"net", "mnt"} <= {*confinement["namespaces"]}
    faked = facts["kernel"] != list(os.uname())
    return replace(site, kernel=kernel if faked else "", languages=frozenset(facts["languages"]), confined=confined)
