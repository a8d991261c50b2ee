"""Whether a value of one type may be of another, from the types as the type checker writes them."""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

_NUMBERS = frozenset({("float", "int"), ("float", "bool"), ("int", "bool")})
_SCALARS = frozenset({"str", "int", "float", "bool", "None"})
# None of these is text, a number or a truth value, and none is JSON.
_FOREIGN = frozenset(
    {"bytes", "complex", "date", "datetime", "time", "timedelta", "Decimal", "UUID", "Path", "set", "frozenset"}
    | {"range", "Coroutine", "CoroutineType", "Generator"}
)
_KNOWN = _SCALARS | _FOREIGN | {"list", "tuple", "dict"}
# They come from a guest's program: much longer ones tell a reader nothing and cost our parser its stack.
_MAX_TEXT = 300


class _Type(NamedTuple):
    """One alternative of a type. Objects with named fields are `dict`; `literal` is the only value it has."""

    name: str
    arguments: tuple[ast.expr, ...] = ()
    literal: ast.Constant | None = None


def may_fit(wanted: str, given: str) -> bool:
    """False only where no value of type `given` is one of `wanted`, or becomes one as JSON."""
    try:
        return _may_fit(_parsed(wanted), _parsed(given))
    except (SyntaxError, ValueError):
        return True


def _parsed(text: str) -> ast.expr:
    if len(text) > _MAX_TEXT:
        raise ValueError(text)
    # A star marks a type that was inferred.
    return ast.parse(re.sub(r"(?<=\w)\*", "", text), mode="eval").body


def _may_fit(wanted: ast.expr, given: ast.expr) -> bool:
    return any(_fits(want, got) for want in _alternatives(wanted) for got in _alternatives(given))


def _alternatives(node: ast.expr) -> Iterator[_Type]:
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            yield from _alternatives(left)
            yield from _alternatives(right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            yield from map(_literal, _items(values))
        case ast.Subscript(value=ast.Name(id=name), slice=values):
            yield _Type(name, _items(values))
        case ast.Name(id=name):
            # Only the types of a stub begin so.
            yield _Type("dict" if name.startswith("_") else name)
        case ast.Constant(value=None):
            yield _Type("None")
        case _:
            yield _Type("object")


def _items(node: ast.expr) -> tuple[ast.expr, ...]:
    return tuple(node.elts) if isinstance(node, ast.Tuple) else (node,)


def _literal(node: ast.expr) -> _Type:
    if isinstance(node, ast.Constant):
        return _Type("None" if node.value is None else type(node.value).__name__, literal=node)
    return _Type("int" if isinstance(node, ast.UnaryOp) else "object")


def _fits(wanted: _Type, given: _Type) -> bool:
    if wanted.name not in _KNOWN or given.name not in _KNOWN:
        return True
    if wanted.literal and given.literal:
        return ast.dump(wanted.literal) == ast.dump(given.literal)
    if wanted.name == given.name == "list" and wanted.arguments and given.arguments:
        return _may_fit(wanted.arguments[0], given.arguments[0])
    same_as_json = {("list", "tuple")} | _NUMBERS
    return wanted.name == given.name or (wanted.name, given.name) in same_as_json
