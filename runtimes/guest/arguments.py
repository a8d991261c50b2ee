"""The arguments of gateway operations as JSON, refused with the offending value's path when they are no JSON."""

import json
import sys
from collections.abc import Iterator
from math import isfinite, log10
from typing import Any

from runtimes.guest.text import class_name
from runtimes.guest.values import MAX_DEPTH, MAX_INT_DIGITS, NotJson, json_size

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def encode_arguments(arguments: dict[str, Any]) -> str:
    """Raises TypeError for values of other types than JSON's, ValueError for numbers and nesting beyond its bounds."""
    try:
        json_size(arguments, sys.maxsize)
        return _encode(arguments)
    except (NotJson, ValueError) as error:
        raise _complaint(arguments) or error from None


def _complaint(arguments: dict[str, Any]) -> Exception | None:
    level: list[tuple[str, Any]] = [("", arguments)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[str, Any]] = []
        for path, item in level:
            problem = _problem(item, path)
            if problem:
                return problem
            below.extend(_children(item, path))
        if not below:
            return None
        level = below
    return ValueError(f"{level[0][0][:80]}...: nested deeper than {MAX_DEPTH} levels, or within itself")


def _problem(item: Any, path: str) -> Exception | None:
    kind = type(item)
    if issubclass(kind, dict):
        strange = [key for key in dict.keys(item) if not issubclass(type(key), str)]
        where = f"{path}: " if path else ""
        return TypeError(f"{where}keys of a JSON object are str, not {class_name(strange[0])}") if strange else None
    if _is_scalar(item) or issubclass(kind, list | tuple):
        return None
    if issubclass(kind, float):
        return ValueError(f"{path}: JSON has no {float.__repr__(item)}")
    if issubclass(kind, int):
        return ValueError(f"{path}: an integer of more than {MAX_INT_DIGITS} digits; send it as a string")
    return TypeError(f"{path}: {class_name(item)} is not a JSON value; use dict, list, str, int, float, bool or None")


def _is_scalar(item: Any) -> bool:
    kind = type(item)
    if item is None or issubclass(kind, str):
        return True
    if issubclass(kind, int):
        return int.bit_length(item) * log10(2) < MAX_INT_DIGITS
    return issubclass(kind, float) and isfinite(float.__float__(item))


def _children(item: Any, path: str) -> Iterator[tuple[str, Any]]:
    kind = type(item)
    if issubclass(kind, dict):
        for key, value in dict.items(item):
            step = f".{key}" if path else key
            yield f"{path}{step}" if str.isidentifier(key) else f"{path}[{key!r}]", value
    elif issubclass(kind, list | tuple):
        for index, value in enumerate(item):
            yield f"{path}[{index}]", value
