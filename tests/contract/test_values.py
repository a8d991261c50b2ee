"""A snippet's value: which one it is, and how it reaches the host."""

import math
from typing import Any

import pytest

from sandbox import Outcome
from tests.contract.conftest import Run

pytestmark = pytest.mark.one_container


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("return 5", 5),
        ("x = 1\nreturn x + 1\nx / 0", 2),
        ("if True:\n    return 'in a block'", "in a block"),
        ("for n in range(9):\n    if n == 3:\n        return n", 3),
        ("return", None),
        ("__out = 3\nreturn 4", 4),
        ("return None\n__out = 3", None),
    ],
)
def test_a_top_level_return_is_the_value(run: Run, code: str, value: Any) -> None:
    result = run(code)
    assert (result.outcome, result.value, result.value_is_repr) == (Outcome.COMPLETED, value, False)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("1 + 1", 2),
        ("x = [1]\nx.append(2)\nx", [1, 2]),
        ("__out = 3\n4", 4),
        ("1;2;3", 3),
        ("'text'", "text"),
        ("(\n  1,\n  2,\n)", [1, 2]),
        ("lambda: 0\n5 if True else 6", 5),
    ],
)
def test_else_the_last_expression_is_the_value(run: Run, code: str, value: Any) -> None:
    assert run(code).value == value


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("__out = 3", 3),
        ("__out = 3\nx = 4", 3),
        ("__out = 3\nprint('seen')", 3),
        ("def f():\n    global __out\n    __out = {'a': 1}\nf()", {"a": 1}),
        ("__out = 1\ndel __out\nx = 2", None),
        ("x = 4", None),
        ("import json", None),
        ("for x in range(3):\n    x", None),
        ("def f():\n    return 5", None),
    ],
)
def test_else_the_out_variable_or_nothing(run: Run, code: str, value: Any) -> None:
    result = run(code)
    assert (result.outcome, result.value) == (Outcome.COMPLETED, value)


@pytest.mark.parametrize(
    "code", ["", "   \n\n\t\n", "# only a comment", "# one\n    # two\n", "pass", "\ufeff", "'''doc'''and None"]
)
def test_code_without_a_value(run: Run, code: str) -> None:
    result = run(code)
    assert (result.outcome, result.value, result.stdout, result.stderr) == (Outcome.COMPLETED, None, "", "")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        2**53 + 1,
        -(2**63) - 1,
        10**400,
        0.1,
        -0.0,
        1e308,
        5e-324,
        1e16,
        "",
        'ä😀\u2028\x00\x7f"\\',
        "x" * 100_000,
        [],
        {},
        {"": {"ключ": [None, [True, {"a": 1.5}]]}},
        list(range(1000)),
    ],
    ids=lambda value: repr(value)[:20].encode("ascii", "replace").decode().replace("[", "("),
)
def test_json_values_arrive_as_they_are(run: Run, value: Any) -> None:
    result = run(f"value = {value!r}\nreturn value")
    assert (result.outcome, repr(result.value), result.value_is_repr) == (Outcome.COMPLETED, repr(value), False)


def test_a_whole_float_stays_a_float(run: Run) -> None:
    assert [type(number) for number in run("[1, 1.0, True]").value] == [int, float, bool]


def test_the_order_of_keys_is_kept(run: Run) -> None:
    assert list(run("{'z': 1, 'a': 2, 'm': 3}").value) == ["z", "a", "m"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("{1, 2}", "{1, 2}"),
        ("b'bytes'", "b'bytes'"),
        ("1j", "1j"),
        ("{1: 'a'}", "{1: 'a'}"),
        ("{'a': [object]}", "{'a': [<class 'object'>]}"),
        ("range(3)", "range(0, 3)"),
        ("import decimal\ndecimal.Decimal('1.10')", "Decimal('1.10')"),
        ("import datetime\ndatetime.date(2024, 2, 29)", "datetime.date(2024, 2, 29)"),
        ("float('nan')", "nan"),
        ("[1.5, float('inf')]", "[1.5, inf]"),
        ("class Point:\n    def __repr__(self): return 'Point!'\nPoint()", "Point!"),
        ("x = []\nx.append(x)\nx", "[[...]]"),
    ],
)
def test_anything_else_arrives_as_its_repr_with_a_flag(run: Run, code: str, text: str) -> None:
    result = run(code)
    assert (result.outcome, result.value, result.value_is_repr) == (Outcome.COMPLETED, text, True)


def test_a_text_that_looks_like_a_repr_has_no_flag(run: Run) -> None:
    result = run("repr({1, 2})")
    assert (result.value, result.value_is_repr) == ("{1, 2}", False)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("(1, (2, 3))", [1, [2, 3]]),
        ("import collections\ncollections.OrderedDict(a=1)", {"a": 1}),
        ("import collections\ncollections.namedtuple('P', 'x y')(1, 2)", [1, 2]),
        ("import enum\nclass E(enum.IntEnum):\n    A = 3\nE.A", 3),
        ("import enum\nclass E(str, enum.Enum):\n    A = 'a'\n[E.A]", ["a"]),
    ],
)
def test_kinds_of_json_types_arrive_as_plain_values(run: Run, code: str, value: Any) -> None:
    result = run(code)
    assert (result.value, result.value_is_repr) == (value, False)


def test_a_lone_surrogate_arrives_as_the_same_text(run: Run) -> None:
    assert run("['\\ud800', 'a\\udcffb']").value == ["\ud800", "a\udcffb"]


def test_a_repr_that_raises_is_a_placeholder(run: Run) -> None:
    result = run("class Bad:\n    def __repr__(self): raise RuntimeError('no')\nBad()")
    assert (result.outcome, result.value_is_repr) == (Outcome.COMPLETED, True)
    assert "Bad" in result.value


@pytest.mark.parametrize(
    "code", ["'x' * 100_000_000", "['x' * 1000] * 100_000", "'\\0' * 2_000_000", "'ä' * 4_000_000"]
)
def test_a_value_that_is_too_large_exceeds_a_limit(run: Run, code: str) -> None:
    result = run(code)
    assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "value_bytes")
    assert result.value is None
    assert result.error is not None
    assert "value_bytes" in result.error.message


def test_a_value_just_within_the_limit_arrives(run: Run) -> None:
    size = (4 << 20) - 2
    assert run(f"'x' * {size}").value == "x" * size
    assert run(f"'x' * {size + 1}").limit == "value_bytes"


def test_a_list_that_holds_itself_many_times_is_no_bomb(run: Run) -> None:
    result = run("x = [0] * 10\nfor _ in range(30):\n    x = [x] * 10\nx", limits={"wall_seconds": 10})
    assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "value_bytes")


@pytest.mark.parametrize(
    "code",
    [
        "    x = 1\n    x + 1",
        "\n\n\tx = 1\n\tx + 1\n",
        "\r\n  x = 1\r\n  return x + 1\r\n",
        "  # note\n  x = 1\n\n  x + 1",
    ],
)
def test_common_indentation_is_removed(run: Run, code: str) -> None:
    assert run(code).value == 2


def test_uneven_indentation_is_still_an_error(run: Run) -> None:
    result = run("x = 1\n  y = 2")
    assert result.outcome is Outcome.RAISED
    assert result.error is not None
    assert (result.error.type, result.error.line) == ("IndentationError", 2)


def test_numbers_survive_the_journey_both_ways(run: Run) -> None:
    result = run("return tools.demo.echo(value=[2**60, 0.1, -0.0, 1e300])")
    assert result.value == [2**60, 0.1, -0.0, 1e300]
    assert math.copysign(1, result.value[2]) == -1
