"""The checklist is whole, and what it names is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "checklist.md").read_text()

ROWS = {"Tools and executions": 72, "Calls and policies": 48, "The journal": 7}
COVERED = {
    "Tools and executions": {*range(1, 37), *range(61, 66)},
    "Calls and policies": {*range(1, 31), *range(32, 49)},
    "The journal": {*range(1, 8)},
}
"""Rows that may not be left for later altogether."""

MOST_TESTS = 4
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]*) \|$", re.MULTILINE)
NAMED = re.compile(r"`(tests/[^`]*)`")
TEST = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")


def flaws(page: str) -> list[str]:
    """What is wrong with a checklist."""
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    return [flaw for name in ROWS for flaw in section_flaws(name, ROW.findall(sections.get(name, "")))]


def section_flaws(section: str, rows: list[tuple[str, str, str]]) -> list[str]:
    found = [
        f"{section}, row {number}: {flaw}"
        for number, _, cell in rows
        for flaw in row_flaws(cell, must_be_covered=int(number) in COVERED[section])
    ]
    if [int(number) for number, _, _ in rows] != list(range(1, ROWS[section] + 1)):
        found.append(f"{section}: the rows are not 1 to {ROWS[section]}, each once and in order")
    return found


def row_flaws(cell: str, *, must_be_covered: bool) -> list[str]:
    named = NAMED.findall(cell)
    found = [f"there is no test {test}" for test in named if not exists(test)]
    if not named and (must_be_covered or not re.search(r"\blater: \w", cell)):
        found.append("it names no test")
    if len(named) > MOST_TESTS or len(named) != len(set(named)):
        found.append(f"it names more than {MOST_TESTS} tests, or one of them twice")
    return found


def exists(test: str) -> bool:
    parts = TEST.fullmatch(test)
    return parts is not None and parts[2] in functions(ROOT / parts[1])


@cache
def functions(file: Path) -> frozenset[str]:
    """Those that pytest collects, parametrised ones too; none when there is no such file."""
    if not file.exists():
        return frozenset()
    body = ast.parse(file.read_text()).body
    return frozenset(node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_row_is_there_and_every_named_test_exists() -> None:
    assert flaws(PAGE) == []


def line(section: str, number: int) -> str:
    """One row of the page, as it is written."""
    text = PAGE[PAGE.index(f"## {section}\n") :]
    found = re.search(rf"^\| {number} \| .*\n", text, re.MULTILINE)
    assert found is not None
    return found[0]


TOOLS, CALLS, _ = ROWS
FIRST, SECOND, LAST = line(TOOLS, 1), line(TOOLS, 2), line(CALLS, 48)
KEYS = line(CALLS, 5)


@pytest.mark.parametrize(
    ("before", "after", "flaw"),
    [
        (FIRST, "", "the rows are not 1 to 72"),
        (LAST, "", "the rows are not 1 to 48"),
        (FIRST, FIRST * 2, "the rows are not 1 to 72"),
        (FIRST + SECOND, SECOND + FIRST, "the rows are not 1 to 72"),
        (LAST, LAST + LAST.replace("| 48 |", "| 49 |"), "the rows are not 1 to 48"),
        (f"## {CALLS}", "## Something else", "the rows are not 1 to 48"),
        (FIRST, FIRST.replace("::test_", "::test_no_longer_", 1), "row 1: there is no test"),
        (FIRST, FIRST.replace(".py::", "_moved.py::", 1), "row 1: there is no test"),
        (FIRST, FIRST.replace("::test_", "::", 1), "row 1: there is no test"),
        (FIRST, "| 1 | A tool | `tests/gateway/test_model.py::tool` |\n", "row 1: there is no test"),
        (FIRST, "| 1 | A tool | `tests/gateway/test_model.py` |\n", "row 1: there is no test"),
        (FIRST, "| 1 | A tool | later: all of it |\n", "row 1: it names no test"),
        (FIRST, FIRST.replace("| `", f"| `{NAMED.findall(FIRST)[0]}`<br>`"), "one of them twice"),
        (KEYS, "| 5 | Keys |  |\n", "row 5: it names no test"),
        (KEYS, "| 5 | Keys | some day |\n", "row 5: it names no test"),
        (KEYS, "| 5 | Keys | later: |\n", "row 5: it names no test"),
    ],
)
def test_a_checklist_that_was_tampered_with_is_told(before: str, after: str, flaw: str) -> None:
    assert PAGE.count(before) == 1
    assert flaw in "\n".join(flaws(PAGE.replace(before, after)))


def test_a_parametrised_test_is_a_test() -> None:
    assert exists("tests/test_checklist.py::test_a_checklist_that_was_tampered_with_is_told")
