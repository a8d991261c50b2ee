"""What a snippet's exception looks like to the caller: type, message, place, and a traceback of guest code only."""

import pytest

from sandbox import GuestError, Outcome
from tests.contract.conftest import Run

pytestmark = pytest.mark.one_container

DIVISION = ("ZeroDivisionError", "division by zero")
OURS = ("/runtimes/", "gateway/", "grpc", "site-packages", "wit_world", "asyncio/runners")


def raised(run: Run, code: str) -> GuestError:
    result = run(code)
    assert result.outcome is Outcome.RAISED, result.summary()
    assert result.error is not None
    assert not [part for part in OURS if part in result.error.traceback], result.error.traceback
    return result.error


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1 / 0", (*DIVISION, 1, 1)),
        ("x = 1\n\ny = x.upper()", ("AttributeError", "'int' object has no attribute 'upper'", 3, 5)),
        ("    x = 1\n    raise ValueError('indented')", ("ValueError", "indented", 2, 5)),
        ("def f(n):\n    def g():\n        return n / 0\n    return g()\nf(1)", (*DIVISION, 3, 16)),
        ("é = 'ü'; raise ValueError(é)", ("ValueError", "ü", 1, 10)),
        ("class Own(Exception): pass\nraise Own('a', 2)", ("Own", "('a', 2)", 2, 1)),
        ("raise ValueError", ("ValueError", "", 1, 1)),
        ("import json\njson.loads('{')", ("JSONDecodeError", None, 2, 1)),
        ("undefined", ("NameError", "name 'undefined' is not defined", 1, 1)),
        ("import nothing_here", ("ModuleNotFoundError", "No module named 'nothing_here'", 1, 1)),
        ("{}['missing']", ("KeyError", "'missing'", 1, 1)),
        ("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    1 / 0\nawait f()", (*DIVISION, 4, 5)),
        ("assert 1 == 2, 'sums'", ("AssertionError", "sums", 1, None)),
        ("x = 1\nexec('1/0')", (*DIVISION, 2, 1)),
    ],
)
def test_type_message_line_and_column(run: Run, code: str, error: tuple[str, str | None, int, int | None]) -> None:
    found = raised(run, code)
    seen = (found.type, found.message, found.line, found.column)
    assert all(wanted in {None, real} for real, wanted in zip(seen, error, strict=True)), seen


@pytest.mark.parametrize(
    ("code", "kind", "line"),
    [
        ("x = = 1", "SyntaxError", 1),
        ("x = 1\nif x\n    pass", "SyntaxError", 2),
        ("print('open", "SyntaxError", 1),
        ("x = 1\n  y = 2", "IndentationError", 2),
        ("def f():\nreturn 1", "IndentationError", 2),
        ("if 1:\n\tx = 1\n        y = 2", "TabError", 3),
        ("x = 1\nbreak", "SyntaxError", 2),
        ("yield 5", "SyntaxError", 1),
        ("nonlocal x", "SyntaxError", 1),
        ("'a\\0b'\n\0", "SyntaxError", 2),
        ("del f()", "SyntaxError", 1),
    ],
)
def test_syntax_errors_have_a_place(run: Run, code: str, kind: str, line: int) -> None:
    result = run(f"{code}")
    assert (result.outcome, result.stdout) == (Outcome.RAISED, "")
    assert result.error is not None
    assert (result.error.type, result.error.line) == (kind, line)
    assert result.error.column >= 1
    assert "<snippet>" not in result.error.message


def test_code_with_a_syntax_error_does_not_begin_to_run(run: Run) -> None:
    result = run("print('started')\ntools.demo.add(a=1)\nx = = 1")
    assert (result.outcome, result.stdout, result.tool_calls) == (Outcome.RAISED, "", ())


def test_the_traceback_shows_the_snippets_lines(run: Run) -> None:
    code = "def outer():\n    return inner()\n\ndef inner():\n    raise KeyError('deep')\n\nouter()"
    text = raised(run, code).traceback
    places = [line.strip() for line in text.splitlines() if line.strip().startswith("File ")]
    assert places == [
        'File "<snippet>", line 7, in <module>',
        'File "<snippet>", line 2, in outer',
        'File "<snippet>", line 5, in inner',
    ]
    assert "raise KeyError('deep')" in text
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("KeyError: 'deep'\n")


def test_a_chained_error_tells_the_whole_story(run: Run) -> None:
    error = raised(run, "try:\n    1 / 0\nexcept ArithmeticError as cause:\n    raise ValueError('wrapped') from cause")
    assert (error.type, error.line) == ("ValueError", 4)
    assert "ZeroDivisionError: division by zero" in error.traceback
    assert "direct cause" in error.traceback


def test_an_error_while_handling_another_shows_both(run: Run) -> None:
    error = raised(run, "try:\n    {}['a']\nexcept KeyError:\n    int('x')")
    assert (error.type, error.line) == ("ValueError", 4)
    assert "During handling of the above exception" in error.traceback


def test_an_exception_group_shows_its_members(run: Run) -> None:
    error = raised(run, "raise ExceptionGroup('two', [ValueError('a'), TypeError('b')])")
    assert (error.type, error.message) == ("ExceptionGroup", "two (2 sub-exceptions)")
    assert "ValueError: a" in error.traceback
    assert "TypeError: b" in error.traceback


def test_notes_are_in_the_traceback(run: Run) -> None:
    assert "look at me" in raised(run, "e = ValueError('x')\ne.add_note('look at me')\nraise e").traceback


@pytest.mark.parametrize(
    "body",
    [
        "def __str__(self): raise RuntimeError('no')",
        "def __str__(self): return 5",
        "def __str__(self): raise SystemExit(3)",
        "__str__ = None",
    ],
)
def test_an_exception_that_cannot_be_printed(run: Run, body: str) -> None:
    error = raised(run, f"class Odd(Exception):\n    {body}\nraise Odd()")
    assert (error.type, error.message) == ("Odd", "<unprintable Odd>")


def test_a_huge_message_is_cut(run: Run) -> None:
    error = raised(run, "raise ValueError('x' * 5_000_000)")
    assert error.message.startswith("xxx")
    assert 1000 < len(error.message) <= 16 * 1024
    assert len(error.traceback) <= 64 * 1024


@pytest.mark.own_container
@pytest.mark.parametrize(
    ("code", "exit_code", "stderr"),
    [
        ("import sys\nsys.exit()", 0, ""),
        ("import sys\nsys.exit(3)", 3, ""),
        ("raise SystemExit(0)", 0, ""),
        ("exit_code = 4\nraise SystemExit(exit_code)", 4, ""),
        ("import sys\nsys.exit('went wrong')", 1, "went wrong\n"),
        ("import sys\nsys.exit(True)", 1, ""),
        ("import os\nos._exit(3)", 3, ""),
        ("import os\nos._exit(0)", 0, ""),
        ("import asyncio, sys\nawait asyncio.sleep(0)\nsys.exit(5)", 5, ""),
        ("def f():\n    raise SystemExit(6)\ntry:\n    f()\nfinally:\n    pass", 6, ""),
    ],
)
def test_exits_are_no_errors(run: Run, code: str, exit_code: int, stderr: str) -> None:
    result = run(code)
    assert (result.outcome, result.exit_code, result.stderr) == (Outcome.EXITED, exit_code, stderr)
    assert result.error is None
    assert result.ok is (exit_code == 0)


def test_a_caught_exit_is_no_exit(run: Run) -> None:
    assert run("try:\n    raise SystemExit(3)\nexcept SystemExit as e:\n    __out = e.code").value == 3


@pytest.mark.parametrize(
    "name", ["KeyboardInterrupt", "GeneratorExit", "BaseException", "StopIteration", "asyncio.CancelledError"]
)
def test_unusual_exceptions_are_raised_like_any_other(run: Run, name: str) -> None:
    error = raised(run, f"import asyncio\nraise {name}('odd')")
    assert (error.type, error.message, error.line) == (name.rpartition(".")[2], "odd", 2)


@pytest.mark.parametrize(
    "code",
    [
        "def f(): return f()\nf()",
        "def f(n): return g(n + 1)\ndef g(n): return f(n + 1)\nf(0)",
        "class A:\n    def __repr__(self): return repr([self])\nrepr(A())",
        "class A:\n    def __getattr__(self, name): return getattr(self, name + 'x')\nA().x",
        "f = lambda x: sorted([1, 2], key=f)\nf(0)",
    ],
)
def test_endless_recursion_is_a_recursion_error(run: Run, code: str) -> None:
    assert raised(run, code).type == "RecursionError"


def test_recursion_can_be_caught_and_goes_deep_enough(run: Run) -> None:
    result = run(
        "def depth(n):\n    return n if n == 0 else 1 + depth(n - 1)\ndef forever(): forever()\n"
        "try:\n    forever()\nexcept RecursionError:\n    __out = depth(900)"
    )
    assert (result.outcome, result.value) == (Outcome.COMPLETED, 900)


@pytest.mark.parametrize(
    "code",
    [
        "(" * 1000 + ")" * 1000,
        "[" * 5000,
        "x = " + "-" * 5000 + "1",
        "x = " + "not " * 5000 + "1",
        "x" + ".a" * 5000,
        "f" + "()" * 5000,
        " + ".join("1" * 5000),
        "".join(f"{' ' * n}if 1:\n" for n in range(150)) + " " * 150 + "pass",
        "eval('(' * 1000 + ')' * 1000)",
        "eval('[' * 5000)",
        "import ast\nast.parse('[' * 150 + ']' * 150)\nast.literal_eval('(' * 5000)",
    ],
    ids=lambda code: code[:12].replace("[", "(").replace("\n", " "),
)
def test_code_that_nests_too_deeply_is_an_error_and_no_crash(run: Run, code: str) -> None:
    result = run(code)
    assert result.outcome is Outcome.RAISED, result.summary()
    assert result.error is not None
    assert result.error.type in {"SyntaxError", "IndentationError", "RecursionError", "MemoryError"}


@pytest.mark.parametrize(
    "code", ["(" * 90 + "5" + ")" * 90, "[" * 90 + "]" * 90, " + ".join("1" * 90), "x = 1\n" * 5000 + "x"]
)
def test_code_that_nests_or_goes_on_within_reason_runs(run: Run, code: str) -> None:
    assert run(code).outcome is Outcome.COMPLETED


@pytest.mark.own_container
def test_an_abort_is_a_kill(run: Run) -> None:
    result = run("import os\nprint('before')\nos.abort()")
    assert (result.outcome, result.stdout, result.value) == (Outcome.KILLED, "before\n", None)
    assert result.error is not None
    assert "SIGABRT" in result.error.message


def test_the_result_can_raise_for_the_caller(run: Run) -> None:
    result = run("x = 1\n1 / 0")
    with pytest.raises(Exception, match=r"ZeroDivisionError: division by zero \(line 2\)"):
        result.raise_for_outcome()
    run("1").raise_for_outcome()
