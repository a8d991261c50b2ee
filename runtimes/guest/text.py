"""Text of objects that guest code made, which may lie, raise or be huge when they are asked for it."""

from typing import Any

_MARK = "... [cut]"
_MIDDLE_MARK = "\n... [cut] ...\n"


def class_name(value: object) -> str:
    """The name of the value's class. Never raises."""
    # Asked of `type` itself, because a metaclass can redefine __name__.
    return str.__str__(type.__dict__["__name__"].__get__(type(value)))


def safe_str(value: object) -> str:
    """`str(value)`, or a placeholder naming the class. Never raises."""
    try:
        # str.__str__ makes a plain str of a subclass, whose methods are the guest's.
        return str.__str__(str(value))
    except BaseException:  # noqa: BLE001  # whatever a guest's __str__ raises
        return f"<unprintable {class_name(value)}>"


def safe_repr(value: object) -> str:
    """`repr(value)`, or a placeholder naming the class. Never raises."""
    try:
        return str.__str__(repr(value))
    except BaseException:  # noqa: BLE001  # whatever a guest's __repr__ raises
        return f"<unrepresentable {class_name(value)}>"


def cut(text: str, max_bytes: int) -> str:
    """The text without lone surrogates, its end cut off where it is longer than `max_bytes` in UTF-8."""
    data = _utf8(text[: max_bytes + 1])
    if len(data) <= max_bytes:
        return data.decode()
    return data[: max_bytes - len(_MARK)].decode(errors="ignore") + _MARK


def cut_middle(text: str, max_bytes: int) -> str:
    """Like `cut`, but keeps the start and, three times as long, the end."""
    data = _utf8(text)
    if len(data) <= max_bytes:
        return data.decode()
    keep = max_bytes - len(_MIDDLE_MARK)
    head, tail = data[: keep // 4], data[keep // 4 - keep :]
    return head.decode(errors="ignore") + _MIDDLE_MARK + tail.decode(errors="ignore")


def plain_int(value: Any, *, low: int, high: int) -> int:
    """The integer moved into [low, high]; `low` for anything that is no integer. Never raises."""
    if not issubclass(type(value), int):
        return low
    return max(low, min(int.__int__(value), high))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
