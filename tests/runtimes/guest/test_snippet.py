"""What a snippet's value is, where its names live, and what it may contain."""

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from runtimes.guest.snippet import MAX_DEPTH, Program, Snippet, main_namespace


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main
    sys.modules.pop("tools", None)


def compiled(code: str) -> Program:
    return Snippet(code).compile()


def value_of(code: str, tools: object = None) -> Any:
    program = compiled(code)
    namespace = main_namespace(tools)
    return asyncio.run(program.run_async(namespace)) if program.is_async else program.run(namespace)


def syntax_error(code: str) -> SyntaxError:
    with pytest.raises(SyntaxError) as caught:
        compiled(code)
    return caught.value


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("\n\n", None),
        ("1 + 1", 2),
        ("x = 1", None),
        ("x = 1; x", 1),
        ("'a docstring'", "a docstring"),
        ("'doc'\n__doc__", "doc"),
        ("__out = 5", 5),
        ("__out = 5\nx = 1", 5),
        ("__out = 5\n6", 6),
        ("__out = 5\nprint(end='')", 5),
        ("return 3", 3),
        ("return", None),
        ("__out = 5\nreturn None", None),
        ("return 1, 2", (1, 2)),
        ("if True:\n    return 1\n2", 1),
        ("if False:\n    return 1\n2", 2),
        ("if False:\n    return 1\n__out = 3\nx = 1", 3),
        ("if False:\n    return 1\n__out = 3\nprint(end='')", 3),
        ("if False:\n    return 1\n(1, 2)", (1, 2)),
        ("if False:\n    return 1\n[]", []),
        ("for x in range(9):\n    if x == 4:\n        return x", 4),
        ("try:\n    return 1\nfinally:\n    x = 2", 1),
        ("def f():\n    return 1\nf", "function"),
        ("\ufeff1", 1),
        ("x = '''a\r\nb'''\r\nx", "a\nb"),
    ],
)
def test_value(code: str, value: object) -> None:
    result = value_of(code)

    assert (type(result).__name__ if callable(result) else result) == value


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("    x = 1\n    x", 1),
        ("\n    def f():\n        return 2\n\n    return f()\n    ", 2),
        ("\t1", 1),
        ("if True:\n    x = 3\nx", 3),
        ("  # comment\n  x = 4\n \n  x", 4),
        ("    s = '''\n    a\n      b'''\n    s", "\na\n  b"),
        ("s = '''\n  a\n  '''\ns", "\n  a\n  "),
        ("  for i in range(2):\n  \tx = i\n  x", 1),
    ],
)
def test_common_indentation_is_removed(code: str, value: object) -> None:
    assert value_of(code) == value


def test_indentation_that_is_not_common_is_an_error() -> None:
    assert syntax_error("x = 1\n    y = 2").lineno == 2


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("import asyncio\nawait asyncio.sleep(0, 7)", 7),
        ("import asyncio\nreturn await asyncio.sleep(0, 7)", 7),
        ("import asyncio\nx = await asyncio.sleep(0, 7)\n__out = x", 7),
        ("async def f():\n    yield 1\nasync for x in f():\n    pass\nx", 1),
        ("async def f():\n    yield 1\nasync for x in f():\n    return x", 1),
        ("async def f():\n    yield 1\n[x async for x in f()]", [1]),
        ("async def f():\n    yield 1\nreturn [x async for x in f()]", [1]),
        (
            "import asyncio\nasync with asyncio.TaskGroup() as g:\n  t = g.create_task(asyncio.sleep(0))\nt.done()",
            True,
        ),
        ("import asyncio\ndef f(x=await asyncio.sleep(0, 3)):\n    return x\nreturn f()", 3),
        ("import asyncio\n(lambda: 4)() if await asyncio.sleep(0, 1) else 5", 4),
    ],
)
def test_top_level_await(code: str, value: object) -> None:
    assert compiled(code).is_async
    assert value_of(code) == value


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio\nasync def main():\n    return 1\nasyncio.run(main())",
        "import asyncio\nasync def main():\n    return await asyncio.sleep(0, 1)\nreturn asyncio.run(main())",
    ],
)
def test_code_without_top_level_await_may_start_its_own_loop(code: str) -> None:
    assert not compiled(code).is_async
    assert value_of(code) == 1


def test_a_coroutine_as_the_last_expression_is_not_awaited() -> None:
    for prefix in ("", "import asyncio\nawait asyncio.sleep(0)\n"):
        coroutine = value_of(prefix + "async def f(): pass\nf()")
        assert asyncio.iscoroutine(coroutine)
        coroutine.close()


BINDINGS = """
import os.path, json.decoder as decoder
from math import pi as circle, tau
a, (b, *c) = 1, (2, 3, 4)
d: int = 5
e: int
f = 1; f += 1
gone = 1; del gone
for g, [h] in [(1, [2])]: pass
with memoryview(b"x") as i, memoryview(b"y") as (j): pass
try: 1 / 0
except ZeroDivisionError as error: k = str(error)
[(l := n) for n in range(3)]
match {"x": [1, 2, 3], "y": 4}:
    case {"x": [m, *o], **p} as q: pass
def r(): return a, b, c, d
class S:
    t = 1
    def method(self): return r()
u = lambda: (v := 2)
(w := 3)
print(end="")
global z
z = 1
"""
NAMES = set("abcdfghijklmopqrSuwz") | {"os", "decoder", "circle", "tau"}


def test_names_live_in_the_module_whether_or_not_it_returns() -> None:
    plain, returning = (value_of(f"{BINDINGS}\n{end}") for end in ("globals()", "return globals()"))

    for namespace in (plain, returning):
        assert set(namespace) >= NAMES
        assert not {"e", "gone", "error", "n", "t", "v", "<module>"} & set(namespace)
    assert returning["r"]() == (1, 2, [3, 4], 5)
    assert returning["S"]().method() == returning["r"]()
    assert returning["S"].__qualname__ == "S"
    assert returning["S"].__module__ == "__main__"
    assert returning["k"] == "division by zero"


@pytest.mark.parametrize(
    "code",
    [
        "i = 7\nx = [i for i in 'ab']\nlocals()\nexec('y = i')\nreturn i, y, locals() is globals(), 'x' in dir()",
        "i = 7\nx = [i for i in 'ab']\nlocals()\nexec('y = i')\n(i, y, locals() is globals(), 'x' in dir())",
    ],
)
def test_locals_are_globals_as_in_any_module(code: str) -> None:
    assert value_of(code) == (7, 7, True, True)


def test_a_comprehension_keeps_its_variable_to_itself() -> None:
    assert value_of("x = 1\ny = [x for x in 'ab']\nz = {k: x for k in 'a'}\nreturn x, z") == (1, {"a": 1})


@pytest.mark.parametrize("end", ["", "return "])
def test_runs_as_main(end: str) -> None:
    code = f"""
    from __future__ import annotations
    import dataclasses, pickle, sys, typing
    @dataclasses.dataclass
    class Point:
        x: int
        y: Later
    class Later: pass
    point = pickle.loads(pickle.dumps(Point(1, None)))
    hints = typing.get_type_hints(Point)
    {end}[__name__ == "__main__", point == Point(1, None), hints["y"] is Later, sys.modules["__main__"].Point is Point]
    """

    assert value_of(code) == [True] * 4


def test_tools_can_also_be_imported() -> None:
    tools = object()

    assert value_of("import tools as imported\nreturn imported is tools, tools", tools) == (True, tools)


@pytest.mark.parametrize(
    ("code", "line", "column", "message"),
    [
        ("x = 1\nfrom math import *\nreturn pi", 2, 1, "cannot stand beside a top-level 'return'"),
        ("x = yield 1\nreturn 2", 1, 5, "'yield' outside function"),
        ("yield 1", 1, 1, "'yield' outside function"),
        ("class A:\n  return 1", 2, 3, "'return' outside function"),
        ("x = 1\ny = (", 2, 5, "was never closed"),
        ("x = 1\ny = '\0'", 2, 6, "null character"),
        ("é = '\ud800'", 1, 6, "surrogate"),
        ("x = " + "-" * MAX_DEPTH + "1", 1, 1, "nests deeper"),
        ("x = 1\n" + "if x: pass\nel" * MAX_DEPTH + "se: pass", MAX_DEPTH, 1, "nests deeper"),
        ("await = 1", 1, 7, "invalid syntax"),
    ],
)
def test_what_cannot_be_compiled_says_where(code: str, line: int, column: int, message: str) -> None:
    error = syntax_error(code)

    assert message in error.msg
    assert (error.lineno, error.offset) == (line, column)
    assert error.text is not None


def test_ordinary_depth_compiles() -> None:
    assert value_of("1" + " + 1" * (MAX_DEPTH - 10)) == MAX_DEPTH - 9
    assert value_of("return 1" + " + 1" * (MAX_DEPTH - 10)) == MAX_DEPTH - 9


def test_star_import_works_without_return() -> None:
    assert value_of("from math import *\nfloor(1.5)") == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is of Python 3.12")
def test_type_statements_and_parameters() -> None:
    assert (
        value_of("type T[X] = list[X]\ndef f[X](x: X) -> X:\n    return x\nclass C[X]: pass\nreturn f(T).__name__")
        == "T"
    )
