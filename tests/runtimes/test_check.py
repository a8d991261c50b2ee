"""Snippets against the types of the tools: what must fail is found, what may work is left alone."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Literal, NotRequired

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

from gateway.errors import InvalidRequest
from gateway.providers.function import function_tool
from gateway.tools.model import ToolId
from gateway.tools.registry import ToolRegistry
from gateway.tools.stubs import stub_module
from runtimes import check
from runtimes._findings import Finding, certain
from runtimes._fit import may_fit
from runtimes.check import NOT_CHECKED, Diagnostic, check_snippet


class User(TypedDict):
    name: str
    age: int
    boss: NotRequired["User"]


class Item(TypedDict):
    sku: str
    count: NotRequired[int]


def get(id: str) -> User:  # noqa: A002
    raise NotImplementedError


def find(status: Literal["open", "closed"] = "open", limit: int = 10) -> list[User]:
    raise NotImplementedError


def order(items: list[Item], weights: list[float] | None = None, note: str = "") -> None:
    raise NotImplementedError


def maybe() -> User | None:
    raise NotImplementedError


def odd(**arguments: int) -> dict[str, int]:
    return arguments


ODD = dataclasses.replace(
    function_tool(odd), id=ToolId("count", "odd"), input_schema={"type": "object", "properties": {"a b": {}}}
)
DASHED = dataclasses.replace(function_tool(odd), id=ToolId("look-up", "dashed"))
STUBS = stub_module(
    ToolRegistry([*(function_tool(made, namespace="crm") for made in (get, find, order, maybe)), ODD, DASHED]).tools()
)


async def found(code: str) -> list[tuple[int, int, str]]:
    return [(one.line, one.column, one.rule) for one in await check_snippet(code, STUBS)]


@pytest.mark.parametrize(
    ("code", "column", "rule"),
    [
        ("tools.crm.gett(id='1')", 1, "missing-attribute"),
        ("tools.cmr.get(id='1')", 1, "missing-attribute"),
        ("tools.crm.get()", 1, "missing-argument"),
        ("tools.crm.get(id=1)", 15, "invalid-argument-type"),
        ("tools.crm.get(id=None)", 15, "invalid-argument-type"),
        ("tools.crm.get(id=['1'])", 15, "invalid-argument-type"),
        ("import datetime; tools.crm.get(id=datetime.datetime.now())", 32, "invalid-argument-type"),
        ("tools.crm.get(id='1', limit=2)", 23, "unknown-argument"),
        ("tools.crm.get('1')", 15, "too-many-positional-arguments"),
        ("tools.crm.find(status='opne')", 16, "invalid-argument-type"),
        ("tools.crm.find(limit='5')", 16, "invalid-argument-type"),
        ("tools.crm.order(items='abc')", 17, "invalid-argument-type"),
        ("tools.crm.order(items=[{'sku': 'a', 'count': 'x'}])", 46, "invalid-argument-type"),
        ("tools.crm.order(items=[{'sku': 'a', 'cuont': 1}])", 37, "unknown-typed-dict-constructor-key"),
        ("tools.crm.order(items=[{'count': 1}])", 24, "missing-typed-dict-key"),
        ("tools.crm.get(id='1')['nmae']", 23, "invalid-typed-dict-key"),
        ("tools.crm.get(id='1').name", 1, "missing-attribute"),
        ("(await tools.crm.get(id='1'))", 8, "invalid-await"),
        ("tools.aio.crm.get(id='1')['name']", 1, "not-subscriptable"),
        ("tools.describe_tool('crm:get', 'everything')", 32, "invalid-argument-type"),
        ("undefined + 1", 1, "unresolved-reference"),
        ("'a' + 1", 1, "unsupported-operator"),
        ("for x in 5: pass", 10, "not-iterable"),
        ("(5)()", 1, "not-callable"),
        ("[1].push(2)", 1, "missing-attribute"),
        ("def f(): await g", 10, "syntax"),
        ("x = (1,", 8, "syntax"),
        ("é = 'é'; undefined", 10, "unresolved-reference"),
    ],
)
async def test_what_must_fail_is_found_where_it_is(code: str, column: int, rule: str) -> None:
    assert (1, column, rule) in await found(code)


GOOD = {
    "return": """
        user = tools.crm.maybe()
        if user is None:
            return None
        return user['name']
    """,
    "await": """
        import asyncio
        x = await tools.aio.crm.get(id='1')
        async with asyncio.timeout(1):
            print(x['name'])
    """,
    "gather": """
        import asyncio
        r = await asyncio.gather(*(tools.aio.crm.get(id=str(i)) for i in range(3)))
        r[0]['name']
    """,
    "comprehension": "[await tools.aio.crm.get(id='3') for _ in range(2)]",
    "async for": """
        async for event in tools.aio.stream_tool('crm:get', {'id': '1'}):
            print(event['data'])
    """,
    "out": "__out = tools.crm.get(id='1')",
    "tool error": """
        from tools import ToolError
        try:
            tools.crm.get(id='1')
        except ToolError as e:
            print(e.code, e.details)
    """,
    "imported tools": """
        import tools
        tools.crm.get(id='1')
    """,
    "no type is said": """
        def f(a, b=None, *c, **d):
            return a.x + b['y'] + c[0].z
        f(1)
    """,
    "maybe none": """
        import re
        print(re.search('a', 'b').group(0), tools.crm.maybe()['name'])
    """,
    "optional": """
        total = None
        for u in tools.crm.find():
            total = u['age']
        print(total + 1)
    """,
    "missing module": """
        import numpy as np
        from pandas import DataFrame
        np.array([1]).sum(); DataFrame().foo
    """,
    "star import": """
        from nosuch import *
        anything
    """,
    "stdlib is lenient": """
        counts = {}
        for u in tools.crm.find():
            counts[u['name']] = counts.get(u['name'], 0) + 1
        max(counts, key=counts.get)
    """,
    "containers change": """
        d = {'a': 1}
        d['b'] = 'x'
        d['c'] = [1]
        x = []
        x.append(1)
        x.append('a')
    """,
    "names change": """
        x = 1
        x = 'a'
        x.upper()
    """,
    "variable dicts": """
        item = {'sku': 'a'}
        items = [item, {'sku': 'b', 'count': 2}]
        tools.crm.order(items=items)
    """,
    "built dicts": "tools.crm.order(items=[{'sku': s, 'count': n} for s, n in {'a': 1}.items()])",
    "integers are numbers": """
        w = [1, 2]
        tools.crm.order(items=[], weights=w)
        tools.crm.order(items=[], weights=(1, 2.5))
    """,
    "text may be a literal": """
        for status in ['open', 'closed']:
            tools.crm.find(status=status)
        u = tools.crm.get(id='1')
        tools.crm.find(status=u['name'])
    """,
    "spread": """
        options = {'limit': 3}
        tools.crm.find(**options)
        user = {'id': '1'}
        tools.crm.get(**user)
    """,
    "new fields": """
        u = tools.crm.get(id='1')
        u['score'] = 5
        print(u['score'])
        u.update(rank=1)
        u['rank']
        u.setdefault('level', 1)
        u['level']
    """,
    "new attributes": """
        class Box: pass
        box = Box()
        box.size = 1
        print(box.size)
        def f(): f.count = 1
        f.count
    """,
    "globals": """
        def f():
            global n
            n += 1
        n = 0
        f()
    """,
    "dynamic names": """
        globals()['late'] = 1
        late
    """,
    "odd names": """
        tools.odd.count(**{"a b": 1})["x"]
        getattr(tools.dashed, "look-up")(a=1)
        tools.run_tool("dashed:look-up", {"a": 1})["x"]
    """,
    "by id": "tools.run_tool('crm:get', {'id': 1})['x'].y",
    "search": "tools.run_tool(tools.search_tools('people')[0]['id'], {})",
    "chain": """
        steps = [('crm:get', {'id': '1'}), {'tool_id': 'crm:get', 'mapping': {'id': '/previous/name'}}]
        tools.run_chain(steps)['steps']
    """,
    "new syntax": """
        type Pair[T] = tuple[T, T]
        try:
            pass
        except ValueError, TypeError:
            pass
    """,
    "future": """
        from __future__ import annotations
        x: int = 1
    """,
    "wrong annotation": """
        x: int = 'a'
        def f() -> int: return 'a'
    """,
}


@pytest.mark.parametrize("code", GOOD.values(), ids=GOOD.keys())
async def test_what_may_work_is_left_alone(code: str) -> None:
    assert await check_snippet(code, STUBS) == ()


async def test_places_are_those_of_the_code_as_given() -> None:
    code = "\r\n    x = 1\r\n    if x:\r\n        tools.crm.get(id=1)\r\n"
    assert await found(code) == [(4, 23, "invalid-argument-type")]


async def test_diagnostics_are_in_order_and_say_what_is_wrong() -> None:
    code = "tools.crm.find(limits=3)\ntools.crm.gett()\nundefined"
    shown = [str(one) for one in await check_snippet(code, STUBS)]
    assert [text.split(":")[0] for text in shown] == ["1", "2", "3"]
    assert "limits" in shown[0]
    assert "gett" in shown[1]
    assert shown[2] == "3:1: Name `undefined` used when not defined"


async def test_only_so_many_are_listed() -> None:
    assert len(await check_snippet("undefined\n" * 500, STUBS)) == check.MAX_DIAGNOSTICS


@pytest.mark.parametrize("code", ["", "\n\n", "\0", "x = '\ud800'", "\ufeffx = 1", "# only words"])
async def test_odd_texts_are_no_trouble(code: str) -> None:
    assert NOT_CHECKED not in {one.rule for one in await check_snippet(code, STUBS)}


async def test_a_snippet_configures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ty.toml").write_text('[rules]\nall = "ignore"\n')
    monkeypatch.setenv("TY_CONFIG_FILE", str(tmp_path / "ty.toml"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert await found("undefined") == [(1, 1, "unresolved-reference")]


async def test_nothing_is_executed_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mark = tmp_path / "mark"
    assert await check_snippet(f"open({str(mark)!r}, 'w').close()\nundefined", STUBS)
    assert inside(tmp_path) == []


async def test_a_deadline_ends_the_checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (one,) = await check_snippet("x = 1", STUBS, deadline_seconds=0.001)
    assert (one.line, one.column, one.rule) == (0, 0, NOT_CHECKED)
    assert "longer than 0.001 s" in one.message
    assert inside(tmp_path) == []


async def test_cancellation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = children()
    with anyio.move_on_after(0.02) as scope:
        await check_snippet("x = [\n" + "1 + 'a',\n" * 100_000 + "]", STUBS)
    assert scope.cancelled_caught
    assert inside(tmp_path) == []
    assert children() == before


def inside(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


async def test_too_many_errors_are_an_answer_too() -> None:
    (one,) = await check_snippet(f"(1).{'a' * 4000}\n" * 1500, STUBS)
    assert one.rule == NOT_CHECKED
    assert "4 MiB of errors" in one.message


async def test_deep_code_does_not_harm_the_host() -> None:
    started = time.monotonic()
    for code in ("(" * 100_000, "x = " + "-" * 200_000 + "1", "x = " + "[" * 5000 + "]" * 5000):
        assert isinstance(await check_snippet(code, STUBS), tuple)
    assert time.monotonic() - started < 40


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_a_deadline_must_be_above_0(seconds: float) -> None:
    with pytest.raises(InvalidRequest, match="deadline_seconds must be above 0"):
        await check_snippet("1", STUBS, deadline_seconds=seconds)


def test_a_diagnostic_is_plain_data() -> None:
    one = Diagnostic(3, 7, "no such thing", "unresolved-reference")
    assert str(one) == "3:7: no such thing"


@pytest.mark.parametrize(
    ("wanted", "given_type", "expected"),
    [
        ("str", "int", False),
        ("str", "str | None", True),
        ("str", "int | None", False),
        ("float", "int", True),
        ("int", "float", False),
        ("int", "bool", True),
        ("bool", "int", False),
        ("float | None", "None", True),
        ('Literal["a", "b"]', "str", True),
        ('Literal["a", "b"]', 'Literal["c"]', False),
        ('Literal["a", "b"]', 'Literal["b", "c"]', True),
        ('Literal["a"]', "int", False),
        ("Literal[-1]", "Literal[1]", True),
        ("list[str]", "list[int]", False),
        ("list[str]", "list[str | int]", True),
        ("list[float]", "list[int]", True),
        ("list[float]", "tuple[int, int]", True),
        ("list[str]", "str", False),
        ("list[str]", "set[str]", False),
        ("list[str]", "list", True),
        ("_Item", "dict[str, str]", True),
        ("_Item", "_Other", True),
        ("_Item", "str", False),
        ("str", "datetime", False),
        ("str", "Unknown", True),
        ("Sized", "int", True),
        ("str", "float*", False),
        ("str", "def f() -> int", True),
        ("str", "(" * 1000, True),
        ("str", "int" + " | int" * 1000, True),
    ],
)
def test_whether_a_type_may_fit(wanted: str, given_type: str, expected: bool) -> None:
    assert may_fit(wanted, given_type) is expected


@given(wanted=st.text(), given_type=st.text())
def test_no_text_of_a_type_is_trouble(wanted: str, given_type: str) -> None:
    assert may_fit(wanted, given_type) in (True, False)


@settings(deadline=None)
@given(text=st.text(alphabet=st.sampled_from("def async await y=:\"'\n\t ()[]{}*#\\\0é")))  # which cannot spell exec
def test_no_text_of_a_snippet_is_trouble(text: str) -> None:
    finding = Finding(1, 1, "unresolved-reference", "Name `x` used when not defined")
    assert certain([finding], text) == [finding]


def test_a_rule_that_is_not_known_is_not_certain() -> None:
    assert certain([Finding(1, 1, "new-rule", "anything")], "x") == []
