"""What a daemon is asked for, what it must say of itself, and which options are wrong. Nothing is started here."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import BackendUnavailable, InvalidRequest
from runtimes._container import ENFORCES, container_for
from runtimes._docker_config import DockerWay, create_config, load_seccomp, unheld
from runtimes._docker_daemon import AGENT_LABEL, LANGUAGES_LABEL, daemon_of, languages_of
from runtimes._docker_options import DockerOptions
from runtimes.base import SandboxSpec
from runtimes.docker import SECCOMP

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
INFO: dict[str, Any] = {
    "OSType": "linux",
    "ServerVersion": "20.10.24",
    "SecurityOptions": ["name=seccomp,profile=default"],
    "DefaultRuntime": "runc",
    "Runtimes": {"runc": {}, "runsc": {}},
    "CpuCfsQuota": True,
    "MemoryLimit": True,
    "PidsLimit": True,
    "SwapLimit": True,
}


def config(*, apparmor: bool = False, **way: Any) -> dict[str, Any]:
    container = container_for(
        SandboxSpec(memory_bytes=100 * MIB), argv=("init",), uid=7, gid=7, socket_folder=Path("/run/x")
    )
    return create_config(container, DockerWay(image="i", seccomp="{}", labels={"a": "b"}, **way), apparmor=apparmor)


def made(asked: dict[str, Any], **otherwise: Any) -> dict[str, Any]:
    return {"Config": {"User": asked["User"]}, "HostConfig": {**asked["HostConfig"], **otherwise}}


def test_nothing_is_left_to_the_daemons_defaults() -> None:
    host = config()["HostConfig"]
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (
        *("none", True, ["ALL"]),
        False,
    )
    assert host["Memory"] == host["MemorySwap"] == 164 * MIB
    assert host["SecurityOpt"] == ["no-new-privileges:true", "seccomp={}"]
    assert host["PidsLimit"] > 0
    assert host["NanoCpus"] == 10**9
    assert [(mount["Source"], mount["ReadOnly"]) for mount in host["Mounts"]] == [("/run/x", True)]
    assert "Runtime" not in host


def test_what_the_host_has_beside_is_used() -> None:
    assert "apparmor=docker-default" in config(apparmor=True)["HostConfig"]["SecurityOpt"]
    assert config(runtime="runsc")["HostConfig"]["Runtime"] == "runsc"


def test_a_guest_on_another_machine_gets_a_network_and_no_mount() -> None:
    asked = config(network="guests")
    assert asked["HostConfig"]["NetworkMode"] == "guests"
    assert asked["HostConfig"]["Mounts"] == []


def test_a_container_as_asked_for_has_nothing_otherwise() -> None:
    assert list(unheld(config(), made(config()))) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NetworkMode", "bridge"),
        ("ReadonlyRootfs", False),
        ("CapDrop", None),
        ("Memory", 0),
        ("PidsLimit", None),
        ("SecurityOpt", ["seccomp=unconfined"]),
        ("Privileged", True),
    ],
)
def test_a_daemon_that_does_otherwise_is_caught(name: str, value: Any) -> None:
    assert list(unheld(config(), made(config(), **{name: value}))) == [name]


@pytest.mark.parametrize("name", ["CapAdd", "Devices", "Binds"])
def test_what_was_not_asked_for_is_caught(name: str) -> None:
    assert list(unheld(config(), made(config(), **{name: ["x"]}))) == ["CapAdd, Devices or Binds"]


def test_a_daemon_that_can_hold_a_guest() -> None:
    daemon = daemon_of(INFO, DockerOptions())
    assert (daemon.runtime, daemon.enforces, daemon.apparmor, daemon.maps_users, daemon.shares_kernel) == (
        *("runc", ENFORCES, False, False),
        True,
    )
    assert daemon_of({**INFO, "SwapLimit": False}, DockerOptions()).enforces == ENFORCES - {"memory_bytes"}
    mapped = daemon_of({**INFO, "SecurityOptions": ["name=seccomp", "name=userns", "name=apparmor"]}, DockerOptions())
    assert (mapped.apparmor, mapped.maps_users) == (True, True)
    assert not daemon_of(INFO, DockerOptions(runtime="runsc")).shares_kernel


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"OSType": "windows"}, "containers are of windows"),
        ({"SecurityOptions": []}, "no seccomp"),
        ({"SecurityOptions": None}, "no seccomp"),
        ({"SecurityOptions": ["name=selinux,note=seccomp"]}, "no seccomp"),
        ({"PidsLimit": False, "MemoryLimit": None}, "memory limits, pids limits"),
        ({"Runtimes": {}}, "no runtime 'runc'"),
    ],
)
def test_a_daemon_that_cannot_is_refused_with_a_fix(info: dict[str, Any], reason: str) -> None:
    with pytest.raises(BackendUnavailable, match=reason) as caught:
        daemon_of({**INFO, **info}, DockerOptions())
    assert caught.value.fix


def test_an_image_says_what_it_runs() -> None:
    labels = {AGENT_LABEL: "abc", LANGUAGES_LABEL: "python bash"}
    assert languages_of({"Config": {"Labels": labels}}, DockerOptions(), "abc") == {"python", "bash"}


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"Config": {"Labels": None}}, "no agent of ours. Build it again: toolexec image build --tag i"),
        ({}, "no agent of ours"),
        ({"Config": {"Labels": {AGENT_LABEL: "old"}}}, "agent of another version"),
    ],
)
def test_an_image_without_this_agent_is_refused(image: dict[str, Any], reason: str) -> None:
    with pytest.raises(BackendUnavailable, match=reason):
        languages_of(image, DockerOptions(image="i"), "abc")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"imge": "x"}, "unknown option 'imge'.*there are image, runtime"),
        ({"image": ""}, "image .* must be text"),
        ({"image": 5}, "image .* must be text"),
        ({"host": "tcp://10.0.0.1:2375"}, "without TLS is anybody's"),
        ({"host": "tcp://127.0.0.1.example.com:2375"}, "without TLS is anybody's"),
        ({"host": "ssh://host"}, "unix:///… or tcp://…"),
        ({"network": "x"}, "go together"),
        ({"network": "x", "gateway_host": "h"}, "go together"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        DockerOptions.of(options)


def test_options_come_from_the_environment_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CERT_PATH", "/keys")
    assert DockerOptions.of({}).daemon == "unix:///var/run/docker.sock"
    assert DockerOptions.of({}).daemon_tls is None
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.0.0.1:2376")
    assert (DockerOptions.of({}).daemon, DockerOptions.of({}).daemon_tls) == ("tcp://10.0.0.1:2376", Path("/keys"))
    assert DockerOptions.of({"host": "unix:///x"}).daemon == "unix:///x"
    assert DockerOptions.of({"tls": "/others"}).daemon_tls == Path("/others")


def test_the_page_lists_every_system_call_of_the_profile() -> None:
    profile = json.loads(SECCOMP.read_text())
    allowed = {
        (line["comment"], name)
        for line in profile["syscalls"]
        if line["action"] == "SCMP_ACT_ALLOW"
        for name in line["names"]
    }
    table = (ROOT / "docs" / "seccomp.md").read_text().partition("## What is allowed")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \| (`.+`) \|$", table, re.MULTILINE)
    documented = {(f"{line}: {why}", name) for line, why, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert allowed == documented


def test_only_what_is_listed_is_allowed_and_only_for_these_processors() -> None:
    profile = json.loads(load_seccomp(SECCOMP.read_text(), ip=False))
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    assert not any(found["subArchitectures"] for found in profile["archMap"])
    names = {name for line in profile["syscalls"] if line["action"] == "SCMP_ACT_ALLOW" for name in line["names"]}
    assert not names & {
        *("mount", "umount2", "unshare", "setns", "ptrace", "bpf", "keyctl", "add_key", "perf_event_open", "clone3"),
        *("io_uring_setup", "userfaultfd", "process_vm_writev", "init_module", "kexec_load", "reboot", "personality"),
    }


def test_ip_sockets_are_for_guests_on_another_machine() -> None:
    def families(*, ip: bool) -> set[int]:
        lines = json.loads(load_seccomp(SECCOMP.read_text(), ip=ip))["syscalls"]
        return {line["args"][0]["value"] for line in lines if "socket" in line["names"]}

    assert families(ip=False) == {1}
    assert families(ip=True) == {1, 2, 10}
