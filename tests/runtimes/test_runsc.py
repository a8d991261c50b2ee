"""The command line fits the release of `runsc`: what it cannot do is not asked of it."""

import os
from pathlib import Path

import pytest

from runtimes._runsc import Runsc, find_runsc, parse_flags
from tests.conftest import require

# As `runsc flags` prints them: a release of 2022, and one of 2026.
OLD = """\
  -file-access-mounts value
    \tspecifies which filesystem validation to use. (default shared)
  -host-uds value
    \tcontrols permission to access host Unix-domain sockets. Values: none|open|create|all, default: none
  -overlay2 value
    \twrap mounts with overlayfs. Format is {mount}:{medium}.
  -platform string
    \tspecifies which platform to use: ptrace (default), kvm. (default "ptrace")
"""
OLDEST = OLD.replace("  -host-uds value\n", "  -fsgofer-host-uds\n")
NEW = (
    OLD.replace("ptrace (default), kvm.", "systrap (default), ptrace, kvm.")
    + """\
  -directfs
    \tdirectly access the container filesystems from the sentry. Sentry runs with higher privileges. (default true)
  -gofer-network-namespace value
    \tnetwork namespace for gofers: null (default), new, host.
  -signal-unkillable-policy value
    \tcontrols protection of PID namespace init processes from signals: none (default) or linux.
"""
)


def command(flags: str) -> tuple[str, ...]:
    runsc = Runsc("/usr/bin/runsc", "1", parse_flags(flags))
    return runsc.run(state=Path("/s"), bundle=Path("/b"), name="n", platform="ptrace")


def test_flags_are_read_with_all_of_their_help() -> None:
    flags = parse_flags("  -a-b string\n    \tone\n    \ttwo\n  -c\n    \tthree\nnot a flag\n")
    assert flags == {"a-b": "one two", "c": "three not a flag"}


@pytest.mark.parametrize(
    ("flags", "platforms"), [(OLD, ("kvm", "ptrace")), (NEW, ("systrap", "kvm", "ptrace")), ("", ())]
)
def test_platforms_are_those_of_the_release_the_best_first(flags: str, platforms: tuple[str, ...]) -> None:
    assert Runsc("runsc", "1", parse_flags(flags)).platforms == platforms


@pytest.mark.parametrize("flags", [OLDEST, OLD, NEW])
def test_every_release_has_no_network_and_is_held_by_groups_of_ours(flags: str) -> None:
    argv = command(flags)
    assert {"--network=none", "--platform=ptrace", "--ignore-cgroups=true", "--root=/s"} <= {*argv}
    assert f"--rootless={str(os.geteuid() != 0).lower()}" in argv
    assert argv[-3:] == ("run", "--bundle=/b", "n")


def test_one_socket_of_the_host_may_be_opened_and_none_made() -> None:
    assert "--host-uds=open" in command(OLD)
    assert "--host-uds=open" in command(NEW)
    assert "--fsgofer-host-uds=true" in command(OLDEST)
    assert not [flag for flag in command(OLDEST) if "=open" in flag]


def test_a_new_release_gives_its_kernel_no_more_than_an_old_one() -> None:
    new = {"--directfs=false", "--gofer-network-namespace=new", "--signal-unkillable-policy=linux"}
    assert new <= {*command(NEW)}
    assert not new & {*command(OLD)}


def test_a_program_that_is_not_there() -> None:
    assert find_runsc("/nowhere/runsc") is None


def test_a_program_that_is_something_else() -> None:
    with pytest.raises(OSError, match=r"--version` failed"):
        find_runsc("/bin/false")


def test_the_release_of_this_host() -> None:
    runsc = find_runsc()
    if runsc is None:
        require("gvisor", "there is no runsc on PATH")
    assert runsc is not None
    assert runsc.version
    assert "ptrace" in runsc.platforms
