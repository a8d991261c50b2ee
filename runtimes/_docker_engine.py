"""The Docker daemon, spoken to from worker threads. What can go wrong with it becomes one of our errors here."""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from gateway.errors import BackendUnavailable
from runtimes._docker_options import KIND, DockerOptions, build_command
from runtimes._docker_stdio import Attached, attach

if TYPE_CHECKING:
    from docker import APIClient

INSTALL = "pip install 'toolexec[docker]'"
MIN_API = "1.41"
"""Docker 20.10, of December 2020: the first with private control-group namespaces."""

CALL_SECONDS = 20.0
"""A daemon that takes longer for one call is as good as gone."""

WAIT_SECONDS = 6.0
CALLS_AT_ONCE = 16
UNIX = "unix://"

Answer = TypeVar("Answer")


class Engine:
    """One daemon. Raises BackendUnavailable for what the operator must mend, SandboxLost for what may pass."""

    def __init__(self, options: DockerOptions) -> None:
        self._options = options
        self._client: APIClient | None = None
        self._connecting = anyio.Lock()
        self._threads: anyio.CapacityLimiter | None = None

    async def connect(self) -> None:
        """Find out which version of the API it speaks. Idempotent."""
        async with self._connecting:
            if self._client is None:
                self._client = await self._in_thread(partial(connected, self._options), abandon=True)

    async def info(self) -> Mapping[str, Any]:
        """What the daemon says of itself."""
        return dict(await self._call("info"))

    async def image(self, name: str) -> Mapping[str, Any]:
        return dict(await self._call("inspect_image", name))

    async def network(self, name: str) -> Mapping[str, Any]:
        return dict(await self._call("inspect_network", name))

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Make a container and return its id. Raises BackendUnavailable when the daemon would not hold all of it."""
        made = await self._finish("create_container_from_config", dict(config), name)
        return str(made["Id"])

    async def start(self, container: str) -> None:
        await self._finish("start", container)

    async def inspect(self, container: str) -> Mapping[str, Any]:
        return dict(await self._call("inspect_container", container))

    async def attach(self, container: str) -> Attached:
        """Its standard streams, through the daemon. Before it is started."""
        await self.connect()
        assert self._client is not None
        return await attach(self._options, self._client.api_version, container)

    async def last_words(self, container: str) -> str:
        """The end of what it wrote before it took its own streams, on one line."""
        text: bytes = await self._call("logs", container, tail=3)
        return " ".join(text[-500:].decode(errors="replace").split())

    async def kill(self, container: str) -> None:
        """SIGKILL. Raises SandboxLost if it does not run."""
        await self._call("kill", container)

    async def wait(self, container: str) -> None:
        """Until it does not run any more. Raises SandboxLost after 6 s."""
        await self._call("wait", container, timeout=WAIT_SECONDS)

    async def remove(self, container: str) -> None:
        """End and remove it. Raises SandboxLost if it is not there."""
        await self._call("remove_container", container, force=True, v=True)

    async def containers(self, label: str) -> list[Mapping[str, Any]]:
        """All with this label, running or not."""
        return list(await self._call("containers", all=True, filters={"label": label}))

    async def aclose(self) -> None:
        if self._client is not None:
            await self._in_thread(self._client.close, abandon=True)
            self._client = None

    async def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Cancelled at once: a daemon that hangs must not hold up who waits for it."""
        await self.connect()
        return await self._in_thread(partial(getattr(self._client, method), *arguments, **options), abandon=True)

    async def _finish(self, method: str, *arguments: Any) -> Any:
        """Cancelled only once the daemon answered: what it made must not get lost."""
        await self.connect()
        return await self._in_thread(partial(getattr(self._client, method), *arguments), abandon=False)

    async def _in_thread(self, function: Callable[[], Answer], *, abandon: bool) -> Answer:
        self._threads = self._threads or anyio.CapacityLimiter(CALLS_AT_ONCE)
        return await anyio.to_thread.run_sync(
            partial(self._translated, function), limiter=self._threads, abandon_on_cancel=abandon
        )

    def _translated(self, function: Callable[[], Answer]) -> Answer:
        with translating(self._options.image, f"Build it: {build_command(self._options.image)}"):
            return function()


@contextmanager
def translating(image: str, get_image: str) -> Iterator[None]:
    """Whatever Docker's library raises inside becomes one of our errors; so does its absence."""
    try:
        from docker.errors import DockerException  # noqa: PLC0415 - optional
        from requests.exceptions import RequestException  # noqa: PLC0415 - comes with it

        from runtimes._docker_errors import translated  # noqa: PLC0415
    except ImportError as error:
        raise BackendUnavailable(KIND, "the Docker SDK is not installed", f"Install it: {INSTALL}") from error
    try:
        yield
    except (DockerException, RequestException, OSError) as error:
        raise translated(error, image, get_image) from error


def connected(options: DockerOptions) -> "APIClient":
    """A client of the daemon, once it said which version of the API it speaks. Use it within `translating`."""
    from docker import APIClient  # noqa: PLC0415 - optional
    from docker.tls import TLSConfig  # noqa: PLC0415
    from docker.utils import version_lt  # noqa: PLC0415

    tls: TLSConfig | bool = False
    if (folder := options.daemon_tls) is not None:
        certificate = (str(folder / "cert.pem"), str(folder / "key.pem"))
        tls = TLSConfig(client_cert=certificate, ca_cert=str(folder / "ca.pem"), verify=True)
    if options.daemon.startswith(UNIX):
        _knock(options.daemon.removeprefix(UNIX))
    make = partial(APIClient, options.daemon, timeout=int(CALL_SECONDS), num_pools=CALLS_AT_ONCE, tls=tls)
    with closing(make(version=MIN_API)) as asking:
        spoken = str(asking.version(api_version=False)["ApiVersion"])
    if version_lt(spoken, MIN_API):
        reason = f"the daemon speaks version {spoken} of the API, and {MIN_API} is needed"
        raise BackendUnavailable(KIND, reason, "Use Docker 20.10 or newer")
    return make(version=spoken)


def _knock(path: str) -> None:
    """Raise OSError if nobody listens: the library leaves its socket open then."""
    with socket.socket(socket.AF_UNIX) as knocking:
        knocking.settimeout(CALL_SECONDS)
        knocking.connect(path)
