"""The syntax tree of a snippet with a top-level `return`, made into one that Python compiles: a function."""

import ast
from collections.abc import Iterator
from typing import Any

from runtimes.guest.source import FILENAME

# The function's name, as it shows in tracebacks. No identifier, so nothing in the snippet can refer to it.
FUNCTION = "<module>"

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_ASYNC = (ast.Await, ast.AsyncFor, ast.AsyncWith)


def has_return(tree: ast.Module) -> bool:
    """Whether the snippet itself returns, outside of any function of its own."""
    return any(isinstance(node, ast.Return) for node in _own_nodes(tree))


def wrap(tree: ast.Module) -> ast.Module:
    """Move the snippet into a function named FUNCTION that returns its value in a box.

    The box is `(value,)` from a `return`, `[value]` from the last statement if it is an expression, else None.
    The function is async when the snippet awaits. Names that the snippet binds stay in the module's namespace.
    Raises SyntaxError for what a module may hold and a function may not. Changes the tree.
    """
    own = list(_own_nodes(tree))
    _reject(own)
    is_async = any(isinstance(node, _ASYNC) or getattr(node, "is_async", 0) for node in own)
    names = sorted(set(_bound_names(tree)))
    _box_returns(own)
    _box_last_expression(tree.body)
    _drop_annotations(own)
    start = _length_of_head(tree.body)
    body = tree.body[start:]
    if names:
        body.insert(0, ast.Global(names, lineno=1, col_offset=0))
    return ast.Module([*tree.body[:start], _function(body, is_async=is_async)], type_ignores=[])


def _own_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    # Nodes of the snippet's own scope: also the defaults and decorators of its functions, not their bodies.
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        for field, child in ast.iter_fields(node):
            if field == "body" and isinstance(node, _SCOPES):
                continue
            children = child if isinstance(child, list) else [child]
            pending.extend(item for item in children if isinstance(item, ast.AST))


def _reject(own: list[ast.AST]) -> None:
    for node in own:
        if isinstance(node, ast.Yield | ast.YieldFrom):
            raise _error("'yield' outside function", node)
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            raise _error(
                f"'from {'.' * node.level}{node.module or ''} import *' cannot stand beside a top-level 'return': "
                "import the names one by one, or end with an expression instead of 'return'",
                node,
            )


def _error(message: str, node: ast.expr | ast.stmt) -> SyntaxError:
    return SyntaxError(message, (FILENAME, node.lineno, node.col_offset + 1, None))


def _box_last_expression(body: list[ast.stmt]) -> None:
    last = body[-1]
    if isinstance(last, ast.Expr):
        box = ast.copy_location(ast.List([last.value], ast.Load()), last)
        body[-1] = ast.copy_location(ast.Return(box), last)


def _box_returns(own: list[ast.AST]) -> None:
    for node in own:
        if isinstance(node, ast.Return):
            value = node.value or ast.copy_location(ast.Constant(None), node)
            node.value = ast.copy_location(ast.Tuple([value], ast.Load()), value)


def _drop_annotations(own: list[ast.AST]) -> None:
    # A name cannot be both annotated and global.
    for node in own:
        if isinstance(node, _SCOPES):
            continue
        for _, field in ast.iter_fields(node):
            if isinstance(field, list):
                field[:] = [_plain(item) for item in field]


def _plain(item: Any) -> Any:
    if not (isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)):
        return item
    plain = ast.Assign([item.target], item.value) if item.value else ast.Pass()
    return ast.copy_location(plain, item)


def _length_of_head(body: list[ast.stmt]) -> int:
    # A docstring and imports from __future__ mean something only at the start of a module.
    for index, statement in enumerate(body):
        is_future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
        is_docstring = index == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if not (is_future or is_docstring):
            return index
    return len(body)


def _bound_names(tree: ast.Module) -> Iterator[str]:
    # Names bound in inner scopes are among them. They do no harm: a scope that binds a name never looks it up here.
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name
            case ast.alias(name=path, asname=asname):
                yield asname or path.partition(".")[0]
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name
            case ast.MatchMapping(rest=str(name)):
                yield name


def _function(body: list[ast.stmt], *, is_async: bool) -> _Function:
    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    kind = ast.AsyncFunctionDef if is_async else ast.FunctionDef
    return kind(FUNCTION, nothing, body, [], lineno=1, col_offset=0)
