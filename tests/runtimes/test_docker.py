"""Docker: what is in force around a guest, as it sees it, the kernel and the daemon; and how guests end."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from gateway.errors import BackendUnavailable, InvalidRequest, SandboxLost
from runtimes import pool
from runtimes._docker_config import OWNER_LABEL
from runtimes._docker_engine import Engine
from runtimes._docker_options import DEFAULT_IMAGE, DockerOptions
from runtimes._docker_reaper import owner_of
from runtimes.docker import DockerBackend
from sandbox import AsyncExec, ExecutionResult, Outcome
from tests.conftest import require

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("runs")]

MIB = 1 << 20


@asynccontextmanager
async def docker(**options: Any) -> AsyncIterator[AsyncExec]:
    """An Exec with Docker alone; skips where that cannot be used."""
    async with AsyncExec(backends={"docker": DockerBackend}, backend_options={"docker": options}, pool_size=1) as host:
        found = (await host.probe())["docker"]
        if not found.usable:
            require("docker", found.reason)
        yield host


@pytest.fixture
async def host() -> AsyncIterator[AsyncExec]:
    async with docker() as host:
        yield host


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(DockerOptions())
    try:
        await engine.info()
    except BackendUnavailable as error:
        require("docker", error.reason)
    yield engine
    await engine.aclose()


async def run(host: AsyncExec, code: str, **limits: Any) -> ExecutionResult:
    return await host.execute_code(code, limits={"wall_seconds": 20, **limits})


SEEN = """
import json, os, pathlib, socket
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
def refusal(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return None
{
    "uid": os.getuid(), "groups": os.getgroups(),
    "capabilities": [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privs": status["NoNewPrivs"], "seccomp": status["Seccomp"],
    "interfaces": [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]],
    "routes": open("/proc/net/route").readlines()[1:],
    "writable": [path for path in ("/", "/etc", "/usr", "/opt/toolexec", "/run/toolexec", "/guest", "/tmp", "/dev/shm")
                 if os.access(path, os.W_OK)],
    "written": refusal(lambda: open("/etc/x", "w")),
    "environ": refusal(lambda: open("/proc/1/environ").read()),
    "socket_folder": refusal(lambda: os.listdir("/run/toolexec")),
    "families": {name: refusal(lambda: socket.socket(getattr(socket, name), socket.SOCK_STREAM))
                 for name in ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG")},
    "hidden": len(pathlib.Path("/proc/keys").read_bytes()),
    "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit())[:2],
    "hostname": socket.gethostname(),
}
"""


async def test_what_a_guest_sees(host: AsyncExec) -> None:
    result = await run(host, SEEN)
    assert result.outcome is Outcome.COMPLETED, result.error
    seen = result.value
    assert seen.pop("uid") >= 65_532
    assert seen.pop("groups") in ([], [result.evidence["user"]])
    families = seen.pop("families")
    assert families.pop("AF_UNIX") is None
    assert None not in families.values()
    assert seen == {
        "capabilities": ["0000000000000000"] * 5,
        "no_new_privs": "1",
        "seccomp": "2",
        "interfaces": ["lo"],
        "routes": [],
        "writable": ["/guest", "/tmp", "/dev/shm"],
        "hidden": 0,
        "written": 30,
        "environ": 13,
        "socket_folder": 13,
        "pids": [1, seen["pids"][1]],
        "hostname": "guest",
    }


async def test_the_evidence_is_what_daemon_and_kernel_say(host: AsyncExec) -> None:
    evidence = (await run(host, "1", memory_bytes=100 * MIB, pids=20)).evidence
    assert evidence["network"] == "none"
    assert evidence["capabilities_dropped"] == ["ALL"]
    assert (evidence["read_only_root"], evidence["no_new_privileges"]) == (True, True)
    assert evidence["memory_bytes"] == evidence["cgroup"]["memory_bytes"] == 164 * MIB
    assert evidence["pids"] == evidence["cgroup"]["pids"] == 44
    assert evidence["guest"]["Seccomp"] == "2"


async def test_each_guest_is_a_user_of_its_own(host: AsyncExec) -> None:
    if os.geteuid() != 0:
        pytest.skip("users are given to guests by root")
    users = {(await run(host, "import os\nos.getuid()")).value for _ in range(3)}
    assert len(users) == 3


async def test_usage_is_measured(host: AsyncExec) -> None:
    result = await run(host, "x = bytearray(50 << 20)\nsum(range(3_000_000))\nlen(x)")
    assert result.usage.memory_peak_bytes is not None
    assert result.usage.memory_peak_bytes > 50 * MIB
    assert result.usage.cpu_seconds is not None
    assert 0.01 < result.usage.cpu_seconds < 10


CHILD_BOMB = """
import os, subprocess, sys
os.environ["PYTHONMALLOC"] = "malloc"
bomb = '''
import time
x = []
try:
    while True:
        x.append(b"x" * (1 << 20))
except MemoryError:
    time.sleep(15)
'''
children = [subprocess.Popen([sys.executable, "-c", bomb], stderr=subprocess.DEVNULL) for _ in range(5)]
for child in children:
    if child.wait(): raise OSError(child.returncode)
"""
"""Each child is within its own address space; together they take more than the container has."""


async def test_a_child_that_was_ended_for_want_of_memory_explains_how_the_snippet_ended(host: AsyncExec) -> None:
    result = await run(host, CHILD_BOMB, memory_bytes=64 * MIB)
    assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "memory_bytes")


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM"), (24, "SIGXCPU")])
async def test_a_signal_that_a_guest_sends_itself_is_no_limit(host: AsyncExec, number: int, name: str) -> None:
    result = await run(host, f"import os\nprint('before', flush=True)\nos.kill(os.getpid(), {number})", cpu_seconds=5)
    assert (result.outcome, result.limit, result.stdout) == (Outcome.KILLED, None, "before\n")
    assert result.error is not None
    assert name in result.error.message


async def test_init_is_out_of_a_guests_reach(host: AsyncExec) -> None:
    code = "import os\nfor n in (9, 15, 2, 19): os.kill(1, n)\nopen('/proc/1/mem', 'rb')"
    result = await run(host, code)
    assert result.outcome is Outcome.RAISED
    assert result.error is not None
    assert result.error.type == "PermissionError"


async def test_processor_time_of_all_processes_together_is_limited(host: AsyncExec) -> None:
    code = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    result = await run(host, code, cpu_seconds=1.0)
    assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "cpu_seconds")


FORKS = """
import os, time
children = []
try:
    for _ in range(500):
        child = os.fork()
        if child == 0:
            time.sleep(30)
        children.append(child)
        os.write(1, b".")
except BlockingIOError:
    pass
for child in children:
    os.kill(child, 9)
    os.waitpid(child, 0)
"""


async def test_the_bound_on_processes_holds(host: AsyncExec) -> None:
    """The agent may not get a thread meanwhile: it gives up then, or its gRPC waits for one that never came."""
    result = await run(host, FORKS, pids=30, wall_seconds=5)
    assert (result.outcome, result.limit) in {
        (Outcome.COMPLETED, None),
        (Outcome.LIMIT_EXCEEDED, "pids"),
        (Outcome.TIMED_OUT, "wall_seconds"),
    }
    assert 1 < len(result.stdout) <= 54


async def test_a_container_that_somebody_else_kills_is_lost_and_may_be_tried_again(
    host: AsyncExec, engine: Engine
) -> None:
    began = anyio.Event()

    @host.tool
    async def begun() -> None:
        """Say that the guest runs."""
        began.set()

    async def kill() -> None:
        await began.wait()
        for container in await _owned(engine, _run_folder().name):
            await engine.kill(container["Id"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill)
        with pytest.raises(SandboxLost, match="something other than its guest killed it") as caught:
            await run(host, "import time\ntools.begun()\ntime.sleep(15)")
    assert caught.value.retryable
    assert (await run(host, "1")).value == 1


def _run_folder() -> Path:
    """The folder of the only run that a test here makes in this process: see the fixture `runs`."""
    (found,) = Path(os.environ["XDG_RUNTIME_DIR"], "toolexec").glob(f"{os.getpid()}-*")
    return found


async def test_nothing_is_left(engine: Engine) -> None:
    async with docker() as host:
        folder = _run_folder()
        await run(host, "import os\nos.fork()")
        assert await _owned(engine, folder.name)
    assert not await _owned(engine, folder.name)
    assert not folder.exists()


async def _owned(engine: Engine, name: str) -> list[Mapping[str, Any]]:
    """The containers of the run whose folder has this name."""
    found = await engine.containers(OWNER_LABEL)
    return [container for container in found if container["Labels"][OWNER_LABEL].endswith(f"/{name}")]


HOLD = """
import time
from runtimes.docker import DockerBackend
from sandbox import Exec

def hold() -> None:
    "Keep the execution in the middle of a call."
    print("held", flush=True)
    time.sleep(1000)

with Exec(backends={"docker": DockerBackend}, pool_size=1) as exec:
    exec.tool(hold)
    exec.execute_code("tools.hold()", limits={"wall_seconds": 1000})
"""


async def test_a_killed_host_takes_its_guests_with_it(engine: Engine) -> None:
    host = await anyio.open_process([sys.executable, "-c", HOLD])

    async def owned() -> list[str]:
        containers = await engine.containers(OWNER_LABEL)
        return [one["State"] for one in containers if f"/{host.pid}-" in one["Labels"][OWNER_LABEL]]

    async with host:
        assert host.stdout is not None
        assert await BufferedByteReceiveStream(host.stdout).receive_until(b"\n", 100) == b"held"
        assert "running" in await owned()
        host.kill()
    with anyio.fail_after(20):
        while "running" in await owned():  # noqa: ASYNC110 - the daemon announces it to nobody here
            await anyio.sleep(0.1)
    async with docker() as another:
        await run(another, "1")
        assert await owned() == []


async def test_orphans_of_dead_hosts_are_removed_and_nobody_elses(engine: Engine) -> None:
    dead, elsewhere = owner_of(Path("/run/1-1-dead")), "another-host-1/1-1-dead"
    alive = owner_of(Path(f"/run/{os.getpid()}-{_started()}-alive"))
    owners = {dead: True, elsewhere: False, alive: False}
    made = {}
    for number, owner in enumerate(owners):
        config = {"Image": DEFAULT_IMAGE, "Entrypoint": ["sleep", "60"], "Labels": {OWNER_LABEL: owner}}
        made[owner] = await engine.create(f"toolexec-test-{os.getpid()}-{number}", config)
    try:
        async with docker() as host:
            await run(host, "1")
            left = {container["Id"] for container in await engine.containers(OWNER_LABEL)}
        assert {owner: made[owner] not in left for owner in owners} == owners
    finally:
        for container in [made[elsewhere], made[alive]]:
            await engine.remove(container)


def _started() -> str:
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]


async def test_a_missing_image_is_said_with_how_to_build_it() -> None:
    async with docker():
        pass
    async with AsyncExec(
        backends={"docker": DockerBackend}, backend_options={"docker": {"image": "toolexec-nowhere"}}
    ) as host:
        with pytest.raises(BackendUnavailable, match="toolexec image build --tag toolexec-nowhere"):
            await host.execute_code("1")


async def test_a_daemon_that_is_down_is_said_with_how_to_start_one() -> None:
    options = {"docker": {"host": "unix:///nowhere/docker.sock"}}
    async with AsyncExec(backends={"docker": DockerBackend}, backend_options=options) as host:
        with pytest.raises(BackendUnavailable, match=r"no daemon answers.*dockerd"):
            await host.execute_code("1")


@pytest.mark.parametrize(
    "options", [{"docker": {"imge": "x"}}, {"docker": {"host": "tcp://10.0.0.1:2375"}}, {"podman": {}}]
)
async def test_wrong_options_are_refused(options: dict[str, dict[str, str]]) -> None:
    with pytest.raises(InvalidRequest, match=r"imge|TLS|podman"):
        async with AsyncExec(backends={"docker": DockerBackend}, backend_options=options) as host:
            await host.execute_code("1")


async def test_cancellation_leaves_nothing(host: AsyncExec, engine: Engine) -> None:
    await run(host, "1")
    for delay in (0.0, 0.01, 0.05, 0.2, 0.5):
        with anyio.move_on_after(delay):
            await host.execute_code("import time\ntime.sleep(10)", limits={"memory_bytes": 90 * MIB})
    name = _run_folder().name
    await host.aclose()
    assert not await _owned(engine, name)


async def test_gvisor_as_dockers_runtime_is_a_second_boundary(engine: Engine) -> None:
    if "runsc" not in (await engine.info())["Runtimes"]:
        require("gvisor", "the Docker daemon has no runtime `runsc`")
    async with docker(runtime="runsc") as host:

        @host.tool
        def add(a: int, b: int) -> int:
            """Add."""
            return a + b

        found = (await host.probe())["docker"]
        assert (found.boundaries, found.details["kernel"]) == (2, "gVisor")
        result = await host.execute_code("print('x' * 100_000)\ntools.add(a=1, b=2)", profile="hardened")
        assert (result.value, len(result.stdout), result.evidence["runtime"]) == (3, 100_001, "runsc")
        assert result.evidence["seccomp"] == "the runtime's own"


async def test_a_plain_container_is_one_boundary(host: AsyncExec) -> None:
    assert (await host.probe())["docker"].boundaries == 1


@pytest.fixture
def network(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """An internal network, and this host's address in it."""
    name = f"toolexec-test-{os.getpid()}"
    made = subprocess.run(["docker", "network", "create", "--internal", name], capture_output=True, text=True)
    if made.returncode != 0:
        require("docker", made.stderr)
    found = json.loads(subprocess.check_output(["docker", "network", "inspect", name]))
    yield name, found[0]["IPAM"]["Config"][0]["Gateway"]
    subprocess.run(["docker", "network", "rm", name], capture_output=True)


def make_certificates(folder: Path, host: str) -> None:
    """An authority, and a certificate of its for `host`."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=test", "-days", "2")
    openssl("req", *key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=gateway")
    (folder / "extra").write_text(f"subjectAltName=IP:{host}\n")
    openssl(
        *("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial"),
        *("-out", "cert.pem", "-days", "2", "-extfile", "extra"),
    )


async def test_a_guest_that_has_no_socket_of_ours_comes_by_tls(network: tuple[str, str], tmp_path: Path) -> None:
    name, address = network
    make_certificates(tmp_path, address)
    async with docker(network=name, gateway_host=address, gateway_tls=str(tmp_path)) as host:

        @host.tool
        def add(a: int, b: int) -> int:
            """Add."""
            return a + b

        result = await run(host, "import os\nprint('x' * 200_000)\nos.write(2, b'raw')\ntools.add(a=1, b=2)")
        assert (result.value, len(result.stdout), result.stderr) == (3, 200_001, "raw")
        assert result.evidence["network"] == name
        result = await run(host, "print('last words', flush=True)\nimport os\nos._exit(3)")
        assert (result.outcome, result.exit_code, result.stdout) == (Outcome.EXITED, 3, "last words\n")


async def test_a_guest_on_another_machine_checks_whom_it_talks_to(
    network: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ATTACH_SECONDS", 6.0)
    name, address = network
    make_certificates(tmp_path, address)
    other = tmp_path / "other"
    other.mkdir()
    make_certificates(other, address)
    (tmp_path / "ca.pem").write_bytes((other / "ca.pem").read_bytes())
    async with docker(network=name, gateway_host=address, gateway_tls=str(tmp_path)) as host:
        with pytest.raises(SandboxLost):
            await asyncio.wait_for(host.execute_code("1"), 40)


async def test_a_network_that_leads_elsewhere_is_refused(engine: Engine, tmp_path: Path) -> None:
    await engine.info()
    make_certificates(tmp_path, "127.0.0.1")
    options = {"network": "bridge", "gateway_host": "127.0.0.1", "gateway_tls": str(tmp_path)}
    async with AsyncExec(backends={"docker": DockerBackend}, backend_options={"docker": options}) as host:
        with pytest.raises(BackendUnavailable, match=r"leads out.*--internal"):
            await host.execute_code("1")
