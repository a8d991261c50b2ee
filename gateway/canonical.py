"""One spelling for each JSON value (RFC 8785), so that what is equal has equal bytes: for keys and fingerprints."""

import hashlib
import json
from typing import Any

import rfc8785

from gateway.base import JsonValue

_SAFE_INTEGER = 2**53 - 1
_write = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


def canonical(value: JsonValue) -> bytes:
    """The canonical form of plain JSON, in which 1.0 is 1 and the order of keys does not matter.

    RFC 8785 has no whole numbers beyond 2**53; a value with such is written with all their digits, so that two of them
    never look the same. Raises ValueError for what is not JSON.
    """
    if _is_simple(value):
        return _write(value).encode()  # the same bytes, ten times as fast
    try:
        return rfc8785.dumps(value)
    except rfc8785.IntegerDomainError:
        return _write(_with_whole_numbers(value)).encode()


def digest(*parts: JsonValue, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of the canonical array of `parts`; no two lists of parts are written alike."""
    return hashlib.new(algorithm, canonical(list(parts)), usedforsecurity=False).hexdigest()


def _is_simple(value: JsonValue) -> bool:
    """Whether Python's own encoder writes it as RFC 8785 wants it."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_SAFE_INTEGER <= value <= _SAFE_INTEGER)
    if kind is float:  # repr() gives the same digits, and exponents only outside these bounds
        return bool(1e-4 <= abs(value) < 1e15 and not value.is_integer())
    if kind is dict:
        return all(type(key) is str and key.isascii() and _is_simple(item) for key, item in value.items())
    return kind is list and all(map(_is_simple, value))


def _with_whole_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= _SAFE_INTEGER else value
