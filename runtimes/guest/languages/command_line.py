"""Command lines of `tool` and `result`: options, JSON, and a tool's arguments in the words of a shell."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

STDIN = "-"
"""The word in place of which standard input is read."""

_ARGUMENT = re.compile(r"(?P<key>[^=]+?)(?P<json>:?)=(?P<value>.*)", re.DOTALL)


class Misuse(Exception):  # becomes an answer with the usage
    """A command line makes no sense; the message says why."""


def read_options(arguments: Sequence[str], options: Mapping[str, str | None]) -> tuple[dict[str, list[str]], list[str]]:
    """What each option was given, each time, and the other words. `options` says what each one takes, or None."""
    given: dict[str, list[str]] = {}
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            words += rest
        elif word == STDIN or not word.startswith("-"):
            words.append(word)
        else:
            name, equals, value = word.partition("=")
            if name not in options:
                raise Misuse(f"there is no option {name[:80]!r}")
            takes = options[name]
            if takes is None and equals:
                raise Misuse(f"{name} takes no value")
            found = value if equals or takes is None else next(rest, None)
            if found is None:
                raise Misuse(f"{name} takes {takes}")
            given.setdefault(name, []).append(found)
    return given, words


def tool_arguments(words: Sequence[str], stdin: str) -> dict[str, Any]:
    """A tool's arguments: KEY=TEXT and KEY:=JSON, or one JSON object. Raises Misuse."""
    if len(words) == 1 and (words[0] == STDIN or words[0].lstrip().startswith("{")):
        return _object(stdin if words[0] == STDIN else words[0])
    found: dict[str, Any] = {}
    for word in words:
        argument = _ARGUMENT.fullmatch(word)
        if argument is None:
            raise Misuse(f"{word[:80]!r} is not KEY=TEXT, KEY:=JSON, or one JSON object")
        if argument["key"] in found:
            raise Misuse(f"{argument['key'][:80]!r} is given twice")
        found[argument["key"]] = json_of(argument["value"], word) if argument["json"] else argument["value"]
    return found


def json_of(text: str, shown: str) -> Any:
    """Raises Misuse, which shows the beginning of `shown`."""
    try:
        return strict_json(text)
    except ValueError as error:
        raise Misuse(f"{shown[:80]!r} is not JSON: {error}") from None


def strict_json(text: str) -> Any:
    """Raises ValueError, also for NaN and its like and for what is nested too deeply."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _object(text: str) -> dict[str, Any]:
    value = json_of(text, text)
    if not isinstance(value, dict):
        raise Misuse(f"the arguments of a tool are a JSON object, not {text.strip()[:80]!r}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")
