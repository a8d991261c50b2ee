"""One snippet from its code to its ending. Whatever guest code does, `run_snippet` returns."""

import contextlib
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from runtimes.guest.faults import Fault, describe
from runtimes.guest.snippet import Namespace, Snippet, main_namespace
from runtimes.guest.text import class_name, plain_int, safe_str
from runtimes.guest.values import ValueTooLarge, encode_value

_INT32 = 2**31 - 1

_RESERVE = [bytearray(4 << 20)]
"""Let go of when memory is used up, so that there is some to say so with. More than an arena of Python's allocator."""

RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end in an event loop and returns its result or raises what it raised."""


@dataclass(frozen=True, slots=True)
class Request:
    """The code, the largest value the host accepts in bytes of JSON, and what the module `random` begins with.

    `earlier` is code that is run first, in the same namespace; `unheard` keeps what it prints from the host.
    """

    code: str
    value_bytes: int
    seed: str = ""
    earlier: tuple[str, ...] = ()
    unheard: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True, slots=True)
class Completed:
    """The snippet came to its end. `value` is JSON in UTF-8; with `is_repr` it is a string, the value's repr."""

    value: bytes
    is_repr: bool


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception escaped, or the code did not compile."""

    fault: Fault


@dataclass(frozen=True, slots=True)
class Exited:
    """The snippet raised SystemExit."""

    code: int


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The value needs `size` bytes of JSON or more, which the host does not accept."""

    size: int


Ending = Completed | Raised | Exited | TooLarge


def run_snippet(request: Request, tools: object, run_async: RunAsync) -> Ending:
    """Run the request's code as `__main__` with `tools` in its namespace. Output is flushed before it returns.

    `run_async` is called only for code that awaits at its top level; other code runs with no event loop running.
    """
    streams = (sys.stdout, sys.stderr)
    namespace = main_namespace(tools)
    if request.earlier:
        with request.unheard():
            for code in request.earlier:
                _run(Snippet(code), request.value_bytes, namespace, run_async)
                _flush_all(streams)
    ending = _run(Snippet(request.code), request.value_bytes, namespace, run_async)
    _flush_all(streams)
    return ending


def _flush_all(streams: tuple[Any, Any]) -> None:
    # The ones in place now may be the guest's own.
    for name in ("stdout", "stderr"):
        _flush(getattr(sys, name, None))
    for stream in streams:
        _flush(stream)


def _run(snippet: Snippet, value_bytes: int, namespace: Namespace, run_async: RunAsync) -> Ending:
    try:
        namespace.pop("__out", None)
        program = snippet.compile()
        value = run_async(program.run_async(namespace)) if program.is_async else program.run(namespace)
        encoded = encode_value(value, value_bytes)
    except ValueTooLarge as error:
        return TooLarge(error.size)
    except SystemExit as error:
        return Exited(_exit_code(error))
    except MemoryError as error:
        _RESERVE.clear()
        fault = describe(error, snippet.source)
        namespace.clear()  # what fills the memory is most likely here, and the ending has to be sent yet
        return Raised(fault)
    except BaseException as error:  # noqa: BLE001  # a snippet may raise anything, KeyboardInterrupt too
        return Raised(describe(error, snippet.source))
    return Completed(encoded.json, encoded.is_repr)


def _exit_code(error: SystemExit) -> int:
    try:
        code = error.code
    except BaseException:  # noqa: BLE001  # a subclass of the guest's with a property
        code = f"<{class_name(error)} without a code>"
    if code is None:
        return 0
    if issubclass(type(code), int):
        return plain_int(code, low=-_INT32 - 1, high=_INT32)
    _print_error(safe_str(code))
    return 1


def _print_error(text: str) -> None:
    # As Python does for an exit with something else than a number.
    with contextlib.suppress(BaseException):  # the guest's stream may be closed, or its own
        print(text, file=sys.stderr)


def _flush(stream: Any) -> None:
    with contextlib.suppress(BaseException):  # the guest's stream may be closed, gone, or its own
        stream.flush()
