"""A hardened container in the words of the Docker API, and whether a daemon made what was asked. Pure."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runtimes._container import Container

OWNER_LABEL = "toolexec.owner"
"""On every container of ours: the host and the run that it belongs to, by which orphans are found."""

NETWORK_OFF = "none"
PLAIN_RUNTIMES = frozenset({"runc", "crun", "io.containerd.runc.v2"})
"""Those whose guests run on the host's kernel, as its filters and its named pipes need."""

IP_FAMILIES = (2, 10)
"""AF_INET and AF_INET6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerWay:
    """What the daemon needs to know beside the container itself. `seccomp` is a profile's JSON.

    `network` is for guests on another machine, which have no socket of ours to use; None turns the network off.
    """

    image: str
    seccomp: str
    labels: Mapping[str, str]
    runtime: str | None = None
    network: str | None = None


def create_config(container: Container, way: DockerWay, *, apparmor: bool) -> dict[str, Any]:
    """The body of `POST /containers/create`. `apparmor` says whether the daemon's host has it."""
    return {
        "Image": way.image,
        "Entrypoint": list(container.argv),
        "Cmd": [],
        "User": f"{container.uid}:{container.gid}",
        "Env": [f"{name}={value}" for name, value in container.env.items()],
        "WorkingDir": container.cwd,
        "Hostname": container.hostname,
        "Labels": dict(way.labels),
        "NetworkDisabled": way.network is None,  # on top of network none it spares the daemon 200 ms
        "OpenStdin": True,
        "StdinOnce": True,
        "StopSignal": "SIGKILL",
        "HostConfig": _host_config(container, way, apparmor=apparmor),
    }


def _host_config(container: Container, way: DockerWay, *, apparmor: bool) -> dict[str, Any]:
    security = ["no-new-privileges:true", f"seccomp={way.seccomp}"]
    return {
        "NetworkMode": way.network or NETWORK_OFF,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": [*security, "apparmor=docker-default"] if apparmor else security,
        "Memory": container.memory_bytes,
        "MemorySwap": container.memory_bytes,  # memory and swap together: no swap
        "NanoCpus": round(container.cpus * 1e9),
        "PidsLimit": container.pids,
        "Ulimits": [{"Name": name, "Soft": bound, "Hard": bound} for name, bound in container.rlimits.items()],
        "OomScoreAdj": 500,  # when the host itself runs out of memory, guests go first
        "Tmpfs": {tmpfs.target: ",".join(tmpfs.options(container.uid, container.gid)) for tmpfs in container.tmpfs},
        "Mounts": []
        if way.network is not None
        else [
            {
                "Type": "bind",
                "Source": str(container.bind.source),
                "Target": container.bind.target,
                "ReadOnly": True,
                "BindOptions": {"Propagation": "rprivate"},
            }
        ],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "16k", "max-file": "1"}},
        "RestartPolicy": {"Name": "no"},
        **({} if way.runtime is None else {"Runtime": way.runtime}),
    }


MUST_HOLD = (
    "NetworkMode", "IpcMode", "CgroupnsMode", "ReadonlyRootfs", "Privileged", "CapDrop", "SecurityOpt",
    "Memory", "MemorySwap", "NanoCpus", "PidsLimit", "Ulimits", "Tmpfs", "Mounts",
)  # fmt: skip


def unheld(config: Mapping[str, Any], inspected: Mapping[str, Any]) -> Iterator[str]:
    """Names what a container has otherwise than asked for: by a plugin's doing, or an engine that resembles Docker."""
    asked, found = config["HostConfig"], inspected["HostConfig"]
    yield from (name for name in MUST_HOLD if (found.get(name) or None) != (asked[name] or None))
    if found.get("CapAdd") or found.get("Devices") or found.get("Binds"):
        yield "CapAdd, Devices or Binds"
    if inspected["Config"].get("User") != config["User"]:
        yield "User"


def evidence_of(inspected: Mapping[str, Any]) -> dict[str, Any]:
    """What isolation a running container has, as the daemon says."""
    host = inspected["HostConfig"]
    return {
        "container": inspected["Id"],
        "image": inspected["Image"],
        "runtime": host["Runtime"],
        "user": int(inspected["Config"]["User"].partition(":")[0]),
        "network": host["NetworkMode"],
        "read_only_root": host["ReadonlyRootfs"],
        "capabilities_dropped": host["CapDrop"],
        "seccomp": "toolexec" if host["Runtime"] in PLAIN_RUNTIMES else "the runtime's own",
        "apparmor": inspected.get("AppArmorProfile") or None,
        "no_new_privileges": "no-new-privileges:true" in host["SecurityOpt"],
        "memory_bytes": host["Memory"],
        "cpus": host["NanoCpus"] / 1e9,
        "pids": host["PidsLimit"],
    }


def load_seccomp(text: str, *, ip: bool) -> str:
    """A profile's JSON on one line, as the API wants it; with `ip`, for a guest that reaches the gateway by TCP."""
    profile = json.loads(text)
    if ip:
        families = ({"index": 0, "value": family, "op": "SCMP_CMP_EQ"} for family in IP_FAMILIES)
        profile["syscalls"] += ({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [one]} for one in families)
    return json.dumps(profile, separators=(",", ":"))
