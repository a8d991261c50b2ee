"""Recorded values and actual ones in messages: short, and with what differs in view."""

from gateway.journal.records import Blob
from gateway.payload import printable

MAX_CHARS = 200
"""Of each value."""

_BEFORE = 40
"""Characters before the first difference that are shown too."""


def brief(blob: Blob | None) -> str:
    """What is in it, or its beginning; its digest where it is not at hand."""
    if blob is None or blob.data is None:
        return "nothing" if blob is None else f"{blob.size_bytes} bytes, SHA-256 {blob.sha256[:12]}"
    return _part(blob, 0)


def beside(one: Blob | None, other: Blob | None) -> tuple[str, str]:
    """Both, from a little before their first difference."""
    if one is None or other is None or one.data is None or other.data is None:
        return brief(one), brief(other)
    same = _common(one.data, other.data)
    begin = same - _BEFORE if max(one.size_bytes, other.size_bytes) > MAX_CHARS and same > MAX_CHARS // 2 else 0
    return _part(one, begin), _part(other, begin)


def _part(blob: Blob, begin: int) -> str:
    assert blob.data is not None
    text = blob.data[begin : begin + 4 * MAX_CHARS].decode(errors="replace").lstrip("\ufffd" if begin else "")
    shown = f"{'…' if begin else ''}{printable(text, MAX_CHARS)}"
    return shown if blob.size_bytes <= MAX_CHARS else f"{shown} ({blob.size_bytes} bytes)"


def _common(one: bytes, other: bytes) -> int:
    """How many bytes are the same at the beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
