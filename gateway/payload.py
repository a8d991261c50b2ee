"""JSON as it crosses the gateway: strict, bounded, and copied for the record."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gateway.base import JsonValue
from gateway.errors import ToolError

MAX_NESTING = 128
"""Deepest nesting of lists and objects in one value."""

MAX_RECORDED_BYTES = 64 << 10
"""Largest value that a record keeps whole, as JSON."""

RECORDED_HEAD = 1000
"""What a record keeps of a larger value, in characters of its JSON."""

MAX_ERROR_TEXT = 4000
"""Longest message of an error that leaves the gateway, in characters."""

_write = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_write_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_scan = json.JSONDecoder().raw_decode


class NotJsonError(ValueError):
    """A value or text is not JSON as we take it; the message says why."""


class Malformed(NamedTuple):
    """Stands in place of arguments that a guest could not send, because they are no JSON; the guest says why."""

    reason: str


class Encoded(NamedTuple):
    """A value made of plain JSON types only, and its encoding."""

    value: JsonValue
    data: bytes


NULL = Encoded(None, b"null")


def encode(value: JsonValue, max_nesting: int = MAX_NESTING) -> bytes:
    """UTF-8 JSON. Raises NotJsonError for NaN, infinities, lone surrogates, foreign types and too deep nesting."""
    try:
        text = _write(value)
        data = text.encode()
    except RecursionError:
        raise NotJsonError(f"it is nested deeper than {max_nesting} levels or contains itself") from None
    except UnicodeEncodeError:
        raise NotJsonError("a text in it has a lone surrogate, which UTF-8 cannot carry") from None
    except (TypeError, ValueError) as exc:
        raise NotJsonError(_reason(exc)) from None
    _check_nesting(value, text, max_nesting)
    return data


def encode_as_given(value: JsonValue) -> bytes:
    """UTF-8 JSON of what a guest gave and we only keep: a lone surrogate, which UTF-8 cannot carry, stays an escape."""
    try:
        return _write(value).encode()
    except UnicodeEncodeError:
        return _write_ascii(value).encode()


def normalise(value: JsonValue) -> Encoded:
    """`value` as the guest will see it: tuples are lists, keys are text, enums are values. Raises NotJsonError."""
    if value is None:
        return NULL
    data = encode(value)
    return Encoded(_read(data), data)


def _read(data: bytes) -> JsonValue:
    """The value of an encoding that was made here, so that nothing stands around it."""
    return _scan(data.decode())[0]


def decode(data: bytes, max_nesting: int = MAX_NESTING) -> JsonValue:
    """The value of UTF-8 JSON that an attacker may have written. Raises NotJsonError, also for a key given twice."""
    try:
        text = data.decode()
        value = _read_strictly(text)
    except RecursionError:
        raise NotJsonError(f"it is nested deeper than {max_nesting} levels") from None
    except UnicodeDecodeError:
        raise NotJsonError("it is not UTF-8") from None
    except ValueError as exc:
        raise NotJsonError(_reason(exc)) from None
    _check_nesting(value, text, max_nesting)
    return value


def copied(data: bytes) -> Encoded:
    """The value of an encoding that was made here, as nobody else holds it."""
    return Encoded(_read(data), data)


def recorded(data: bytes, most_bytes: int = MAX_RECORDED_BYTES) -> JsonValue:
    """What a record keeps of encoded JSON: a copy of its own, or the head of a larger value."""
    return _read(shortened(data, most_bytes))


def shortened(data: bytes, most_bytes: int = MAX_RECORDED_BYTES) -> bytes:
    """The encoding of what a record keeps of encoded JSON."""
    return data if len(data) <= most_bytes else _head(data, len(data))


class RecordedList:
    """What a record keeps of a list whose items come one by one; no more of them is held than that takes."""

    def __init__(self) -> None:
        self._items: list[bytes] = []
        self._bytes = 1

    def add(self, item: bytes) -> None:
        """Take the encoding of the next item."""
        if self._bytes <= MAX_RECORDED_BYTES:
            self._items.append(item)
        self._bytes += len(item) + 1

    @property
    def size_bytes(self) -> int:
        """Of the whole list as JSON."""
        return self._bytes

    def shortened(self) -> bytes:
        data = b"[" + b",".join(self._items) + b"]"
        return data if self._bytes <= MAX_RECORDED_BYTES else _head(data, self._bytes)


def error_json(error: ToolError) -> dict[str, JsonValue]:
    """{code, message, retryable, details} that can always be encoded: a tool may raise with anything inside."""
    reply = error.to_json()
    reply["message"] = printable(str(reply["message"]), MAX_ERROR_TEXT)
    if reply["details"]:
        try:
            reply["details"] = recorded(encode(reply["details"]))
        except NotJsonError as exc:
            reply["details"] = {"dropped": f"the error's details are not JSON: {exc}"}
    return reply


def printable(text: str, limit: int) -> str:
    """At most `limit` characters, and none that UTF-8 cannot carry."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut if cut.isascii() else cut.encode(errors="backslashreplace").decode()


def _head(data: bytes, size_bytes: int) -> bytes:
    head = data[: RECORDED_HEAD * 4].decode(errors="ignore")[:RECORDED_HEAD]
    return encode({"truncated": True, "bytes": size_bytes, "head": head})


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJsonError("an object has the same key twice")
    return found


def _constant(name: str) -> None:
    raise NotJsonError(f"{name} is not JSON")


_read_strictly = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant).decode


def _check_nesting(value: JsonValue, text: str, allowed: int) -> None:
    # Few brackets cannot nest deeply, and counting them is much cheaper than walking.
    if text.count("[") + text.count("{") > allowed and _is_deeper(value, allowed):
        raise NotJsonError(f"it is nested deeper than {allowed} levels")


def _is_deeper(value: JsonValue, allowed: int) -> bool:
    level = _containers([value])
    for _ in range(allowed):
        if not level:
            return False
        level = [child for node in level for child in _containers(node)]
    return bool(level)


def _containers(node: JsonValue) -> list[Any]:
    children: Iterable[Any] = node.values() if isinstance(node, Mapping) else node
    return [child for child in children if isinstance(child, dict | list | tuple)]


def _reason(exc: Exception) -> str:
    return printable(str(exc), 200)
