"""A daemon in trouble: what the caller is told. The daemons here are small servers that speak its API badly."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import BackendUnavailable, SandboxError, SandboxLost
from runtimes._docker_engine import Engine
from runtimes._docker_options import DockerOptions
from runtimes._docker_stdio import attach

pytestmark = pytest.mark.anyio
pytest.importorskip("docker")


class Daemon(socketserver.ThreadingUnixStreamServer):
    """Answers `/version` with `api`, and everything else with `status` and `message`, or by hanging up."""

    daemon_threads = True

    def __init__(self, path: Path, *, api: str = "1.41", status: int = 200, message: str = "") -> None:
        super().__init__(str(path), _Handler)
        self.api, self.status, self.message = api, status, message


class _Handler(BaseHTTPRequestHandler):
    server: Daemon

    def _answer(self) -> None:
        if self.path.endswith("/version"):
            self._send(200, {"ApiVersion": self.server.api})
        elif self.server.status == 0:
            self.close_connection = True
        else:
            self._send(self.server.status, {"message": self.server.message})

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - the names are the library's

    def _send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "guest"

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@contextmanager
def daemon(tmp_path: Path, **says: Any) -> Iterator[DockerOptions]:
    path = tmp_path / "daemon.sock"
    with Daemon(path, **says) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield DockerOptions(image="guest:1", host=f"unix://{path}")
        finally:
            server.shutdown()
            thread.join()


async def trouble(options: DockerOptions, ask: Callable[[Engine], Any]) -> SandboxError:
    engine = Engine(options)
    try:
        with pytest.raises(SandboxError) as caught:
            await ask(engine)
    finally:
        await engine.aclose()
    return caught.value


@pytest.mark.parametrize(
    ("status", "message", "kind", "says"),
    [
        (404, "No such image: guest:1", BackendUnavailable, "Build it: toolexec image build --tag guest:1"),
        (404, "No such container: x", SandboxLost, "does not know it any more"),
        (400, "Unknown runtime specified runsc", BackendUnavailable, "/etc/docker/daemon.json"),
        (
            400,
            'invalid mount config for type "bind": bind source path does not exist: /x',
            BackendUnavailable,
            "beside",
        ),
        (
            500,
            "failed to copy files: write /var/lib/docker/x: no space left on device",
            BackendUnavailable,
            "docker system prune",
        ),
        (500, "runc create failed: something odd", SandboxLost, "something odd; the snippet may be run again"),
        (400, "invalid seccomp profile", BackendUnavailable, "the daemon refused: invalid seccomp profile"),
        (0, "", SandboxLost, "the connection to the daemon broke"),
    ],
)
async def test_what_the_daemon_says_is_told_with_what_to_do(
    tmp_path: Path, status: int, message: str, kind: type[SandboxError], says: str
) -> None:
    with daemon(tmp_path, status=status, message=message) as options:
        error = await trouble(options, lambda engine: engine.create("x", {}))
    assert type(error) is kind
    assert says in str(error)
    assert error.retryable == (kind is SandboxLost)


@pytest.mark.parametrize(("api", "works"), [("1.24", False), ("1.40", False), ("1.41", True), ("1.100", True)])
async def test_an_old_api_is_refused(tmp_path: Path, api: str, works: bool) -> None:
    with daemon(tmp_path, api=api) as options:
        if works:
            engine = Engine(options)
            await engine.connect()
            await engine.aclose()
            return
        error = await trouble(options, lambda engine: engine.connect())
    assert f"version {api} of the API" in str(error)
    assert "Docker 20.10 or newer" in str(error)


@pytest.mark.parametrize("host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:1"])
async def test_no_daemon_is_said_with_how_to_start_one(host: str) -> None:
    error = await trouble(DockerOptions(host=host), lambda engine: engine.info())
    assert isinstance(error, BackendUnavailable)
    assert "no daemon answers" in error.reason
    assert "dockerd" in error.fix


async def test_a_daemon_that_gives_no_streams_has_lost_the_sandbox(tmp_path: Path) -> None:
    with daemon(tmp_path, status=500, message="no") as options, pytest.raises(SandboxLost, match="no streams"):
        await attach(options, "1.41", "x")
    with pytest.raises(SandboxLost, match="no streams"):
        await attach(DockerOptions(host="unix:///nowhere"), "1.41", "x")
