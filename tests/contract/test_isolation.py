"""What a snippet finds around it: its own folder, its own environment, and nothing of anybody else's."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtimes.base import Capabilities
from sandbox import Artifact, InvalidRequest, Outcome, PolicyDenied
from tests.contract.conftest import Run


def test_the_environment_holds_only_the_documented_names(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "leaked")
    assert run("import os\nsorted(os.environ)").value == ["HOME", "PATH", "TMPDIR"]


def test_the_environment_asked_for_is_there(run: Run) -> None:
    env = {"REGION": "eu", "EMPTY": "", "ÜMLAUT": "ä😀", "HOME": "/elsewhere"}
    result = run("import os\n[os.environ[name] for name in ('REGION', 'EMPTY', 'ÜMLAUT', 'HOME')]", env=env)
    assert result.value == ["eu", "", "ä😀", "/elsewhere"]
    assert run("import os\nos.environ.get('REGION')").value is None


@pytest.mark.parametrize("env", [{"A=B": "x"}, {"": "x"}, {"A": "x\0y"}, {"A": 5}])
def test_an_environment_that_cannot_be_is_refused(run: Run, env: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="env"):
        run("1", env=env)


def test_the_working_folder_is_private_empty_and_writable(run: Run) -> None:
    result = run(
        "import os, pathlib\nhome = os.environ['HOME']\nbefore = os.listdir('.')\n"
        "pathlib.Path('sub').mkdir()\npathlib.Path('sub/a.txt').write_text('ä')\n"
        "[before, os.path.samefile(home, os.getcwd()), pathlib.Path('sub/a.txt').read_text()]"
    )
    assert (result.outcome, result.value) == (Outcome.COMPLETED, [[], True, "ä"])


def test_temporary_files_work(run: Run) -> None:
    result = run(
        "import os, tempfile\n"
        "with tempfile.NamedTemporaryFile('w+') as file, tempfile.TemporaryDirectory() as folder:\n"
        "    file.write('x')\n    file.seek(0)\n"
        "    __out = file.read() == 'x' and os.path.dirname(folder) == os.environ['TMPDIR']"
    )
    assert (result.outcome, result.value, result.artifacts) == (Outcome.COMPLETED, True, ())


@pytest.mark.one_container
def test_files_go_in_and_changed_ones_come_out(run: Run) -> None:
    result = run(
        "import pathlib\ntext = pathlib.Path('in/data.csv').read_text()\n"
        "pathlib.Path('out/deep').mkdir(parents=True)\n"
        "pathlib.Path('out/deep/copy.csv').write_text(text.upper())\n"
        "pathlib.Path('raw.bin').write_bytes(bytes(range(256)))\n"
        "pathlib.Path('empty').touch()\npathlib.Path('changed.txt').write_text('after')\ntext",
        files={"in/data.csv": "a,ä\n", "changed.txt": "before", "untouched.bin": b"\x00\xff"},
    )
    assert result.value == "a,ä\n"
    assert result.artifacts == (
        Artifact("changed.txt", b"after"),
        Artifact("empty", b""),
        Artifact("out/deep/copy.csv", "A,Ä\n".encode()),
        Artifact("raw.bin", bytes(range(256))),
    )


def test_large_and_many_files_make_the_journey(run: Run) -> None:
    data = bytes(range(256)) * 20_000
    result = run(
        "import pathlib\nfor n in range(50):\n    pathlib.Path(f'{n:02}.txt').write_text(str(n))\n"
        "pathlib.Path('big.out').write_bytes(pathlib.Path('big.in').read_bytes()[::-1])",
        files={"big.in": data},
    )
    found = {artifact.path: artifact.data for artifact in result.artifacts}
    assert found.pop("big.out") == data[::-1]
    assert found == {f"{n:02}.txt": str(n).encode() for n in range(50)}


@pytest.mark.one_container
@pytest.mark.parametrize("ending", ["1 / 0", "import sys; sys.exit(3)", "return 'x' * 10_000_000"])
def test_artifacts_survive_the_endings_that_the_guest_sees(run: Run, ending: str) -> None:
    result = run(f"open('kept.txt', 'w').write('kept')\n{ending}")
    assert result.artifacts == (Artifact("kept.txt", b"kept"),)


def test_links_are_not_followed_out(run: Run) -> None:
    result = run(
        "import os\nfor target, name in (('/etc/passwd', 'a'), ('/', 'b'), ('real.txt', 'c')):\n"
        "    try:\n        os.symlink(target, name)\n    except OSError: pass\n"
        "open('real.txt', 'w').write('real')"
    )
    assert result.artifacts == (Artifact("real.txt", b"real"),)


@pytest.mark.parametrize("path", ["../up.txt", "/etc/motd", "a/../../b", "", "a//b", "./a", "a\0b"])
def test_file_paths_that_leave_the_folder_are_refused(run: Run, path: str) -> None:
    with pytest.raises(InvalidRequest, match="file path"):
        run("1", files={path: "x"})


LEFTOVERS = """
import builtins, os, sys, json, random
seen = [os.path.exists('left.txt'), os.path.exists(os.environ['TMPDIR'] + '/left.txt'), 'LEFT' in os.environ,
        'left' in globals(), hasattr(json, 'left'), 'left' in sys.modules, hasattr(builtins, 'left')]
for path in ('left.txt', os.environ['TMPDIR'] + '/left.txt'):
    with open(path, 'w') as file:
        file.write('left')
os.environ['LEFT'] = left = json.left = 'left'
sys.modules['left'] = sys
builtins.left = 'left'
seen
"""


def test_nothing_persists_between_executions(run: Run) -> None:
    for _ in range(4):
        assert run(LEFTOVERS).value == [False] * 7


def test_randomness_differs_between_executions(run: Run) -> None:
    code = (
        "import os, random, secrets, tempfile, uuid\n"
        "[random.random(), uuid.uuid4().hex, secrets.token_hex(), os.urandom(8).hex(), random.Random().random(),"
        " random.SystemRandom().random(), next(tempfile._get_candidate_names())]"
    )
    runs = [run(code).value for _ in range(4)]
    for seen in zip(*runs, strict=True):
        assert len(set(seen)) == len(runs), seen


@pytest.mark.one_container
def test_a_seeded_generator_repeats(run: Run) -> None:
    code = "import random\nrandom.seed(7)\n[random.random(), random.randrange(1000)]"
    first, second = run(code), run(code)
    assert [type(part) for part in first.value] == [float, int]
    assert first.value == second.value


@pytest.mark.one_container
def test_the_snippet_is_the_main_module(run: Run) -> None:
    result = run(
        "import dataclasses, pickle, sys, typing\n"
        "@dataclasses.dataclass(order=True)\nclass Point:\n    x: int\n    y: 'int' = 2\n"
        "copy = pickle.loads(pickle.dumps(Point(1)))\n"
        "[__name__, copy == Point(1), sys.modules['__main__'].Point is Point, typing.get_type_hints(Point)['y'] is int,"
        " repr(copy), Point.__module__, sys.argv]"
    )
    assert result.value == ["__main__", True, True, True, "Point(x=1, y=2)", "__main__", [""]]


@pytest.mark.one_container
def test_the_main_guard_runs(run: Run) -> None:
    assert run("def main(): return 5\nif __name__ == '__main__':\n    __out = main()").value == 5


@pytest.mark.one_container
@pytest.mark.parametrize("code", ["input()", "input('name? ')"])
def test_there_is_no_input(run: Run, code: str) -> None:
    result = run(code)
    assert result.outcome is Outcome.RAISED
    assert result.error is not None
    assert result.error.type == "EOFError"


def test_standard_input_is_empty(run: Run) -> None:
    code = "import os, sys\n[sys.stdin.read(), sys.stdin.readline(), list(sys.stdin), len(os.read(0, 10))]"
    assert run(code).value == ["", "", [], 0]


def test_executions_at_the_same_time_do_not_mix(run: Run) -> None:
    code = (
        "import time\nfor n in range(20):\n    print({0}, end=' ')\n    time.sleep(0.005)\n"
        "open('own', 'w').write('{0}')\ntools.demo.echo(value={0})"
    )
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(run, [code.format(n) for n in range(8)]))
    for n, result in enumerate(results):
        assert (result.value, result.stdout) == (n, f"{n} " * 20)
        assert [call.arguments for call in result.tool_calls] == [{"value": n}]
        assert result.artifacts == (Artifact("own", str(n).encode()),)
    assert len({result.execution_id for result in results}) == 8


REACH_OUT = {
    "host files": "open('/etc/passwd').read()",
    "host folders": "import os\nos.listdir('/root')",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', 22), timeout=0.5)",
    "names": "import socket\nsocket.getaddrinfo('example.com', 80)",
    "downloads": "import urllib.request\nurllib.request.urlopen('http://example.com', timeout=0.5)",
    "processes": "import subprocess\nsubprocess.run(['id'], check=True)",
    "other processes": "open('/proc/1/environ').read()",
    "libraries": "import ctypes\nctypes.CDLL(None).getpid()",
    "folders above": "import os\nos.chdir('/')\nopen('../../../../../etc/passwd').read()",
    "links": "import os\nos.symlink('../../../../etc', 'up')\nopen('up/passwd').read()",
    "devices": "open('/dev/mem', 'rb').read(1)",
}


@pytest.mark.parametrize("code", REACH_OUT.values(), ids=REACH_OUT)
def test_profile_standard_isolates_or_refuses(
    run: Run, capabilities: Mapping[str, Capabilities], backend: str, code: str
) -> None:
    if capabilities[backend].boundaries == 0:
        with pytest.raises(PolicyDenied, match="wants 1 boundaries"):
            run(code, profile="standard")
        return
    result = run(code, profile="standard")
    assert result.outcome is Outcome.RAISED
    assert result.error is not None
    assert result.error.type in {
        "FileNotFoundError",
        "PermissionError",
        "OSError",
        "ConnectionRefusedError",
        "gaierror",
        "URLError",
        "ModuleNotFoundError",
    }
