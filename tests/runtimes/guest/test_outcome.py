"""Every ending of a snippet becomes a value, and its output is out by then."""

import asyncio
import io
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, NoReturn

import pytest

from runtimes.guest.outcome import Completed, Ending, Exited, Raised, Request, TooLarge, run_snippet


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    kept = sys.modules["__main__"], sys.stdout, sys.stderr
    yield
    sys.modules["__main__"], sys.stdout, sys.stderr = kept
    sys.modules.pop("tools", None)


def run(code: str, value_bytes: int = 1000) -> Ending:
    return run_snippet(Request(code, value_bytes), object(), asyncio.run)


@pytest.mark.parametrize(
    "code", ["{'a': [1]}", "return {'a': [1]}", "import asyncio\nawait asyncio.sleep(0, {'a': [1]})"]
)
def test_completed(code: str) -> None:
    assert run(code) == Completed(b'{"a":[1]}', is_repr=False)


def test_completed_with_a_repr() -> None:
    assert run("{1}") == Completed(b'"{1}"', is_repr=True)
    assert run("class A:\n    def __repr__(self): raise SystemExit\nA()") == Completed(
        b'"<unrepresentable A>"', is_repr=True
    )


@pytest.mark.parametrize("code", ["1 / 0", "x = (", "return 1 / 0", "import asyncio\nawait asyncio.sleep(0)\n1 / 0"])
def test_raised(code: str) -> None:
    assert isinstance(run(code), Raised)


@pytest.mark.parametrize("escaping", ["KeyboardInterrupt", "GeneratorExit", "MemoryError", "BaseException"])
def test_exceptions_that_usually_end_a_process_are_raised(escaping: str) -> None:
    ending = run(f"raise {escaping}('x')")

    assert isinstance(ending, Raised)
    assert ending.fault.type == escaping


def test_cancelling_itself_is_raised() -> None:
    ending = run("import asyncio\nasyncio.current_task().cancel()\nawait asyncio.sleep(1)")

    assert isinstance(ending, Raised)
    assert ending.fault.type == "CancelledError"
    assert (ending.fault.line, ending.fault.column) == (3, 1)


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("raise SystemExit", 0),
        ("sys.exit()", 0),
        ("sys.exit(None)", 0),
        ("sys.exit(3)", 3),
        ("sys.exit(-1)", -1),
        ("sys.exit(True)", 1),
        ("sys.exit(2**40)", 2**31 - 1),
        ("sys.exit(-2**40)", -(2**31)),
        ("sys.exit((1,))", 1),
        ("class E(SystemExit):\n    code = property(lambda self: 1 / 0)\nraise E", 1),
        ("class N(int):\n    __lt__ = __gt__ = __int__ = None\nsys.exit(N(4))", 4),
    ],
)
def test_exited(statement: str, code: int) -> None:
    assert run(f"import sys\n{statement}") == Exited(code)
    assert run(f"import sys, asyncio\nawait asyncio.sleep(0)\n{statement}") == Exited(code)


def test_exiting_with_words_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import sys\nsys.exit('good bye')") == Exited(1)
    assert capsys.readouterr() == ("", "good bye\n")


def test_too_large() -> None:
    assert run("'x' * 2000", value_bytes=1000) == TooLarge(2002)
    assert run("'x' * 998", value_bytes=1000) == Completed(b'"' + b"x" * 998 + b'"', is_repr=False)


class Buffered(io.StringIO):
    flushed = False

    def flush(self) -> None:
        self.flushed = True
        super().flush()


@pytest.mark.parametrize(
    "end", ["1", "1 / 0", "raise SystemExit", "x = (", "sys.stdout = io.StringIO()", "del sys.stdout"]
)
def test_output_is_flushed_at_every_ending(end: str) -> None:
    sys.stdout, sys.stderr = streams = Buffered(), Buffered()

    run(f"import io, sys\nprint('out')\nprint('err', file=sys.stderr)\n{end}")

    assert all(stream.flushed for stream in streams)


@pytest.mark.parametrize(
    "statement",
    [
        "sys.stdout = sys.stderr = None",
        "sys.stdout.close(); sys.stderr.close()",
        "del sys.stdout, sys.stderr",
        "sys.stdout = sys.stderr = object()",
        "class S:\n    def flush(self): raise KeyboardInterrupt\nsys.stdout = sys.stderr = S()",
    ],
)
@pytest.mark.parametrize(("end", "ending"), [("7", Completed(b"7", is_repr=False)), ("sys.exit('words')", Exited(1))])
def test_broken_streams_do_not_matter(statement: str, end: str, ending: Ending) -> None:
    sys.stdout, sys.stderr = Buffered(), Buffered()

    assert run(f"import sys\n{statement}\n{end}") == ending


def test_the_loop_is_asked_for_only_by_code_that_awaits() -> None:
    def no_loop(coroutine: Coroutine[Any, Any, Any]) -> NoReturn:
        raise AssertionError(coroutine)

    code = "import asyncio\nasync def main():\n    return 5\nasyncio.run(main())"

    assert run_snippet(Request(code, 10), object(), no_loop) == Completed(b"5", is_repr=False)


def test_what_runs_sees_tools_and_nothing_of_ours() -> None:
    names = run("sorted(globals())")

    assert names == Completed(
        b'["__builtins__","__doc__","__loader__","__name__","__package__","__spec__","tools"]', is_repr=False
    )
