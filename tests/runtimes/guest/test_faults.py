"""An exception becomes a type, a message, a place in the code as given, and a traceback without our frames."""

import asyncio
import sys
import textwrap
from collections.abc import Iterator

import pytest

from runtimes.guest.faults import MESSAGE_BYTES, TRACEBACK_BYTES, Fault, describe
from runtimes.guest.outcome import Raised, Request, run_snippet
from runtimes.guest.source import read_source
from runtimes.guest.tools import GatewayRefusal, Tools


class RefusingTransport:
    def call(self, operation: str, arguments: str) -> str:
        raise GatewayRefusal('{"code": "tool_failed", "message": "no", "retryable": false, "details": {}}')

    async def acall(self, operation: str, arguments: str) -> str:
        await asyncio.sleep(0)
        return self.call(operation, arguments)


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main
    sys.modules.pop("tools", None)


def fault_of(code: str) -> Fault:
    ending = run_snippet(Request(code, 1000), Tools(RefusingTransport()), asyncio.run)
    assert isinstance(ending, Raised)
    for text in (ending.fault.type, ending.fault.message, ending.fault.traceback):
        text.encode()
    assert "runtimes/guest" not in ending.fault.traceback
    return ending.fault


def without_markers(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if line.strip(" ~^|\n"))


@pytest.mark.parametrize(
    ("code", "place"),
    [
        ("1 / 0", (1, 1)),
        ("x = 0\ny = 1 / x", (2, 5)),
        ("    x = 0\n    y = 1 / x", (2, 9)),
        ("\n\n\tx = 0\n\ty = 1 / x\n", (4, 6)),
        ("é = 'ü'; 1 / 0", (1, 10)),
        ("def f(x):\n    return 1 / x\nf(0)", (2, 12)),
        ("  def f(x):\n      return 1 / x\n  return f(0)", (2, 14)),
        ("import json\njson.loads('{')", (2, 1)),
        ("import asyncio\nawait asyncio.sleep('x')", (2, 1)),
        ("x = 1\nexec('1/0')", (2, 1)),
        ("x = 1\nexec('1+')", (2, 1)),
        ("x = 1\nraise SyntaxError('mine', ('<snippet>', 9, 9, 'text'))", (2, 1)),
        ("x = (1,\n", (1, 5)),
        ("    x = 1\n    y = = 2\n", (2, 9)),
        ("  x = 1\n  if x:\n  y = 2", (3, 3)),
        ("if 1:\n\tx\n        y", (3, 1)),
        ("  class A:\n    return 1", (2, 5)),
        ("x = 1\n\0", (2, 1)),
        ("    x = 'ab\udc00'", (1, 12)),
        ("  from math import *\n  return 1", (1, 3)),
    ],
)
def test_the_place_is_counted_in_the_code_as_given(code: str, place: tuple[int, int]) -> None:
    fault = fault_of(code)

    assert (fault.line, fault.column) == place


def test_an_exception_from_nowhere_has_no_place() -> None:
    fault = describe(ValueError("lost"), read_source("1"))

    assert fault == Fault("ValueError", "lost", 0, 0, "ValueError: lost\n")


def test_the_traceback_reads_like_pythons_own() -> None:
    fault = fault_of("    def f(x):\n        return 1 / x\n\n    f(0)")

    assert fault.type == "ZeroDivisionError"
    assert fault.message == "division by zero"
    assert "           ~~^~~\n" in fault.traceback
    assert without_markers(fault.traceback) == textwrap.dedent("""\
        Traceback (most recent call last):
          File "<snippet>", line 4, in <module>
            f(0)
          File "<snippet>", line 2, in f
            return 1 / x
        ZeroDivisionError: division by zero
    """)


@pytest.mark.parametrize("end", ["f()", "return f()", "await g()", "return await g()"])
def test_every_way_to_run_gives_the_same_frames(end: str) -> None:
    fault = fault_of(f"def f():\n    1 / 0\nasync def g():\n    f()\n{end}")

    assert fault.traceback.count("in <module>") == 1
    assert fault.traceback.count("File") == (3 if "await" in end else 2)
    assert fault.traceback.index("line 5, in <module>") < fault.traceback.index("line 2, in f")


def test_a_syntax_error_shows_its_line() -> None:
    fault = fault_of("    x = 1\n    y = = 2\n")

    assert fault.message == "invalid syntax"
    assert fault.traceback == '  File "<snippet>", line 2\n    y = = 2\n        ^\nSyntaxError: invalid syntax\n'


def test_chained_exceptions_are_shown() -> None:
    code = "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('second') from e"

    fault = fault_of(code)

    assert fault.type == "ValueError"
    assert fault.traceback.count("Traceback (most recent call last)") == 2
    assert "The above exception was the direct cause" in fault.traceback


def test_the_gateways_refusal_is_not_shown() -> None:
    code = (
        "import asyncio\nasync def f():\n    await tools.aio.a.b()\n"
        "async with asyncio.TaskGroup() as g:\n    g.create_task(f())"
    )

    for fault in (fault_of("tools.a.b()"), fault_of(code)):
        assert "tools.ToolError: no" in fault.traceback
        assert "GatewayRefusal" not in fault.traceback
        assert "During handling" not in fault.traceback


def test_groups_show_their_members() -> None:
    fault = fault_of("raise ExceptionGroup('g', [ValueError(1), ExceptionGroup('h', [TypeError(2)])])")

    assert fault.type == "ExceptionGroup"
    assert "ValueError: 1" in fault.traceback
    assert "TypeError: 2" in fault.traceback


def test_frames_of_libraries_stay() -> None:
    assert "in raw_decode" in fault_of("import json\njson.loads('{')").traceback


@pytest.mark.parametrize(
    "raised", ["KeyboardInterrupt", "GeneratorExit", "MemoryError", "asyncio.CancelledError", "StopIteration"]
)
def test_any_exception_is_described(raised: str) -> None:
    name = raised.rpartition(".")[2]

    assert fault_of(f"import asyncio\nraise {raised}").type == name
    if raised not in {"KeyboardInterrupt", "StopIteration"}:
        assert fault_of(f"import asyncio\nawait asyncio.sleep(0)\nraise {raised}").type == name


def test_endless_recursion_is_described() -> None:
    fault = fault_of("def f():\n    f()\nf()")

    assert fault.type == "RecursionError"
    assert (fault.line, fault.column) == (2, 5)
    assert "more times]" in fault.traceback


def test_recursion_beyond_pythons_limit_is_described() -> None:
    fault = fault_of("import sys\nsys.setrecursionlimit(6000)\ndef f(n):\n    f(n - 1) if n else 1 / 0\nf(5000)")

    assert fault.type == "ZeroDivisionError"
    assert fault.line == 4
    sys.setrecursionlimit(1000)


def test_long_texts_are_cut() -> None:
    fault = fault_of("raise ValueError('é' * 10_000_000)")

    assert MESSAGE_BYTES - 10 < len(fault.message.encode()) <= MESSAGE_BYTES
    assert fault.message.endswith("... [cut]")
    assert len(fault.traceback.encode()) <= TRACEBACK_BYTES


def test_long_tracebacks_keep_both_ends() -> None:
    code = (
        "import sys\ndef f(n):\n"
        "    try: f(n - 1) if n else 1 / 0\n    except Exception as e: raise ValueError(n) from e\nf(300)"
    )

    fault = fault_of(code)

    assert len(fault.traceback.encode()) <= TRACEBACK_BYTES
    assert "... [cut] ..." in fault.traceback
    assert fault.traceback.startswith("Traceback")
    assert fault.traceback.endswith("ValueError: 300\n")


HOSTILE = {
    "str raises": "class E(Exception):\n    def __str__(self): raise KeyboardInterrupt",
    "str is odd": (
        "class S(str):\n    encode = __getitem__ = __format__ = None\n"
        "class E(Exception):\n    def __str__(self): return S('x')"
    ),
    "str is no str": "class E(Exception):\n    def __str__(self): return 3",
    "cause": "class E(Exception):\n    __cause__ = property(lambda self: 1 / 0)",
    "context": "class E(Exception):\n    __context__ = property(lambda self: exit())",
    "traceback": "class E(Exception):\n    __traceback__ = property(lambda self: 1 / 0)",
    "notes": "class E(Exception):\n    __notes__ = property(lambda self: exit())",
    "metaclass": (
        "class M(type):\n    def __getattribute__(cls, name): raise SystemExit(name)\n"
        "class E(Exception, metaclass=M): pass"
    ),
    "module": "class E(Exception): pass\nE.__module__ = 3",
    "base": "class E(BaseException): pass",
    "class": "class E(Exception):\n    __class__ = property(lambda self: SyntaxError)",
    "syntax": "class E(SyntaxError):\n    lineno = offset = filename = text = msg = property(lambda self: 1 / 0)",
    "name": "E = type('E', (Exception,), {'__qualname__': '\\ud800'})",
    "getattribute": "class E(Exception):\n    def __getattribute__(self, name): raise SystemExit(name)",
    "name error": "class E(NameError):\n    name = property(lambda self: exit())",
    "attribute error": (
        "class D:\n    def __dir__(self): raise SystemExit\nclass E(AttributeError):\n    name = 'x'\n    obj = D()"
    ),
}


@pytest.mark.parametrize("definition", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("end", ["raise E", "try:\n    1 / 0\nexcept Exception as e:\n    raise E() from e"])
def test_hostile_classes_are_described(definition: str, end: str) -> None:
    fault = fault_of(f"{definition}\n{end}")

    assert fault.type == "E"
    assert fault.line == f"{definition}\n{end}".count("\n") + 1
    assert f'File "<snippet>", line {fault.line}, in <module>\n' in fault.traceback


def test_a_cycle_of_causes_ends() -> None:
    fault = fault_of("a = ValueError(1)\nb = ValueError(2)\na.__cause__ = b\nb.__cause__ = a\nraise a")

    assert fault.traceback.count("ValueError: 1") == 1


def test_surrogates_and_nulls_are_kept_readable() -> None:
    assert fault_of("raise ValueError('a\\ud800b\\0c')").message == "a\\ud800b\0c"


def test_a_cleared_line_cache_does_not_matter() -> None:
    assert "1 / 0" in fault_of("import linecache\nlinecache.clearcache()\n1 / 0").traceback
