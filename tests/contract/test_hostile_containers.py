"""Guests that attack the operating system around them, in containers: each attack fails, the result says what happened,
the host is well, and nothing is left of the guest.

What a guest is refused and what it is granted in vain differ by engine: gVisor lets a guest mount file systems that
only its own kernel knows. So an attack here says what it must not reach, and not which error it must get.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runtimes._container import FIRST_UID, UIDS
from runtimes.base import Capabilities
from sandbox import Exec, ExecutionResult, Outcome
from tests.conftest import require
from tests.contract.conftest import Run, add

MIB = 1 << 20
SECRET = "the host's own secret"
SLEEP = "61.83"
"""Seconds that programs of guests here sleep: by it they would be found on the host."""


@pytest.fixture(scope="module", params=["docker", "gvisor"])
def kind(request: pytest.FixtureRequest, cold: Exec, capabilities: Mapping[str, Capabilities]) -> Iterator[str]:
    """Each backend that makes containers. A guest is well before each kind of attack, and after the last."""
    found = capabilities[request.param]
    if not found.usable:
        require(request.param, found.reason)
    yield str(request.param)
    assert_next_guest_is_well(cold, request.param)


@pytest.fixture(scope="module")
def runs() -> Iterator[Path]:
    """Where `cold` keeps its run's folder: what names it belongs to guests of these tests, and to no others."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def cold(runs: Path) -> Iterator[Exec]:
    """An Exec without warm sandboxes: whatever is there after an execution was left by it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runs))
        with Exec(pool_size=0, profile="standard") as exec:
            exec.tool(namespace="demo")(add)
            yield exec


def assert_next_guest_is_well(cold: Exec, kind: str) -> None:
    result = cold.execute_code("tools.demo.add(a=1)", backend=kind)
    assert (result.outcome, result.value) == (Outcome.COMPLETED, 11)


@pytest.fixture(scope="module")
def _tell(cold: Exec) -> list[str]:
    heard: list[str] = []

    def tell(value: str) -> None:
        """Tell the host something."""
        heard.append(value)

    cold.tool(namespace="demo")(tell)
    return heard


@pytest.fixture
def told(_tell: list[str]) -> list[str]:
    """What guests have told the host by the tool `demo.tell`."""
    _tell.clear()
    return _tell


@pytest.fixture(scope="module")
def _stay(cold: Exec) -> threading.Event:
    released = threading.Event()

    def stay() -> None:
        """Wait until the host has seen enough."""
        assert released.wait(30)

    cold.tool(namespace="demo")(stay)
    return released


@pytest.fixture
def released(_stay: threading.Event) -> threading.Event:
    """Until it is set, guests that call the tool `demo.stay` live on."""
    _stay.clear()
    return _stay


_well: dict[str, str] = {}
"""By backend, the test before which a guest was well."""


@pytest.fixture
def attack(
    cold: Exec, kind: str, runs: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Run]:
    """`attack(code, **options)` in profile standard; afterwards nothing of it is left."""
    monkeypatch.setenv("HOST_SECRET", SECRET)
    if _well.get(kind) != request.node.originalname:
        _well[kind] = request.node.originalname
        assert_next_guest_is_well(cold, kind)
    run: Callable[..., ExecutionResult] = partial(cold.execute_code, backend=kind)

    def run_snippet(code: str, *, limits: dict[str, Any] | None = None, **options: Any) -> ExecutionResult:
        return run(code, limits={"wall_seconds": 10, **(limits or {})}, **options)

    yield run_snippet
    assert _left(runs) == []


def _left(runs: Path) -> list[str]:
    """What runs on this host for a guest of ours, or was left on its disk: its own program by its argument, gVisor's
    processes by their folder, and folders with a socket for a guest."""
    signs = (f"sleep {SLEEP}", f"{runs}/")
    processes = [f"{path.parent.name}: {command}" for path, command in _commands() if any(s in command for s in signs)]
    return processes + [str(socket.parent) for socket in runs.glob("*/*/*/**/gateway.sock")]


def _commands() -> Iterator[tuple[Path, str]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path, path.read_bytes().replace(b"\0", b" ").decode(errors="replace")


BOMBS = {
    "fork bomb": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError: pass",
    "fork bomb in a shell": "import os\nos.system('bomb() { bomb | bomb & }; bomb; sleep 9')",
    "thread bomb": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
    "memory of many processes": (
        "import os\nfor _ in range(4): os.fork()\nx = []\nwhile True: x.append(os.urandom(1 << 20))"
    ),
    "memory of a child": (
        "import subprocess, sys\nbomb = 'x = []' + chr(10) + 'while True: x.append(bytearray(b\"x\" * (1 << 22)))'\n"
        "raise SystemExit(abs(subprocess.run([sys.executable, '-c', bomb]).returncode))"
    ),
    "memory of files": (
        "import os\nwith open(os.environ['TMPDIR'] + '/big', 'wb') as file:\n    while True: file.write(bytes(1 << 20))"
    ),
    "memory of empty files": (
        "import os\nn = 0\nwhile n < 40_000:\n    open(os.environ['TMPDIR'] + f'/{n}', 'w').close()\n    n += 1"
    ),
    "shared memory": "import os\nwith open('/dev/shm/big', 'wb') as file:\n    while True: file.write(bytes(1 << 20))",
    "open files": "import os\nheld = []\nwhile True: held.append(open(os.devnull))",
    "pipes": "import os\nheld = []\nwhile True: held.append(os.pipe())",
    "memory files": (
        "import os\nheld = []\n"
        "while True:\n    held.append(os.memfd_create('x'))\n    os.write(held[-1], bytes(1 << 20))"
    ),
    "processor time": "while True: pass",
    "processor time with signals masked": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "for number in signal.valid_signals():\n    try: signal.signal(number, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass"
    ),
    "processor time of children": ("import os\nfor _ in range(3): os.fork()\nwhile True: pass"),
    "ten gigabytes of output": "import sys\nblock = 'x' * (1 << 20)\nfor _ in range(10_000): sys.stdout.write(block)",
    "ten gigabytes of output of a child": "import os\nos.system('yes | head -c 10000000000')",
}


HOLD_OUT = ("fork bomb", "fork bomb in a shell")
"""In Docker these hold out until their time is up, however long it is."""


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_ends_at_a_limit_or_at_an_error_of_its_own(attack: Run, bomb: str) -> None:
    code, seconds = BOMBS[bomb], 3 if bomb in HOLD_OUT else 8
    limits = {"wall_seconds": seconds, "memory_bytes": 128 * MIB, "disk_bytes": 32 * MIB, "pids": 64, "cpu_seconds": 1}
    result = attack(f"print('lit')\n{code}", limits=limits)
    assert result.stdout.startswith("lit\n")
    assert result.outcome in {
        Outcome.LIMIT_EXCEEDED,
        Outcome.TIMED_OUT,
        Outcome.RAISED,
        Outcome.EXITED,
        Outcome.COMPLETED,
    }
    assert result.duration_seconds < 20
    if result.usage.memory_peak_bytes is not None:
        assert result.usage.memory_peak_bytes < 512 * MIB
    if result.outcome is Outcome.RAISED:
        assert result.error is not None
        assert result.error.type in {"OSError", "BlockingIOError", "MemoryError", "RuntimeError"}


def test_want_of_memory_is_told_from_a_signal_and_from_a_crash(attack: Run) -> None:
    hog = (
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n"
        "        held = bytearray(b'x') * (85 << 20)\n        time.sleep(60)\n"
        "os.waitstatus_to_exitcode(os.wait()[1])"
    )
    result = attack(hog, limits={"memory_bytes": 96 * MIB, "wall_seconds": 30})
    if result.outcome is Outcome.COMPLETED:  # the kernel ended one of the children, and the snippet saw it and went on
        assert result.value == -9
    else:
        assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "memory_bytes")
    result = attack("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", limits={"memory_bytes": 96 * MIB})
    assert (result.outcome, result.limit) == (Outcome.KILLED, None)
    result = attack("import os\nos.abort()", limits={"memory_bytes": 96 * MIB})
    assert (result.outcome, result.limit) == (Outcome.KILLED, None)
    assert result.error is not None
    assert "SIGABRT" in result.error.message


def test_a_processor_limits_signal_sent_by_the_guest_is_no_limit_reached(attack: Run) -> None:
    result = attack("import os, signal\nos.kill(os.getpid(), signal.SIGXCPU)", limits={"cpu_seconds": 5})
    assert (result.outcome, result.limit) == (Outcome.KILLED, None)


STAYING = {
    "a daemon": (
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.setsid()\n"
        f"        os.execvp('sleep', ['sleep', '{SLEEP}'])\n    os._exit(0)\n'gone'"
    ),
    "a daemon in the background of a shell": f"import os\nos.system('setsid nohup sleep {SLEEP} >/dev/null 2>&1 &')",
    "a daemon that ignores signals": (
        "import os, signal\nif os.fork() == 0:\n    os.setsid()\n"
        "    for number in range(1, 32):\n        try: signal.signal(number, signal.SIG_IGN)\n"
        f"        except OSError: pass\n    os.execvp('sleep', ['sleep', '{SLEEP}'])\n'gone'"
    ),
    "the death of the agent": f"import os\nif os.fork(): os._exit(5)\nos.execvp('sleep', ['sleep', '{SLEEP}'])",
    "the death of init": f"import os\nos.kill(1, 9)\nos.execvp('sleep', ['sleep', '{SLEEP}'])",
}


@pytest.mark.parametrize("code", STAYING.values(), ids=STAYING)
def test_nothing_stays(attack: Run, code: str) -> None:
    assert attack(code, limits={"wall_seconds": 2}).outcome in {
        Outcome.COMPLETED,
        Outcome.EXITED,
        Outcome.KILLED,
        Outcome.TIMED_OUT,
    }


LIBC = "import ctypes, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n"

PRIVILEGED = {
    "become root": "os.setuid(0)",
    "become another group": "os.setgroups([0])",
    "leave the root folder": "os.chroot('/guest')",
    "make a device": "os.mknod('/guest/tmp/mem', 0o20666, os.makedev(1, 1)); open('/guest/tmp/mem', 'rb').read(1)",
    "set the clock": "__import__('time').clock_settime(0, 0)",
    "set the host's name": "socket.sethostname('taken')",
    "raise a limit": "__import__('resource').setrlimit(7, (1 << 20, 1 << 20))",
    "a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
    "a packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)",
    "debug init": "_refused(libc.ptrace(16, 1, 0, 0))",
    "read init's memory": "open('/proc/1/mem', 'rb').read(1)",
    "load a program into the kernel": "_refused(libc.syscall(321, 5, ctypes.create_string_buffer(128), 128))",
    "load a module": "_refused(libc.syscall(175, ctypes.create_string_buffer(64), 64, b''))",
    "replace the kernel": "_refused(libc.syscall(246, 0, 0, 0, 0))",
    "use the host's keys": "_refused(libc.syscall(248, b'user', b'name', b'data', 4, -3))",
    "reboot": "_refused(libc.reboot(0x1234567))",
    "swap": "_refused(libc.swapon(b'/guest/tmp', 0))",
    "write to ports": "_refused(libc.iopl(3))",
    "write a kernel setting": "open('/proc/sys/kernel/core_pattern', 'w').write('|/guest/tmp/x')",
    "write a kernel switch": "open('/proc/sysrq-trigger', 'w').write('b')",
    "write to /sys": "open('/sys/kernel/uevent_helper', 'w').write('/guest/tmp/x')",
    "write to the root": "open('/evil', 'w')",
    "write to /usr": "open('/usr/evil', 'w')",
    "write over its own agent": "open(__import__('runtimes').__file__, 'a').write('x')",
    "read the host's memory": "open('/dev/mem', 'rb').read(1)",
    "read the host's disk": "[open(f'/dev/{name}', 'rb').read(1) for name in ('vda', 'sda', 'nvme0n1')]",
    "read the host's passwords": "open('/etc/shadow').read()",
    "talk to the Docker daemon": "socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')",
}

TRY_ALL = f"""
{LIBC}
def _refused(status):
    if status < 0:
        raise OSError(ctypes.get_errno(), 'refused')

def try_one(act):
    child = os.fork()
    if child == 0:
        try:
            exec(act)
        except (OSError, ValueError):
            os._exit(0)
        except BaseException:
            os._exit(2)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

{{name: try_one(act) for name, act in {PRIVILEGED!r}.items()}}
"""
"""Each in a process of its own: 0 for one that was refused, 1 for one that was granted, else how it failed."""

_tried: dict[str, ExecutionResult] = {}


@pytest.mark.parametrize("act", PRIVILEGED)
def test_a_guest_has_no_privileges(attack: Run, kind: str, act: str) -> None:
    """One guest tries them all: what it is refused does not depend on what it tried before."""
    if kind not in _tried:
        _tried[kind] = attack(TRY_ALL)
    result = _tried[kind]
    assert result.outcome is Outcome.COMPLETED, result.error
    assert result.value[act] == 0


def test_programs_with_the_setuid_bit_give_nothing(attack: Run) -> None:
    result = attack(
        "import glob, os, stat, subprocess\n"
        "found = [path for path in glob.glob('/usr/bin/*') if os.stat(path).st_mode & stat.S_ISUID]\n"
        "done = [subprocess.run([path, '--help'], capture_output=True, timeout=5) for path in found[:1]]\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines() if ':' in line)\n"
        "[status['Uid'].split(), status['CapEff'].strip(), int(status['CapBnd'], 16)]"
    )
    assert result.outcome is Outcome.COMPLETED, result.error
    users, effective, bounding = result.value
    assert all(FIRST_UID <= int(user) < FIRST_UID + UIDS for user in users)
    assert (int(effective, 16), bounding) == (0, 0)


def test_namespaces_of_its_own_lead_nowhere(attack: Run) -> None:
    """Where they are granted at all: a guest that is root in its own namespace has no more of the host than before."""
    result = attack(
        f"{LIBC}"
        "flags = 0x10000000 | 0x00020000 | 0x40000000 | 0x20000000\n"
        "granted = libc.unshare(flags) == 0\n"
        "libc.mount(b'none', b'/usr', b'tmpfs', 0, None)\n"
        "libc.mount(b'proc', b'/guest/tmp', b'proc', 0, None)\n"
        "libc.mount(b'/dev/vda', b'/guest/tmp', b'ext4', 0, None)\n"
        "seen = [path for path in ('/root/.ssh', '/var/run/docker.sock', '/guest/tmp/etc')"
        " if os.access(path, os.R_OK)]\n"
        "processes = [name for name in os.listdir('/proc') if name.isdigit()]\n"
        "[seen, len(processes) < 20]"
    )
    assert (result.outcome, result.value) == (Outcome.COMPLETED, [[], True]), result.error
    assert Path("/usr/bin").is_dir()


PLACES = {
    "a host's service": ("127.0.0.1", 22),
    "the network": ("192.0.2.1", 80),
    "the metadata service": ("169.254.169.254", 80),
    "a private network": ("10.0.0.1", 443),
    "Docker's network": ("172.17.0.1", 2375),
    "loopback, version 6": ("::1", 22),
    "the network, version 6": ("2001:db8::1", 80),
}


REACH_ALL = f"""
import socket, time
def refused(place):
    begun = time.monotonic()
    try:
        socket.create_connection(place, timeout=3)
    except OSError:
        return time.monotonic() - begun < 2

{{name: refused(place) for name, place in {PLACES!r}.items()}}
"""

_reached: dict[str, ExecutionResult] = {}


@pytest.mark.parametrize("place", PLACES)
def test_nothing_can_be_reached(attack: Run, kind: str, place: str) -> None:
    """One guest tries them all; each is refused at once, and not after a while."""
    if kind not in _reached:
        _reached[kind] = attack(REACH_ALL, limits={"wall_seconds": 25})
    result = _reached[kind]
    assert result.outcome is Outcome.COMPLETED, result.error
    assert result.value[place] is True


@pytest.mark.parametrize("how", ["udp", "dns", "interfaces", "abstract"])
def test_there_is_no_other_way_out(attack: Run, how: str) -> None:
    code = {
        "udp": (
            "import socket\ntry:\n    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "    udp.sendto(b'x', ('192.0.2.1', 53))\nexcept OSError: __out = True"
        ),
        "dns": "import socket\ntry:\n    socket.getaddrinfo('example.com', 80)\nexcept OSError: __out = True",
        "interfaces": (
            "import socket\ntry:\n    names = {name for _, name in socket.if_nameindex()}\n"
            "except PermissionError: names = set()\nnames <= {'lo'}"
        ),
        "abstract": (
            "try:\n    lines = open('/proc/net/unix').read().splitlines()[1:]\nexcept OSError: lines = []\n"
            "[line for line in lines if line.split()[-1].startswith('@')] == []"
        ),
    }[how]
    result = attack(code)
    assert (result.outcome, result.value) == (Outcome.COMPLETED, True), result.error


def test_no_secret_of_the_host_is_to_be_found(attack: Run) -> None:
    result = attack(
        "import glob, os\nfound = []\n"
        "for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):\n"
        "    try: found.append(open(path, 'rb').read().decode(errors='replace'))\n"
        "    except OSError: pass\n"
        f"[{SECRET!r} in text for text in found].count(True)"
    )
    assert (result.outcome, result.value) == (Outcome.COMPLETED, 0)


OWN_TOKEN = """
import sys
frame, hello = sys._getframe(), None
while hello is None:
    frame = frame.f_back
    hello = frame.f_locals.get('hello')
token = hello.token
"""

ATTACH = """
import grpc
from gateway.v1 import gateway_pb2 as pb, gateway_pb2_grpc
def attach(token):
    stub = gateway_pb2_grpc.GatewayServiceStub(grpc.insecure_channel('unix:/run/toolexec/gateway.sock'))
    try:
        hello = pb.Hello(token=token, agent_version='1', language='python')
        next(stub.Attach(iter([pb.GuestFrame(hello=hello)])), None)
    except grpc.RpcError as error:
        return error.code().name
    return 'attached'
"""


def test_only_its_own_socket_is_seen(attack: Run) -> None:
    result = attack(
        "import glob, os, stat\nfound = [path for folder in ('run', 'var', 'tmp', 'guest')"
        " for path in glob.glob(f'/{folder}/**/*', recursive=True) if os.path.exists(path)]\n"
        "sockets = [path for path in found if stat.S_ISSOCK(os.stat(path).st_mode)]\n"
        "[sockets, os.path.exists('/run/toolexec/gateway.sock')]"
    )
    assert result.outcome is Outcome.COMPLETED, result.error
    sockets, own = result.value
    assert own
    assert {*sockets} <= {"/run/toolexec/gateway.sock"}


def test_a_token_of_another_guest_is_of_no_use(attack: Run, told: list[str], released: threading.Event) -> None:
    """Neither while that guest lives nor afterwards, though the gateway knows it."""
    betray = f"{OWN_TOKEN}tools.demo.tell(value=token)\ntools.demo.stay()"
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(attack, betray, limits={"wall_seconds": 30})
        deadline = time.monotonic() + 20
        while not told and time.monotonic() < deadline:
            time.sleep(0.05)
        (token,) = told
        try:
            result = attack(f"{ATTACH}attach({token!r})", limits={"wall_seconds": 5})
            assert not other.done()
        finally:
            released.set()
    assert (other.result().outcome, result.value) == (Outcome.COMPLETED, "UNAUTHENTICATED")
    assert attack(f"{ATTACH}attach({token!r})").value == "UNAUTHENTICATED"


def test_its_own_token_is_good_for_one_attachment(attack: Run) -> None:
    assert attack(f"{OWN_TOKEN}{ATTACH}attach(token)").value in {"UNAUTHENTICATED", "FAILED_PRECONDITION"}


def test_links_and_tricks_in_files_handed_back(attack: Run) -> None:
    result = attack(
        "import os\nos.symlink('/etc/hostname', 'link')\nos.symlink('/proc/1/environ', 'environ')\n"
        "os.symlink('/', 'folder')\nos.mkfifo('pipe')\nos.mkdir('deep')\nos.symlink('..', 'deep/up')\n"
        "open('real', 'w').write('real')\nopen('a' * 255, 'w').close()\nopen('new\\nline', 'w').close()"
    )
    assert result.outcome is Outcome.COMPLETED, result.error
    assert {artifact.path for artifact in result.artifacts} == {"real", "a" * 255, "new\nline"}


def test_a_guest_that_kills_its_agent_fools_nobody(attack: Run) -> None:
    result = attack("import os, signal\nos.fork() or os.kill(os.getppid(), signal.SIGKILL)\nimport time\ntime.sleep(5)")
    assert (result.outcome, result.value) == (Outcome.KILLED, None)


def test_a_guest_that_speaks_for_its_agent_gets_no_more_than_its_grant(attack: Run) -> None:
    result = attack(
        "import os, sys\nframe, stream = sys._getframe(), None\n"
        "while stream is None:\n    frame = frame.f_back\n"
        "    stream = next((item for item in frame.f_locals.values() if type(item).__name__ == 'Stream'), None)\n"
        'try:\n    stream.ask(\'run_tool\', \'{"tool_id": "demo:add", "arguments": {"a": 1}}\').result(5)\n'
        "except Exception as error: __out = str(error)",
        allowed_tools=["demo:nothing"],
    )
    assert "tool_denied" in str(result.value)
    assert [call.status for call in result.tool_calls] == ["refused"]


def test_evidence_says_what_held_it(attack: Run) -> None:
    result = attack("1", limits={"memory_bytes": 128 * MIB, "pids": 50, "disk_bytes": 8 * MIB, "cpu_seconds": 5})
    assert {"memory_bytes", "pids", "disk_bytes", "cpu_seconds"} <= result.enforced
    assert result.evidence["network"] == "none"
    user, _, _ = str(result.evidence["user"]).partition(":")
    assert FIRST_UID <= int(user) < FIRST_UID + UIDS
    assert int(result.evidence["guest"]["CapEff"], 16) == 0
