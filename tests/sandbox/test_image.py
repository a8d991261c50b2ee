"""`toolexec image build`: what it makes is used, and what it cannot make is said."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runtimes._docker_options import DEFAULT_IMAGE
from runtimes.docker import DockerBackend
from sandbox import Exec
from sandbox._exit import ExitCode
from sandbox.cli import app
from tests.conftest import require

TAG = "toolexec-test-image:latest"


def build(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["image", "build", "--tag", TAG, *arguments])
    return done.exit_code, done.output


@pytest.fixture
def _docker() -> Iterator[None]:
    with Exec(backends={"docker": DockerBackend}) as exec:
        found = exec.probe()["docker"]
    if not found.usable:
        require("docker", found.reason)
    yield
    subprocess.run(["docker", "image", "rm", TAG], capture_output=True)


@pytest.mark.usefixtures("_docker")
@pytest.mark.timeout(300)
def test_an_image_that_was_built_runs_snippets() -> None:
    """On an image that has the agent already: whatever has Python is a base."""
    code, output = build("--base", DEFAULT_IMAGE)
    assert code == ExitCode.COMPLETED, output
    assert f"{TAG} runs python" in output
    options = {"docker": {"image": TAG}}
    with Exec(backends={"docker": DockerBackend}, backend_options=options, pool_size=0) as exec:
        result = exec.execute_code("import zoneinfo\nstr(zoneinfo.ZoneInfo('Europe/Vienna'))", backend="docker")
    assert result.value == "Europe/Vienna"


@pytest.mark.usefixtures("_docker")
def test_a_base_that_is_not_there_is_said_with_how_to_get_it() -> None:
    code, output = build("--base", "toolexec-nowhere")
    assert code == ExitCode.REFUSED
    assert "docker pull toolexec-nowhere" in output


@pytest.mark.usefixtures("_docker")
def test_libraries_that_are_not_there_are_said(tmp_path: Path) -> None:
    code, output = build("--base", DEFAULT_IMAGE, "--wheels", str(tmp_path))
    assert code == ExitCode.REFUSED
    assert "--wheels FOLDER" in output


def test_a_daemon_that_is_down_is_said() -> None:
    pytest.importorskip("docker")
    code, output = build("--host", "unix:///nowhere/docker.sock")
    assert code == ExitCode.REFUSED
    assert "no daemon answers" in output
