"""`toolexec doctor` says what is true of this host: with its engines, and without each."""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtimes.base import Capabilities
from sandbox._exit import ExitCode
from sandbox._render import as_json
from tests.sandbox.command import process, toolexec

DEAD = "unix:///nonexistent/docker.sock"


def doctor(
    command: Callable[..., subprocess.CompletedProcess[str]] = toolexec, **env: str
) -> tuple[int, dict[str, Any]]:
    """Its exit code, and what it says of each backend."""
    done = command("doctor", "--json", **env)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def unusable(found: Mapping[str, Any]) -> bool:
    """A backend that is not there promises nothing."""
    promised = found["boundaries"], found["languages"], found["enforces"], found["version"]
    return (found["usable"], *promised) == (False, 0, [], [], "")


def test_it_says_of_every_backend_what_the_library_finds(capabilities: Mapping[str, Capabilities]) -> None:
    code, found = doctor(process)
    assert code == ExitCode.COMPLETED
    assert found.keys() == capabilities.keys()
    for kind, real in capabilities.items():
        for name in ("usable", "boundaries", "languages", "enforces", "version", "reason", "fix"):
            assert found[kind][name] == as_json(getattr(real, name)), (kind, name)


def test_without_a_daemon_docker_alone_is_missing(capabilities: Mapping[str, Capabilities]) -> None:
    code, found = doctor(DOCKER_HOST=DEAD)
    assert code == ExitCode.COMPLETED
    assert unusable(found["docker"])
    assert found["docker"]["reason"].startswith("no daemon answers")
    assert "dockerd" in found["docker"]["fix"]
    assert "$DOCKER_HOST" in found["docker"]["fix"]
    assert found["gvisor"]["usable"] == capabilities["gvisor"].usable


def test_without_runsc_gvisor_alone_is_missing(capabilities: Mapping[str, Capabilities], tmp_path: Path) -> None:
    for program in ("bash", "node"):
        if (path := shutil.which(program)) is not None:
            (tmp_path / program).symlink_to(path)
    code, found = doctor(PATH=str(tmp_path))
    assert code == ExitCode.COMPLETED
    assert unusable(found["gvisor"])
    assert found["gvisor"]["reason"] == "there is no `runsc`"
    assert "apt-get install runsc" in found["gvisor"]["fix"]
    assert found["docker"]["usable"] == capabilities["docker"].usable


def test_an_image_that_is_not_there_is_said_with_its_command(capabilities: Mapping[str, Capabilities]) -> None:
    options = {"docker": {"image": "toolexec-nowhere"}}
    _, found = doctor(PATH="/nonexistent", TOOLEXEC_BACKEND_OPTIONS=json.dumps(options))
    assert unusable(found["docker"])
    if capabilities["docker"].usable:
        assert found["docker"]["reason"] == "image 'toolexec-nowhere' is not there"
        assert found["docker"]["fix"] == "Build it: toolexec image build --tag toolexec-nowhere"


@pytest.mark.usefixtures("wasm")
def test_without_any_engine_what_needs_none_is_there() -> None:
    code, found = doctor(PATH="/nonexistent", DOCKER_HOST=DEAD)
    assert code == ExitCode.COMPLETED
    assert {kind for kind, one in found.items() if one["usable"]} == {"wasm", "unsafe"}
    assert "python" in found["unsafe"]["languages"]
