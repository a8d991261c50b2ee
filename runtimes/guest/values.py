"""A snippet's value as JSON: JSON values as they are, anything else as its repr."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runtimes.guest.text import safe_repr

# The host decodes with Python's json, which nests no deeper than its recursion limit allows.
MAX_DEPTH = 200
# The most that json.loads on the host takes without being told otherwise.
MAX_INT_DIGITS = 4300
# Longer ints are written out in a repr up to here; beyond, the conversion, which is quadratic, takes too long.
_REPR_DIGITS = 50_000
_MARK = "... [cut]"
_ATOMS = frozenset({int, float, bool, type(None)})

_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_escaped = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


class ValueTooLarge(Exception):  # an ending of the snippet, not an error of ours
    """The value needs at least `size` bytes of JSON, which is more than the host accepts."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the value needs {size} bytes of JSON or more")
        self.size = size


class NotJson(Exception):  # an answer, not an error
    """Some part of the value is no JSON value."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """`json` is UTF-8; with `is_repr` it is a string, the repr of a value that is no JSON value."""

    json: bytes
    is_repr: bool


def encode_value(value: Any, limit_bytes: int) -> Encoded:
    """Encode what a snippet ended with. Subclasses of JSON types are encoded as their plain value, tuples as lists.

    Raises ValueTooLarge, if possible before the JSON is built, and nothing else: a repr that is too long is cut.
    A surrogate pair inside a str arrives as the one character it stands for; JSON knows no other reading.
    """
    try:
        json_size(value, limit_bytes)
        with _int_digits(MAX_INT_DIGITS):
            encoded = _encode(value)
    except ValueTooLarge:
        raise
    except BaseException:  # noqa: BLE001  # no JSON value, or whatever the methods of a guest's dict or list raise
        with _int_digits(_REPR_DIGITS):
            return Encoded(_encode_repr(value, limit_bytes), is_repr=True)
    if len(encoded) > limit_bytes:
        raise ValueTooLarge(len(encoded))
    return Encoded(encoded, is_repr=False)


def json_size(value: Any, limit_bytes: int) -> int:
    """A lower bound of the value's size as JSON; ValueTooLarge as soon as it passes the limit.

    Raises NotJson for whatever the encoder would take and should not, but leaves numbers to it.
    """
    size = 0
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if type(item) in _ATOMS:
                size += 1
                continue
            own_size, children = _open(item)
            size += own_size
            # Before the children are taken: a list that holds itself many times over never gets to grow.
            if size > limit_bytes:
                raise ValueTooLarge(size)
            below.extend(children)
        if not below:
            return size
        level = below
    raise NotJson(f"nested deeper than {MAX_DEPTH} levels")


def _open(item: Any) -> tuple[int, Iterable[Any]]:
    # Classes are compared, not isinstance: an object can claim any __class__.
    kind = type(item)
    if issubclass(kind, str):
        return str.__len__(item) + 2, ()
    if issubclass(kind, dict):
        return _keys_size(item), dict.values(item)
    if issubclass(kind, list):
        return list.__len__(item) + 1, list.__iter__(item)
    if issubclass(kind, tuple):
        return tuple.__len__(item) + 1, tuple.__iter__(item)
    if issubclass(kind, int | float):
        return 1, ()
    raise NotJson(kind)


def _keys_size(item: dict[Any, Any]) -> int:
    try:
        # Refuses any key that is no str, in C.
        letters = len("".join(dict.keys(item)))
    except TypeError:
        raise NotJson("a key that is no str") from None
    return letters + 4 * dict.__len__(item) + 1


def _encode(value: Any) -> bytes:
    try:
        return _compact(value).encode()
    except UnicodeEncodeError:
        # Lone surrogates have no UTF-8; escaped they arrive as the same str.
        return _escaped(value).encode()


def _encode_repr(value: Any, limit_bytes: int) -> bytes:
    if type(value) in {bytes, bytearray}:
        # The repr of this much is longer than the limit already.
        value = value[:limit_bytes]
    text = safe_repr(value)
    # Every character needs a byte or more, so what lies beyond the limit can never fit.
    kept = text[:limit_bytes]
    encoded = _encode(kept)
    if len(kept) == len(text) and len(encoded) <= limit_bytes:
        return encoded
    while len(encoded := _encode(kept + _MARK)) > limit_bytes:
        if not kept:
            raise ValueTooLarge(len(encoded))
        # In proportion, so that text full of escapes needs few rounds.
        kept = kept[: min(len(kept) - 1, len(kept) * limit_bytes // len(encoded))]
    return encoded


@contextmanager
def _int_digits(maximum: int) -> Iterator[None]:
    # The guest may have set the process-wide bound to anything.
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(maximum)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)
