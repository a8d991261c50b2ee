"""What a Docker daemon and an image can do for us, from what the daemon says of them. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.errors import BackendUnavailable
from runtimes._container import ENFORCES
from runtimes._docker_config import PLAIN_RUNTIMES
from runtimes._docker_options import KIND, DockerOptions, build_command
from runtimes.limits import LimitName

AGENT_LABEL = "toolexec.agent"
"""On an image: the digest of the agent in it."""

LANGUAGES_LABEL = "toolexec.languages"
"""On an image: the languages it runs, with spaces between them."""

NEEDED: Mapping[str, str] = {
    "CpuCfsQuota": "processor quotas",
    "MemoryLimit": "memory limits",
    "PidsLimit": "pids limits",
}


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that can make our containers.

    `maps_users` says whether ids inside are others on its host, `shares_kernel` whether guests run on this host's
    kernel, in plain containers.
    """

    version: str
    runtime: str
    apparmor: bool
    maps_users: bool
    shares_kernel: bool
    enforces: frozenset[LimitName]


def daemon_of(info: Mapping[str, Any], options: DockerOptions) -> Daemon:
    """Raise BackendUnavailable for one that cannot hold a guest."""
    security = [dict(_pairs(option)) for option in info.get("SecurityOptions") or ()]
    names = {option.get("name", "") for option in security}
    if info.get("OSType") != "linux":
        raise BackendUnavailable(
            KIND, f"its containers are of {info.get('OSType')}", "Use a daemon with Linux containers"
        )
    if "seccomp" not in names:
        raise BackendUnavailable(KIND, "its kernel has no seccomp", "Use a kernel with CONFIG_SECCOMP_FILTER")
    if missing := [what for name, what in NEEDED.items() if not info.get(name)]:
        raise BackendUnavailable(
            KIND, f"its kernel does not hold {', '.join(missing)}", "Turn the control groups for them on, and reboot"
        )
    runtime = options.runtime or str(info.get("DefaultRuntime"))
    if runtime not in info.get("Runtimes", {}):
        raise BackendUnavailable(
            KIND, f"the daemon has no runtime {runtime!r}", "Add it to `runtimes` in /etc/docker/daemon.json"
        )
    return Daemon(
        version=str(info.get("ServerVersion")),
        runtime=runtime,
        apparmor="apparmor" in names,
        maps_users=bool(names & {"userns", "rootless"}),
        shares_kernel=runtime in PLAIN_RUNTIMES and options.network is None,
        enforces=ENFORCES if info.get("SwapLimit") else ENFORCES - {"memory_bytes"},
    )


def languages_of(image: Mapping[str, Any], options: DockerOptions, agent: str) -> frozenset[str]:
    """What an image runs. Raise BackendUnavailable for one without this very agent."""
    labels = (image.get("Config") or {}).get("Labels") or {}
    made_by = labels.get(AGENT_LABEL)
    if made_by != agent:
        reason = "has no agent of ours" if made_by is None else "has the agent of another version of toolexec"
        raise BackendUnavailable(
            KIND, f"image {options.image!r} {reason}", f"Build it again: {build_command(options.image)}"
        )
    return frozenset(str(labels.get(LANGUAGES_LABEL, "python")).split())


def check_network(network: Mapping[str, Any]) -> None:
    """Raise BackendUnavailable for a network that leads anywhere else than to its own members and its host."""
    if not network.get("Internal"):
        name = network.get("Name")
        raise BackendUnavailable(
            KIND, f"network {name!r} leads out", "Make an internal one: docker network create --internal NAME"
        )


def _pairs(option: str) -> Iterable[tuple[str, str]]:
    """`name=seccomp,profile=default`; very old daemons say `seccomp`."""
    for part in option.split(","):
        name, equals, value = part.partition("=")
        yield (name, value) if equals else ("name", name)
