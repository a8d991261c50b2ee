"""Guests that attack: whatever they try, the caller gets an honest result and the next caller is not disturbed."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox import Outcome
from tests.contract.conftest import Run

ENDED = {Outcome.COMPLETED, Outcome.RAISED, Outcome.EXITED, Outcome.KILLED, Outcome.LIMIT_EXCEEDED, Outcome.TIMED_OUT}


_last: dict[str, tuple[str, bool, Run]] = {}
"""By backend, the last test, whether its guests shared a place, and how they were run."""


@pytest.fixture(autouse=True)
def _the_next_guest_is_well(*, run: Run, backend: str, shares: bool, request: pytest.FixtureRequest) -> None:
    """Before and, through the next test, after every kind of attack a plain snippet works where it was made."""
    this = request.node.originalname
    test, shared, run_there = _last.get(backend, ("", shares, run))
    if test != this or shared != shares:
        assert_next_guest_is_well(run_there)
    if shared != shares:
        assert_next_guest_is_well(run)
    _last[backend] = (this, shares, run)


def assert_next_guest_is_well(run: Run) -> None:
    result = run("print('fine')\ntools.demo.add(a=1)")
    assert (result.outcome, result.value, result.stdout) == (Outcome.COMPLETED, 11, "fine\n")


# In terms of MACHINERY, below: what a guest finds of the machinery that it runs in, whichever that is.
FORGE = {
    "an unknown operation": "call('nonsense', '{')",
    "broken arguments": "call('run_tool', '{')",
    "deeply nested arguments": "call('run_tool', '[' * 100_000)",
    "arguments of a strange kind": "call('run_tool', '[1]')",
    "huge arguments": "call('run_tool', 'x' * 8_000_000)",
    "a huge operation": "call('x' * 8_000_000, '{}')",
    "unknown fields": 'call(\'run_tool\', \'{"tool_id": "demo:add", "admin": true}\')',
    "many at once": "for _ in range(3000): start('run_tool', '{\"tool_id\": \"demo:no\"}')\nimport time; time.sleep(3)",
    "an artifact outside": "artifact('../../evil', b'x')",
    "an absolute artifact": "artifact('/etc/evil', b'x')",
    "a huge artifact": "artifact('big', bytes(8_000_000))",
    "endless artifacts": "for n in range(200): artifact(f'{n}', b'x' * 100_000)",
    "huge output": "emit(1, 'x' * 20_000_000)",
    "output to nowhere": "emit(77, 'x')",
}

MACHINERY = """
import sys
try:
    import wit_world
    def call(operation, arguments): return wit_world.call(operation, arguments, 'root#0')
    def start(operation, arguments): return wit_world.send(operation, arguments, 'root#0')
    emit = wit_world.emit
    def artifact(path, data): wit_world.artifact(path, data.decode('latin-1'))
except ImportError:
    from gateway.v1 import gateway_pb2 as pb
    stream, frame = None, sys._getframe()
    while stream is None:
        frame = frame.f_back
        stream = next((item for item in frame.f_locals.values() if type(item).__name__ == 'Stream'), None)
    def call(operation, arguments):
        reply = stream.ask(operation, arguments)
        return str(reply.exception(5) or reply.result())
    start = stream.ask
    def emit(descriptor, text): stream.send(output=pb.Output(stream=descriptor, data=text.encode()))
    def artifact(path, data): stream.send(artifact=pb.Artifact(path=path, data=data))
"""


ADD = """call('run_tool', '{"tool_id": "demo:add", "arguments": {"a": 1}}')"""


@pytest.mark.one_container
@pytest.mark.parametrize("attack", FORGE.values(), ids=FORGE)
def test_forged_frames_harm_only_their_sender(run: Run, attack: str) -> None:
    result = run(f"{MACHINERY}print('attacking')\n{attack}\nimport time; time.sleep(0.2)", limits={"wall_seconds": 6})
    assert result.outcome in ENDED
    assert result.stdout.startswith("attacking\n") or not result.stdout
    assert not [artifact for artifact in result.artifacts if artifact.path.startswith(("/", ".."))]
    assert "ImportError" not in str(result.error), result.error
    assert not (result.error and result.error.type in {"NameError", "AttributeError", "TypeError"}), result.error


@pytest.mark.one_container
def test_a_forged_call_is_within_the_grant(run: Run) -> None:
    code = MACHINERY + ADD
    result = run(code, allowed_tools=["demo:echo"])
    assert "tool_denied" in str(result.value)
    assert [call.status for call in result.tool_calls] == ["refused"]


@pytest.mark.one_container
def test_a_forged_call_counts_and_is_recorded(run: Run) -> None:
    code = f"{MACHINERY}for _ in range(3): last = {ADD}\nlast"
    result = run(code, limits={"tool_calls": 2})
    assert "budget_exceeded" in str(result.value)
    assert [call.status for call in result.tool_calls] == ["completed", "completed", "refused"]


def test_a_second_attachment_with_a_guessed_token_is_refused(run: Run) -> None:
    result = run(
        "import sys, glob\ntry:\n    import grpc\nexcept ImportError:\n    sys.exit('no network machinery here')\n"
        "from gateway.v1 import gateway_pb2 as pb, gateway_pb2_grpc\nfrom runtimes.guest.agent import Stream\n"
        "import os\nplaces = (os.environ['HOME'] + '/../../../*.sock', '/run/toolexec/gateway.sock')\n"
        "socket, = (path for place in places for path in glob.glob(place))\n"
        "stub = gateway_pb2_grpc.GatewayServiceStub(grpc.insecure_channel('unix:' + socket))\n"
        "try:\n    next(stub.Attach(iter([pb.GuestFrame(hello=pb.Hello(token='guess'))])))\n"
        "except grpc.RpcError as error:\n    sys.exit(str(error.code()))",
    )
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 1)
    assert result.stderr in {"no network machinery here\n", "StatusCode.UNAUTHENTICATED\n"}


@pytest.mark.one_container
def test_calls_that_are_always_refused_end_the_guest(run: Run) -> None:
    result = run(
        "for _ in range(2000):\n    try:\n        tools.demo.add(a=1)\n    except tools.ToolError: pass\n"
        "print('got through')",
        allowed_tools=["demo:echo"],
    )
    assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "tool_calls")
    assert "got through" not in result.stdout
    assert len(result.tool_calls) == 1000


LIES = {
    "garbage": "lambda ending: ({'kind': 'nonsense'}, b'{')",
    "no mapping": "lambda ending: 5",
    "a value that is not JSON": "lambda ending: ({'kind': 'completed', 'value_is_repr': False}, b'{broken')",
    "a value with NaN": "lambda ending: ({'kind': 'completed', 'value_is_repr': False}, b'NaN')",
    "a deep value": "lambda ending: ({'kind': 'completed', 'value_is_repr': False}, b'[' * 200_000 + b']' * 200_000)",
    "a huge value": "lambda ending: ({'kind': 'completed', 'value_is_repr': False}, b'\"' + b'x' * 8_000_000 + b'\"')",
    "a huge integer": "lambda ending: ({'kind': 'completed', 'value_is_repr': False}, b'9' * 100_000)",
    "an odd error": "lambda ending: ({'kind': 'raised', 'error': {'type': 5, 'message': [], 'line': -1}}, b'')",
    "unknown fields": "lambda ending: ({'kind': 'exited', 'exit_code': 2 ** 70, 'more': 1}, b'')",
    "nothing": "lambda ending: (_ for _ in ()).throw(SystemExit(0))",
}


@pytest.mark.one_container
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_forged_ending_is_not_taken_for_a_good_one(run: Run, lie: str) -> None:
    code = f"from runtimes.guest.ending import finished\nlie = {lie}\nfinished.__code__ = lie.__code__\n5"
    result = run(code, limits={"wall_seconds": 3})
    assert result.outcome in {Outcome.KILLED, Outcome.EXITED, Outcome.TIMED_OUT}
    assert result.value is None


@pytest.mark.one_container
def test_a_lie_within_the_rules_fools_only_its_own_caller(run: Run) -> None:
    code = (
        "from runtimes.guest.ending import finished\n"
        "lie = lambda ending: ({'kind': 'completed', 'value_is_repr': False}, b'42')\n"
        "finished.__code__ = lie.__code__\n1 / 0"
    )
    result = run(code)
    assert (result.outcome, result.value) == (Outcome.COMPLETED, 42)


VANDALISM = {
    "replace stdout": "import sys\nprint('x')\nsys.stdout = None",
    "lying stdout": (
        "import sys\nprint('x')\nclass Out:\n    def __getattr__(self, name): raise RuntimeError(name)\n"
        "sys.stdout = sys.stderr = Out()"
    ),
    "no builtins": (
        "print('x')\nimport builtins\n"
        "for name in ('print', 'len', 'isinstance', 'type', 'str', 'repr', 'getattr'): delattr(builtins, name)"
    ),
    "no modules": "print('x')\nimport sys\nsys.modules.clear()",
    "hooks": "print('x')\nimport sys\nsys.settrace(lambda *a: 1 / 0)\nsys.excepthook = sys.unraisablehook = None",
    "codecs": "print('x')\nimport codecs, json\njson.dumps = json.loads = None",
    "recursion limit": "print('x')\nimport sys\nsys.setrecursionlimit(sys.getrecursionlimit() // 4)",
    "int digits": "print('x')\nimport sys\nsys.set_int_max_str_digits(640)",
    "exit handlers": "print('x')\nimport atexit\natexit.register(lambda: 1 / 0)",
    "collector": "print('x')\nimport gc\ngc.disable()\ngc.set_threshold(1)",
}

VANDALISM_AROUND = {
    "close stdout": "import sys\nprint('x')\nsys.stdout.close()\nsys.stderr.close()",
    "close descriptors": "import os\nprint('x')\nfor n in (0, 1, 2):\n    try: os.close(n)\n    except OSError: pass",
    "folder gone": "print('x')\nimport os, shutil\nshutil.rmtree(os.getcwd(), ignore_errors=True)",
    "odd files": "print('x')\nimport os\nos.mkdir('d')\nos.symlink('d', 'd/loop')\nopen('a' * 200, 'w').close()",
}
"""What reaches beyond the interpreter, to the streams and files of its place."""


@pytest.mark.one_container
@pytest.mark.parametrize(
    "act",
    [
        *(pytest.param(act, id=name) for name, act in VANDALISM.items()),
        *(pytest.param(act, id=name, marks=pytest.mark.own_container) for name, act in VANDALISM_AROUND.items()),
    ],
)
def test_a_guest_that_breaks_its_own_interpreter(run: Run, act: str) -> None:
    result = run(f"{act}\n5", limits={"wall_seconds": 4})
    assert result.outcome in ENDED
    assert result.stdout == "x\n"
    assert result.value in {5, None}


@pytest.mark.one_container
@pytest.mark.parametrize(
    "act",
    [
        "sys.stdout.close()", "sys.stdout = None", "sys.setrecursionlimit(100)", "sys.set_int_max_str_digits(640)",
        "__import__('atexit').register(lambda: 1 / 0)", "sys.excepthook = None", "__import__('gc').disable()",
    ],
)  # fmt: skip
def test_changes_that_are_the_snippets_own_business_cost_it_nothing(run: Run, act: str) -> None:
    result = run(f"import sys\n{act}\n[5, 10 ** 700]")
    assert (result.outcome, result.value) == (Outcome.COMPLETED, [5, 10**700])


RUNNING_ON = {
    "threads": "import threading, time\nfor _ in range(5): threading.Thread(target=time.sleep, args=(60,)).start()",
    "daemon threads": (
        "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()"
    ),
    "a child": "import subprocess\nsubprocess.Popen(['sleep', '61.7'])",
    "a daemon": (
        "import os\nif os.fork() == 0:\n    os.setsid()\n"
        "    if os.fork() == 0: os.execvp('sleep', ['sleep', '61.7'])\n    os._exit(0)"
    ),
    "a shell's job": "import os\nif os.system('nohup setsid sleep 61.7 >/dev/null 2>&1 &'): raise OSError('no shell')",
    "a small fork bomb": "import os\nfor _ in range(5): os.fork()\nimport time; time.sleep(61.7)",
    "an exec": "import os\nos.execvp('sleep', ['sleep', '61.7'])",
}


@pytest.mark.parametrize("act", RUNNING_ON.values(), ids=RUNNING_ON)
def test_nothing_runs_on_after_the_end(run: Run, act: str) -> None:
    result = run(f"print('begun')\n{act}\n'ended'", limits={"wall_seconds": 2})
    assert result.stdout.startswith("begun\n")
    if result.outcome is Outcome.RAISED:  # where there are no threads and no processes, the guest is told so
        assert result.error is not None
        assert result.error.type in {"RuntimeError", "OSError", "AttributeError", "NameError", "FileNotFoundError"}
    else:
        assert result.outcome in {Outcome.COMPLETED, Outcome.TIMED_OUT, Outcome.KILLED, Outcome.LIMIT_EXCEEDED}
    assert result.duration_seconds < 10
    assert _running("sleep\x0061.7") == []


def _running(command: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(command.encode()):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_a_neighbour_is_not_disturbed(run: Run) -> None:
    with ThreadPoolExecutor(4) as threads:
        calm = threads.submit(run, "import time\nfor n in range(20): time.sleep(0.1)\ntools.demo.add(a=1)")
        attacks = ["while True: pass", "x = []\nwhile True: x.append(bytearray(1 << 20))", "import os\nos.abort()"]
        list(threads.map(lambda code: run(code, limits={"wall_seconds": 1}), attacks))
        assert (calm.result().outcome, calm.result().value) == (Outcome.COMPLETED, 11)
    assert_next_guest_is_well(run)
