"""A snippet as a program: compiled so that it has a value, and run as the module `__main__`."""

import ast
import inspect
import sys
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any, cast

from runtimes.guest import rewrite
from runtimes.guest.source import FILENAME, Source, read_source, register

_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

# Python 3.14 on WebAssembly, whose stack is small, was seen to crash at 600 levels of syntax tree.
MAX_DEPTH = 400

Namespace = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Program:
    """Code evaluated piece by piece in one namespace; the last piece has the value. Both ways to run it raise whatever
    the snippet raises.
    """

    pieces: tuple[CodeType, ...]
    # The result is boxed, as `rewrite.wrap` says.
    returns: bool

    @property
    def is_async(self) -> bool:
        """Whether the snippet awaits at its top level, and so must be run by `run_async`."""
        return any(map(_awaits, self.pieces))

    def run(self, namespace: Namespace) -> Any:
        """Run to the end and return the value. No event loop is needed, so the snippet may start its own."""
        result = None
        for code in self.pieces:
            result = eval(code, namespace)
        return self._value(result, namespace)

    async def run_async(self, namespace: Namespace) -> Any:
        """Run to the end and return the value."""
        result = None
        for code in self.pieces:
            result = eval(code, namespace)
            # A coroutine that the last expression merely evaluates to is a value like any other.
            result = await result if _awaits(code) else result
        return self._value(result, namespace)

    def _value(self, result: Any, namespace: Namespace) -> Any:
        if self.returns and result is not None:
            if type(result) is tuple:
                return result[0]
            result = result[0]
        # After `__out = x` and `print(x)` it is x: an expression without a value does not hide it.
        return namespace.get("__out") if result is None else result


class Snippet:
    """The code as it was given. Making one never fails; `compile` does."""

    def __init__(self, code: str) -> None:
        self.source: Source = read_source(code)

    def compile(self) -> Program:
        """Raises SyntaxError with its place in the source; RecursionError or MemoryError where Python gives up."""
        register(self.source)
        _reject_unreadable(self.source)
        try:
            return _compile(self.source.text)
        except SyntaxError as error:
            # Errors found after parsing come without the line.
            if error.text is None and error.lineno:
                error.text = self.source.line(error.lineno)
            raise


def main_namespace(tools: object) -> Namespace:
    """The namespace of a fresh `__main__` holding `tools`; also makes `import tools` give that object."""
    module = ModuleType("__main__")
    namespace = module.__dict__
    namespace["tools"] = tools
    # Dataclasses, pickle and typing look classes up through sys.modules.
    sys.modules["__main__"] = module
    sys.modules["tools"] = tools  # type: ignore[assignment]  # the import system takes any object
    return namespace


def _reject_unreadable(source: Source) -> None:
    # Python versions disagree on the exceptions for these and give no place.
    if source.text.isascii() and "\0" not in source.text:
        return
    for number, line in enumerate(source.text.split("\n"), 1):
        for index, character in enumerate(line):
            if character == "\0" or "\ud800" <= character <= "\udfff":
                what = "a null character" if character == "\0" else "half a surrogate pair"
                raise SyntaxError(f"source code cannot contain {what}", (FILENAME, number, index + 1, line))


def _reject_deep(tree: ast.Module) -> None:
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    line = next((node.lineno for node in level if isinstance(node, ast.expr | ast.stmt)), 1)
    # To free so deep a tree from its root takes the same stack.
    for node in list(ast.walk(tree)):
        vars(node).clear()
    raise SyntaxError(f"the code nests deeper than {MAX_DEPTH} levels", (FILENAME, line, 1, None))


def _compile(text: str) -> Program:
    tree = cast(ast.Module, compile(text, FILENAME, "exec", ast.PyCF_ONLY_AST, dont_inherit=True))
    # No level takes less than a character.
    if len(text) > MAX_DEPTH:
        _reject_deep(tree)
    # Most code has no such word, and walking the tree costs about as much as compiling it.
    if "return" in text and rewrite.has_return(tree):
        return Program((_function_as_module(rewrite.wrap(tree)),), returns=True)
    tail = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    body = compile(tree, FILENAME, "exec", _FLAGS, dont_inherit=True)
    if not isinstance(tail, ast.Expr):
        return Program((body,), returns=False)
    value = compile(ast.Expression(tail.value), FILENAME, "eval", _FLAGS, dont_inherit=True)
    return Program((body, value), returns=False)


def _function_as_module(module: ast.Module) -> CodeType:
    constants = compile(module, FILENAME, "exec", dont_inherit=True).co_consts
    code: CodeType = next(item for item in constants if getattr(item, "co_name", "") == rewrite.FUNCTION)
    # Evaluated without these flags, its locals are the namespace: locals(), dir() and exec() work as in a module.
    return code.replace(co_flags=code.co_flags & ~(inspect.CO_OPTIMIZED | inspect.CO_NEWLOCALS))


def _awaits(code: CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_COROUTINE)
