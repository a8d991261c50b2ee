"""Every probe is a child process that confines itself and then tries the thing.

A refusal is only believed when the same probe fares otherwise in a child that did not confine itself.
"""

import dataclasses
import errno
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from runtimes import _landlock, _seccomp
from runtimes._confine import Confinement

REPOSITORY = Path(__file__).parents[2]

PRELUDE = """
import ctypes, errno, fcntl, mmap, os, resource, shutil, signal, socket, subprocess, sys, termios, threading, time
from pathlib import Path
from runtimes._confine import confine, die_with_parent, evidence

repository, directory, confined = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "confined"
inside, outside = directory / "in", directory / "out"
libc = ctypes.CDLL(None, use_errno=True)

def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")

def answer(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def connect(address):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
"""

CONFINE = "state = confine(readable=[repository], writable=[inside]) if confined else None\n"


def run_probe(
    directory: Path, code: str, *, before: str = "", mode: str = "confined"
) -> subprocess.CompletedProcess[str]:
    """Runs `before`, then confine(), then `code`."""
    source = PRELUDE + textwrap.dedent(before) + "\n" + CONFINE + textwrap.dedent(code)
    command = [sys.executable, "-c", source, str(REPOSITORY), str(directory), mode]
    return subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)


def printed(directory: Path, code: str, *, before: str = "") -> str:
    ended = run_probe(directory, code, before=before)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def make_directories(directory: Path) -> Path:
    for name in ("in", "out"):
        (directory / name).mkdir()
        (directory / name / "file").write_text("text")
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Holds `in`, which probes may write beneath, and `out`, which they may not even read."""
    return make_directories(tmp_path)


@pytest.fixture(scope="session")
def confinement(tmp_path_factory: pytest.TempPathFactory) -> Confinement:
    directory = make_directories(tmp_path_factory.mktemp("confinement"))
    fields = json.loads(printed(directory, "import dataclasses, json; print(json.dumps(dataclasses.asdict(state)))"))
    return Confinement(**{**fields, "missing": tuple(fields["missing"])})


def require(confinement: Confinement, *, present: bool, what: str) -> None:
    if present:
        return
    reason = f"no {what} on this machine: {', '.join(confinement.missing)}"
    if "confinement" in os.environ.get("TOOLEXEC_REQUIRE", ""):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def landlock(confinement: Confinement) -> int:
    require(confinement, present=confinement.landlock_abi is not None, what="Landlock")
    return confinement.landlock_abi or 0


@pytest.fixture
def seccomp(confinement: Confinement) -> None:
    require(confinement, present=confinement.seccomp, what="seccomp")


REFUSED_BY_SECCOMP = {
    "exec": "os.execv('/bin/true', ['true'])",
    "subprocess": "subprocess.run(['/bin/true'])",
    "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "fork": "os.fork() or os._exit(0)",
    "inet socket": "socket.socket(socket.AF_INET).close()",
    "inet6 socket": "socket.socket(socket.AF_INET6).close()",
    "netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()",
    "ptrace": "check(libc.ptrace(0, 0, None, None))",
    "kill parent": "os.kill(os.getppid(), 0)",
    "kill group": "os.kill(0, 0)",
    "kill all": "os.kill(-1, 0)",
    "pidfd": "signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)",
    "signal by descriptor": "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "type into terminal": "fcntl.ioctl(0, termios.TIOCSTI, b'x')",
    "limits of parent": "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)",
    "processors of parent": "os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))",
    "priority": "os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0))",
    "setuid": "os.setuid(os.getuid())",
    "setgid": "os.setgid(os.getgid())",
    "setsid": "os.setsid()",
    "unshare": "check(libc.unshare(0))",
    "personality": "check(libc.personality(0xFFFFFFFF))",
    "become dumpable": "check(libc.prctl(4, 1, 0, 0, 0))",
    "outlive parent": "check(libc.prctl(1, 0, 0, 0, 0))",
    "writable code": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
    "chmod": "os.chmod(outside / 'file', 0o600)",
    "chown": "os.chown(outside / 'file', os.getuid(), os.getgid())",
    "utime": "os.utime(outside / 'file')",
}

REFUSED_BY_LANDLOCK = {
    "read host file": "Path('/etc/passwd').read_bytes()",
    "read": "(outside / 'file').read_text()",
    "read by way of /proc": "Path(f'/proc/self/root/{outside}/file').read_text()",
    "list": "os.listdir(outside)",
    "write": "(outside / 'new').write_text('')",
    "append": "(outside / 'file').open('a').close()",
    "delete": "(outside / 'file').unlink()",
    "mkdir": "(outside / 'new').mkdir()",
    "bind": "socket.socket(socket.AF_UNIX).bind(str(outside / 's'))",
    "move in": "(outside / 'file').rename(inside / 'new')",
    "move out": "(inside / 'file').rename(outside / 'new')",
    "parent in /proc": "Path(f'/proc/{os.getppid()}/status').read_text()",
    "write own memory": "Path('/proc/self/mem').open('r+b').close()",
    "symbolic link": "(inside / 'link').symlink_to('/etc')",
    "pipe": "os.mkfifo(inside / 'pipe')",
    "write library": "Path(os.__file__).open('a').close()",
}


def refusal_and_control(directory: Path, expression: str) -> tuple[str, str]:
    code = f"print(answer(lambda: {expression}))"
    return printed(directory, code), run_probe(directory, code, mode="free").stdout.strip()


@pytest.mark.usefixtures("seccomp")
@pytest.mark.parametrize("expression", REFUSED_BY_SECCOMP.values(), ids=REFUSED_BY_SECCOMP.keys())
def test_is_refused_by_seccomp(directory: Path, expression: str) -> None:
    refusal, control = refusal_and_control(directory, expression)
    assert refusal == "EPERM"
    assert control != "EPERM"


@pytest.mark.usefixtures("landlock")
@pytest.mark.parametrize("expression", REFUSED_BY_LANDLOCK.values(), ids=REFUSED_BY_LANDLOCK.keys())
def test_is_refused_by_landlock(directory: Path, expression: str) -> None:
    refusal, control = refusal_and_control(directory, expression)
    assert refusal == "EACCES"
    assert control != "EACCES"


@pytest.mark.usefixtures("landlock")
def test_a_file_cannot_be_linked_in(directory: Path) -> None:
    refusal, control = refusal_and_control(directory, "os.link(outside / 'file', inside / 'new')")
    assert refusal in {"EACCES", "EXDEV"}
    assert control == "done"


def test_a_file_outside_cannot_be_truncated(directory: Path, landlock: int) -> None:
    require_abi(landlock, 3, "truncation")
    assert refusal_and_control(directory, "os.truncate(outside / 'file', 0)") == ("EACCES", "done")


def require_abi(found: int, needed: int, what: str) -> None:
    if found < needed:
        pytest.skip(f"Landlock ABI {found} cannot refuse {what}; ABI {needed} can")


@pytest.fixture
def listener(directory: Path) -> Iterator[dict[str, str]]:
    """Unix sockets of this process, which probes could connect to if they were let."""
    addresses = {"abstract": f"\0{directory}", "inside": str(directory / "in/s"), "outside": str(directory / "out/s")}
    sockets = {name: socket.socket(socket.AF_UNIX) for name in addresses}
    for name, address in addresses.items():
        sockets[name].bind(address)
        sockets[name].listen()
    yield addresses
    for each in sockets.values():
        each.close()


def test_an_abstract_socket_cannot_be_connected_to(directory: Path, landlock: int, listener: dict[str, str]) -> None:
    require_abi(landlock, 6, "abstract Unix sockets")
    assert refusal_and_control(directory, f"connect({listener['abstract']!r})") == ("EPERM", "done")


def test_a_socket_outside_cannot_be_connected_to(directory: Path, landlock: int, listener: dict[str, str]) -> None:
    require_abi(landlock, 9, "Unix sockets by path")
    assert refusal_and_control(directory, f"connect({listener['outside']!r})") == ("EACCES", "done")


def test_a_socket_inside_can_be_connected_to(directory: Path, listener: dict[str, str]) -> None:
    assert printed(directory, f"print(answer(lambda: connect({listener['inside']!r})))") == "done"


def test_a_socket_inside_can_be_bound(directory: Path) -> None:
    code = """
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(inside / "s"))
    server.listen()
    connect(str(inside / "s"))
    server.accept()[0].close()
    os.unlink(inside / "s")
    """
    assert printed(directory, code) == ""


def test_a_tcp_socket_it_had_before_is_useless(directory: Path, landlock: int) -> None:
    require_abi(landlock, 4, "TCP")
    code = """
    print(answer(lambda: tcp.bind(("127.0.0.1", 0))), answer(lambda: tcp.connect(("127.0.0.1", 9))))
    """
    assert printed(directory, code, before="tcp = socket.socket()") == "EACCES EACCES"


@pytest.mark.usefixtures("seccomp")
def test_every_listed_syscall_is_refused(directory: Path) -> None:
    code = """
    from runtimes import _seccomp
    numbers = _seccomp.SYSCALLS[_seccomp.this_machine()]
    for name in numbers.keys() - _seccomp._decided_by_argument(0).keys():
        bad = ctypes.c_long(-1)
        print(name, answer(lambda: check(libc.syscall(numbers[name], bad, bad, bad, bad, bad, bad))))
    """
    answers = dict(line.split() for line in printed(directory, code).splitlines())
    assert answers.pop("clone3") == "ENOSYS"
    assert len(answers) > 90
    assert set(answers.values()) == {"EPERM"}


@pytest.mark.usefixtures("seccomp")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is of x86_64")
def test_syscalls_of_x32_do_not_exist(directory: Path) -> None:
    assert printed(directory, "print(answer(lambda: check(libc.syscall(0x40000000 | 39))))") == "ENOSYS"


# mov eax, 20 (getpid of i386: asm/unistd_32.h); int 0x80; ret
I386_GETPID = """
libc.mmap.restype, libc.mprotect.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
page = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0))
ctypes.memmove(page, bytes.fromhex("b814000000cd80c3"), 8)
check(libc.mprotect(page, 4096, 5))
print(ctypes.CFUNCTYPE(ctypes.c_int)(page)() == os.getpid())
"""


@pytest.mark.usefixtures("seccomp")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="i386 is of x86_64")
def test_a_syscall_of_i386_is_the_end(directory: Path) -> None:
    if run_probe(directory, I386_GETPID, mode="free").stdout != "True\n":
        pytest.skip("this kernel has no i386 syscalls (CONFIG_IA32_EMULATION)")
    assert run_probe(directory, I386_GETPID).returncode == -signal.SIGSYS


ALLOWED = {
    "write": "(inside / 'new').write_text('new')",
    "overwrite": "(inside / 'file').write_text('new')",
    "delete": "(inside / 'file').unlink()",
    "move": "((inside / 'd').mkdir(), (inside / 'file').rename(inside / 'd' / 'file'))",
    "delete tree": "((inside / 'd' / 'e').mkdir(parents=True), shutil.rmtree(inside / 'd'))",
    "temporary file": "__import__('tempfile').TemporaryFile(dir=inside).close()",
    "null device": "(open('/dev/null', 'wb').write(b'x'), open('/dev/null').read())",
    "random device": "open('/dev/urandom', 'rb').read(8)",
    "own process": "(open('/proc/self/maps').read(), os.listdir('/proc/self/fd'), open('/proc/self/status').read())",
    "own affinity": "os.sched_setaffinity(0, os.sched_getaffinity(0))",
    "own limits": "resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))",
    "signal itself": "os.kill(os.getpid(), 0)",
    "signal a thread": "signal.pthread_kill(threading.get_ident(), 0)",
    "late import": "__import__('colorsys')",
    "late import of an extension": "__import__('_statistics')",
    "memory file": "os.close(os.memfd_create('x'))",
    "event loop": "__import__('asyncio').run(__import__('asyncio').to_thread(time.sleep, 0))",
    "code": "ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)()",
}


@pytest.mark.parametrize("expression", ALLOWED.values(), ids=ALLOWED.keys())
def test_still_works(directory: Path, expression: str) -> None:
    assert printed(directory, f"print(answer(lambda: {expression}))") == "done"


def test_many_threads_start(directory: Path) -> None:
    code = """
    barrier = threading.Barrier(101)
    threads = [threading.Thread(target=barrier.wait) for _ in range(100)]
    [thread.start() for thread in threads]
    barrier.wait(timeout=10)
    [thread.join() for thread in threads]
    print(len(threads))
    """
    assert printed(directory, code) == "100"


@pytest.mark.usefixtures("seccomp", "landlock")
def test_threads_are_confined(directory: Path) -> None:
    code = """
    def attempt():
        print(answer(lambda: os.listdir('/etc')), answer(lambda: socket.socket(socket.AF_INET)))
    thread = threading.Thread(target=attempt)
    thread.start(), thread.join()
    """
    assert printed(directory, code) == "EACCES EPERM"


@pytest.mark.usefixtures("seccomp")
def test_a_thread_that_was_there_is_filtered_and_reported(directory: Path) -> None:
    before = """
    go = threading.Event()
    thread = threading.Thread(target=lambda: (go.wait(), print(answer(lambda: socket.socket(socket.AF_INET)))))
    thread.start()
    """
    code = """
    go.set(), thread.join()
    print(state.capabilities_dropped, state.landlock_abi, state.seccomp, state.missing[0])
    """
    filtered, report = printed(directory, code, before=before).splitlines()
    assert filtered == "EPERM"
    assert report.startswith("False None True threads: 1 started earlier")


@pytest.mark.parametrize(
    ("code", "ending"), [("os.abort()", signal.SIGABRT), ("faulthandler._sigsegv()", signal.SIGSEGV)]
)
def test_fatal_signals_end_it_with_a_traceback(directory: Path, code: str, ending: signal.Signals) -> None:
    ended = run_probe(directory, code, before="import faulthandler; faulthandler.enable()")
    assert ended.returncode == -ending
    assert "most recent call first" in ended.stderr


def test_handlers_of_own_signals_run(directory: Path) -> None:
    code = "signal.signal(signal.SIGUSR1, lambda *_: print('handled')); signal.raise_signal(signal.SIGUSR1)"
    assert printed(directory, code) == "handled"


def test_evidence_agrees_with_the_report(directory: Path, confinement: Confinement) -> None:
    found = json.loads(printed(directory, "import json; print(json.dumps(evidence()))"))
    assert found["NoNewPrivs"] == str(int(confinement.no_new_privs))
    assert found["Seccomp"] == "2" or not confinement.seccomp
    assert found["landlock_abi"] == confinement.landlock_abi
    assert found["Uid"].split() == [str(os.getuid())] * 4


@pytest.mark.usefixtures("seccomp")
def test_evidence_of_a_free_process_claims_nothing(directory: Path) -> None:
    ended = run_probe(directory, "import json; print(json.dumps(evidence()))", mode="free")
    own = json.loads(ended.stdout)
    assert own["landlock_abi"] is None
    assert own["Seccomp"] == re.findall(r"^Seccomp:\s+(\d)", Path("/proc/self/status").read_text(), re.MULTILINE)[0]


def test_it_is_not_dumpable(directory: Path, confinement: Confinement) -> None:
    assert confinement.dumpable_off
    assert printed(directory, "print(libc.prctl(3, 0, 0, 0, 0))") == "0"  # linux/prctl.h: PR_GET_DUMPABLE


def capabilities(status: str) -> dict[str, int]:
    return {name: int(bits, 16) for name, bits in re.findall(r"^Cap(\w+):\s+([0-9a-f]+)$", status, re.MULTILINE)}


def test_no_capability_is_left(directory: Path, confinement: Confinement) -> None:
    assert confinement.capabilities_dropped
    left = capabilities(printed(directory, "print(open('/proc/self/status').read())"))
    if not capabilities(Path("/proc/self/status").read_text())["Eff"] & 1 << 8:  # linux/capability.h: CAP_SETPCAP
        del left["Bnd"]
    assert set(left.values()) == {0}


def test_nothing_is_missing_where_everything_is_in_force(confinement: Confinement) -> None:
    in_force = all(dataclasses.asdict(dataclasses.replace(confinement, missing=("",))).values())
    if in_force and not _landlock.gaps(confinement.landlock_abi or 0):
        assert confinement.missing == ()
    else:
        assert confinement.missing != ()


@pytest.mark.usefixtures("landlock")
def test_a_path_that_cannot_be_granted_is_reported(directory: Path) -> None:
    code = "again = confine(readable=[Path('/nowhere')], writable=[]); print(again.missing)"
    source = PRELUDE + code
    command = [sys.executable, "-c", source, str(REPOSITORY), str(directory), "free"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30)
    assert "landlock: /nowhere: No such file or directory" in ended.stdout


@pytest.mark.usefixtures("seccomp")
def test_a_refused_step_is_reported_and_not_raised(directory: Path) -> None:
    again = printed(directory, "print(confine(readable=[], writable=[]))")
    assert "seccomp=False" in again
    assert "seccomp: Operation not permitted" in again


def test_it_is_quick(directory: Path) -> None:
    code = "spent = time.perf_counter() - began; print(spent)"
    assert float(printed(directory, code, before="began = time.perf_counter()")) < 0.1  # 2 ms when nothing else runs


def test_it_dies_with_its_parent(directory: Path) -> None:
    child = PRELUDE + "die_with_parent(os.getppid())\n" + CONFINE + "print('ready', flush=True); time.sleep(60)"
    arguments = ["-c", child, str(REPOSITORY), str(directory), "confined"]
    parent = f"import subprocess, sys; subprocess.run([sys.executable, *{arguments!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as middle:
        assert middle.stdout is not None
        assert middle.stdout.readline() == "ready\n"
        middle.kill()
        # The pipe's other end is now only the child's: it reads as ended once the child is dead.
        ended = threading.Thread(target=middle.stdout.read)
        ended.start()
        ended.join(timeout=10)
        assert not ended.is_alive()


def test_it_exits_when_its_parent_is_gone_already(directory: Path) -> None:
    ended = run_probe(directory, "print('still here')", before="die_with_parent(os.getppid() + 1)")
    assert (ended.returncode, ended.stdout) == (1, "")


@pytest.fixture
def echo_server(directory: Path) -> Iterator[str]:
    echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    handler = grpc.method_handlers_generic_handler("echo", {"Echo": echo})
    server = grpc.server(ThreadPoolExecutor(max_workers=1), handlers=[handler])
    address = f"unix:{directory}/in/g"
    server.add_insecure_port(address)
    server.start()
    yield address
    server.stop(grace=None).wait()


GRPC_CLIENT = """
with grpc.insecure_channel({address!r}) as channel:
    print(channel.unary_unary("/echo/Echo")(b"echoed", timeout=10).decode())
"""

GRPC_AIO_CLIENT = """
async def call():
    async with grpc.aio.insecure_channel({address!r}) as channel:
        print((await channel.unary_unary("/echo/Echo")(b"echoed", timeout=10)).decode())
asyncio.run(call())
"""


@pytest.mark.parametrize("client", [GRPC_CLIENT, GRPC_AIO_CLIENT], ids=["sync", "aio"])
def test_grpc_works(directory: Path, echo_server: str, client: str) -> None:
    code = client.format(address=echo_server)
    assert printed(directory, code, before="import asyncio, grpc, grpc.aio") == "echoed"


# wasmtime's Python package has no class for the pooling allocator; its C interface is what a worker uses too.
WASMTIME = """
import wasmtime
from wasmtime import _ffi as ffi
config = wasmtime.Config()
config.epoch_interruption = True
pool = ffi.wasmtime_pooling_allocation_config_new()
ffi.wasmtime_pooling_allocation_config_total_memories_set(pool, 4)
ffi.wasmtime_pooling_allocation_config_linear_memory_keep_resident_set(pool, 1 << 20)
ffi.wasmtime_pooling_allocation_strategy_set(config.ptr(), pool)
engine = wasmtime.Engine(config)
module = wasmtime.Module(engine, '''(module
  (import "host" "double" (func $double (param i32) (result i32)))
  (memory 1)
  (func (export "run") (param i32) (result i32) local.get 0 call $double)
  (func (export "spin") (loop br 0)))''')

def instantiate():
    store = wasmtime.Store(engine)
    store.set_epoch_deadline(1)
    kind = wasmtime.FuncType([wasmtime.ValType.i32()], [wasmtime.ValType.i32()])
    host = wasmtime.Func(store, kind, lambda value: 2 * value)
    return store, wasmtime.Instance(store, module, [host]).exports(store)

for _ in range(8):
    store, exports = instantiate()
    print(exports["run"](store, 21), end=" ")
    store.close()
store, exports = instantiate()
threading.Timer(0.05, engine.increment_epoch).start()
try:
    exports["spin"](store)
except wasmtime.Trap as trap:
    print(trap.trap_code.name)
"""


def test_wasmtime_works(directory: Path) -> None:
    assert printed(directory, WASMTIME, before="import wasmtime") == "42 " * 8 + "INTERRUPT"


def verdict(machine: str, name: str, arguments: Sequence[int] = (), *, arch: int | None = None) -> int:
    """What the filter for process 7 answers, on any machine; interprets the five BPF instructions there are."""
    number = {**_seccomp.SYSCALLS[machine], "read": 63, "unheard of": 600, "x32": 0x40000000}[name]
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, _seccomp._AUDIT_ARCH[machine] if arch is None else arch, 0, *words)
    program = list(struct.iter_unpack("=HBBI", _seccomp.filter_program(machine, 7)))
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                accumulator &= operand
            case 0x15:
                at += if_true if accumulator == operand else if_false
            case 0x25:
                at += if_true if accumulator > operand else if_false
            case 0x06:
                return int(operand)
            case _:
                pytest.fail(f"instruction {code:#x}")
        at += 1


ALLOW, REFUSE, ABSENT, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
THREAD = 0x003D0F00  # what glibc's pthread_create passes to clone


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("read", (), ALLOW),
        ("execve", (), REFUSE),
        ("clone3", (), ABSENT),
        ("unheard of", (), ABSENT),
        ("x32", (), ABSENT),
        ("clone", (THREAD,), ALLOW),
        ("clone", (signal.SIGCHLD,), REFUSE),
        ("clone", (0x4000 | 0x100 | signal.SIGCHLD,), REFUSE),
        ("clone", (THREAD | 0x10000000,), REFUSE),
        ("socket", (socket.AF_UNIX,), ALLOW),
        ("socket", (socket.AF_UNIX | 1 << 32,), ALLOW),
        ("socket", (socket.AF_INET,), REFUSE),
        ("socket", (socket.AF_VSOCK,), REFUSE),
        ("socketpair", (socket.AF_INET,), REFUSE),
        ("kill", (7, 6), ALLOW),
        ("kill", (8, 6), REFUSE),
        ("kill", (0, 6), REFUSE),
        ("kill", (2**64 - 7, 6), REFUSE),
        ("tgkill", (7, 9, 6), ALLOW),
        ("tgkill", (8, 8, 6), REFUSE),
        ("mmap", (0, 4096, 3), ALLOW),
        ("mmap", (0, 4096, 5), ALLOW),
        ("mmap", (0, 4096, 7), REFUSE),
        ("mprotect", (0, 4096, 6), REFUSE),
        ("prctl", (15,), ALLOW),
        ("prctl", (4, 1), REFUSE),
        ("fcntl", (0, 4), ALLOW),
        ("fcntl", (0, 8), REFUSE),
        ("ioctl", (0, 0x5412), REFUSE),
        ("ioctl", (0, 0x5401), ALLOW),
        ("prlimit64", (0,), ALLOW),
        ("prlimit64", (8,), REFUSE),
    ],
)
def test_the_filter_answers(machine: str, name: str, arguments: tuple[int, ...], expected: int) -> None:
    assert verdict(machine, name, arguments) == expected


@pytest.mark.parametrize(
    ("machine", "arch"),
    [("x86_64", 0x40000003), ("x86_64", 0xC00000B7), ("aarch64", 0x40000028)],
    ids=["i386", "aarch64 on x86_64", "arm"],
)
def test_a_foreign_architecture_is_killed(machine: str, arch: int) -> None:
    assert verdict(machine, "read", arch=arch) == KILL


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "/usr/include/asm-generic/unistd.h")],
)
def test_syscall_numbers_are_those_of_the_kernel_headers(machine: str, header: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed (linux-libc-dev)")
    pairs = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text(), re.MULTILINE)
    numbers = {name: int(number) for name, number in reversed(pairs)}
    compared = {name: numbers[name] for name in _seccomp.SYSCALLS[machine] if name in numbers}
    assert compared.items() <= _seccomp.SYSCALLS[machine].items()
    assert len(compared) > 100


@pytest.mark.parametrize(("abi", "size"), [(1, 8), (3, 8), (4, 16), (5, 16), (6, 24), (9, 24)])
def test_a_ruleset_is_as_long_as_its_version(abi: int, size: int) -> None:
    assert len(_landlock.ruleset_attributes(abi)) == size


@pytest.mark.parametrize(
    ("abi", "last_bit"), [(1, 12), (2, 13), (3, 14), (4, 14), (5, 15), (7, 15), (8, 15), (9, 16), (20, 16)]
)
def test_a_version_handles_the_rights_it_has(abi: int, last_bit: int) -> None:
    assert _landlock.handled_access(abi) == (1 << last_bit + 1) - 1
