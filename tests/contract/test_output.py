"""stdout and stderr: streamed as written, bounded, and kept whatever happens next."""

import pytest

from sandbox import Outcome
from tests.contract.conftest import Run

MIB = 1 << 20


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("print('a', 'b', sep='-')", "a-b\n"),
        ("print('no newline', end='')", "no newline"),
        ("print()", "\n"),
        ("print('ä😀\\u2028')", "ä😀\u2028\n"),
        ("print('a\\0b')", "a\0b\n"),
        ("print('a\\r\\nb\\rc')", "a\r\nb\rc\n"),
        ("print('\\ud800')", "\\ud800\n"),
        ("import sys\nsys.stdout.write('x' * 3)", "xxx"),
        ("import sys\nsys.stdout.writelines(['a', 'b'])", "ab"),
        ("import sys\nsys.stdout.buffer.write('ü'.encode())", "ü"),
        ("import sys\nsys.stdout.buffer.write(b'a\\xff\\xfeb')", "a\ufffd\ufffdb"),
        ("import os\nos.write(1, b'raw')", "raw"),
        ("import os\nprint('1')\nos.write(1, b'2\\n')\nprint('3')", "1\n2\n3\n"),
        ("import sys\nprint('1')\nsys.stdout.buffer.write(b'2\\n')\nprint('3')", "1\n2\n3\n"),
        ("import sys\nprint('a', flush=True)\nsys.stdout.flush()", "a\n"),
        (
            "import contextlib as c, io\nwith c.redirect_stdout(io.StringIO()) as out: print(1)\nprint(out.getvalue())",
            "1\n\n",
        ),
        ("for n in range(3): print(n)", "0\n1\n2\n"),
        ("import pprint\npprint.pprint({'a': 1})", "{'a': 1}\n"),
        ("import sys\nprint(sys.stdout.encoding, sys.stdout.isatty(), sys.stdout.fileno())", "utf-8 False 1\n"),
    ],
)
def test_what_is_written_arrives(run: Run, code: str, stdout: str) -> None:
    result = run(code)
    assert (result.outcome, result.stdout, result.stderr) == (Outcome.COMPLETED, stdout, "")
    assert result.truncated == frozenset()


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nprint('oops', file=sys.stderr)",
        "import sys\nsys.stderr.write('oops\\n')",
        "import os\nos.write(2, b'oops\\n')",
        "import logging\nlogging.warning('oops')",
        "import warnings\nwarnings.warn('oops')",
    ],
)
def test_stderr_is_kept_apart(run: Run, code: str) -> None:
    result = run(f"print('fine')\n{code}")
    assert result.stdout == "fine\n"
    assert "oops" in result.stderr


def test_an_expression_is_a_value_and_no_output(run: Run) -> None:
    result = run("'quiet'")
    assert (result.value, result.stdout) == ("quiet", "")


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        ("while True: pass", Outcome.TIMED_OUT),
        ("import time; time.sleep(60)", Outcome.TIMED_OUT),
        ("import asyncio; asyncio.run(asyncio.sleep(60))", Outcome.TIMED_OUT),
        ("tools.demo.wait()", Outcome.TIMED_OUT),
        ("import os; os._exit(7)", Outcome.EXITED),
        ("import sys; sys.exit(0)", Outcome.EXITED),
        ("raise SystemExit", Outcome.EXITED),
        ("import os; os.abort()", Outcome.KILLED),
        ("1 / 0", Outcome.RAISED),
        ("raise KeyboardInterrupt", Outcome.RAISED),
        ("[bytearray(1 << 24) for _ in range(1 << 20)]", Outcome.LIMIT_EXCEEDED),
        ("return 'x' * 10_000_000", Outcome.LIMIT_EXCEEDED),
        ("return 5", Outcome.COMPLETED),
    ],
)
def test_output_survives_every_ending(run: Run, ending: str, outcome: Outcome) -> None:
    code = f"import sys, os\nprint('first')\nprint('broken', file=sys.stderr)\nprint('half', end='')\n{ending}"
    result = run(code, limits={"wall_seconds": 1 if outcome is Outcome.TIMED_OUT else 20})
    assert result.outcome is outcome
    assert result.stdout == "first\nhalf"
    assert result.stderr.startswith("broken\n")


def test_order_within_a_stream_is_kept(run: Run) -> None:
    result = run(
        "import os, sys\nfor n in range(500):\n"
        "    (print(n) if n % 3 else os.write(1, b'%d\\n' % n)) if n % 2 else sys.stdout.buffer.write(b'%d\\n' % n)\n"
    )
    assert result.stdout == "".join(f"{n}\n" for n in range(500))


def test_text_around_a_chunk_border_is_whole(run: Run) -> None:
    result = run("for _ in range(40_000): print('äöü', end='')")
    assert result.stdout == "äöü" * 40_000


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_over_the_limit_is_cut_and_said_so(run: Run, stream: str) -> None:
    result = run(f"import sys\nfor _ in range(5 * 1024): print('x' * 1023, file=sys.{stream})\n'done'")
    assert (result.outcome, result.value, set(result.truncated)) == (Outcome.COMPLETED, "done", {stream})
    assert getattr(result, stream) == ("x" * 1023 + "\n") * 1024


@pytest.mark.parametrize("size", [5_000_000, 12_000_000])
def test_one_large_write_is_cut_too(run: Run, size: int) -> None:
    result = run(f"print('x' * {size})\n'done'")
    assert (result.outcome, result.value, set(result.truncated)) == (Outcome.COMPLETED, "done", {"stdout"})
    assert result.stdout == "x" * MIB


def test_a_limit_of_a_few_bytes(run: Run) -> None:
    result = run("import sys\nprint('0123456789abc')\nprint('ok', file=sys.stderr)", limits={"output_bytes": 10})
    assert (result.outcome, result.stdout, result.stderr) == (Outcome.COMPLETED, "0123456789", "ok\n")
    assert result.truncated == {"stdout"}


def test_output_that_just_fits_is_not_truncated(run: Run) -> None:
    result = run("print('0123456789', end='')", limits={"output_bytes": 10})
    assert (result.stdout, result.truncated) == ("0123456789", frozenset())


@pytest.mark.parametrize(
    "flood",
    [
        "while True: print('x' * 65536)",
        "import os\nwhile True: os.write(2, b'x' * 65536)",
        "while True: print('x' * 200)",
        "while True:\n    try:\n        print('x' * 1_000_000)\n    except BaseException: pass",
    ],
)
def test_a_flood_is_stopped(run: Run, flood: str) -> None:
    result = run(flood, limits={"wall_seconds": 30, "output_bytes": 100_000})
    assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "output_bytes")
    assert len(result.stdout) + len(result.stderr) <= 200_000


def test_output_is_streamed_while_the_snippet_runs(run: Run) -> None:
    result = run(
        "import time\nfor n in range(3):\n    print(n)\n    time.sleep(0.1)\ntime.sleep(60)",
        limits={"wall_seconds": 0.8},
    )
    assert (result.outcome, result.stdout) == (Outcome.TIMED_OUT, "0\n1\n2\n")
