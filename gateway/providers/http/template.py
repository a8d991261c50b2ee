"""Text with placeholders, and the writing of arguments into a query. A value stays a value: whatever it has in it, it
never becomes another key.
"""

import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import quote

from gateway.base import JsonValue
from gateway.errors import InvalidInput, InvalidRequest

Style: TypeAlias = Literal["repeat", "comma", "space", "pipe", "deep", "spread", "json"]
"""How a list or object goes into the query.

| style | `ids` is [1, 2] | `f` is {"a": 1, "b": 2} |
| --- | --- | --- |
| repeat | `ids=1&ids=2` | |
| comma, space, pipe | `ids=1,2`, `ids=1%202`, `ids=1%7C2` | |
| deep | | `f[a]=1&f[b]=2` |
| spread | | `a=1&b=2` |
| json | `ids=%5B1%2C2%5D` | `f=%7B%22a%22%3A1...` |
"""

_SEPARATORS = {"comma": ",", "space": "%20", "pipe": "%7C"}


@dataclass(frozen=True, slots=True)
class Template:
    """Text with `{name}` placeholders; `{{` and `}}` stand for braces. Raises InvalidRequest."""

    text: str
    parts: tuple[tuple[str, str], ...] = field(init=False, repr=False)
    """Literal text and the name of the placeholder behind it, empty at the end."""

    def __post_init__(self) -> None:
        try:
            parsed = list(string.Formatter().parse(self.text))
        except ValueError as exc:
            raise InvalidRequest(f"template {self.text!r}: {exc}; a brace as such is written twice") from None
        for _, name, spec, conversion in parsed:
            if spec or conversion or name == "":
                raise InvalidRequest(f"template {self.text!r}: placeholders are plain names, as in {{id}}")
        object.__setattr__(self, "parts", tuple((literal, name or "") for literal, name, _, _ in parsed))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.parts if name)

    @property
    def only(self) -> str | None:
        """The name, when the template is one placeholder and nothing else."""
        return self.parts[0][1] or None if len(self.parts) == 1 and not self.parts[0][0] else None

    def filled(self, arguments: Mapping[str, JsonValue]) -> str | None:
        """The text; None when an argument is not given, or null."""
        if any(arguments.get(name) is None for name in self.names):
            return None
        return "".join(literal + (as_text(name, arguments[name]) if name else "") for literal, name in self.parts)

    def value(self, arguments: Mapping[str, JsonValue]) -> JsonValue:
        """As `filled`, but a lone placeholder gives its argument as it is."""
        return self.filled(arguments) if self.only is None else arguments.get(self.only)


@dataclass(frozen=True, slots=True)
class Styled:
    """A query parameter whose argument is a list or an object, and how it is written."""

    template: str
    style: Style


@dataclass(frozen=True, slots=True)
class QueryPart:
    """One parameter of the query."""

    key: str
    template: Template
    style: Style = "repeat"


def query_parts(fields: Mapping[str, str | Styled]) -> tuple[QueryPart, ...]:
    parts = []
    for key, value in fields.items():
        text, style = (value.template, value.style) if isinstance(value, Styled) else (value, "repeat")
        template = Template(text)
        if style != "repeat" and template.only is None:
            raise InvalidRequest(f"query {key!r}: a style is for one placeholder alone, as in {{ids}}")
        parts.append(QueryPart(key, template, style))
    return tuple(parts)


def query_pairs(parts: Sequence[QueryPart], arguments: Mapping[str, JsonValue]) -> list[str]:
    """`key=value` for all that is given, encoded. Raises InvalidInput."""
    return [pair for part in parts for pair in _pairs_of(part, parts, arguments)]


def as_text(name: str, value: JsonValue) -> str:
    """An argument as it is written into a URL or a header. Raises InvalidInput for lists, objects and null."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    raise InvalidInput(f"{name} must be text, a number or a boolean here, not {_kind(value)}")


def several(value: JsonValue) -> list[JsonValue]:
    """The items of a list; anything else by itself."""
    return value if isinstance(value, list) else [value]


def _pairs_of(part: QueryPart, parts: Sequence[QueryPart], arguments: Mapping[str, JsonValue]) -> list[str]:
    value = part.template.value(arguments)
    name = part.template.only or part.key
    if value is None:
        return []
    if part.style == "json":
        return [_pair(part.key, json.dumps(value, ensure_ascii=False, separators=(",", ":")))]
    if isinstance(value, dict) and part.style == "deep":
        return [_pair(f"{part.key}[{key}]", as_text(name, each)) for key, each in value.items()]
    if isinstance(value, dict) and part.style == "spread":
        return _spread(name, value, (other for other in parts if other is not part))
    if isinstance(value, list) and part.style in _SEPARATORS:
        joined = _SEPARATORS[part.style].join(quote(as_text(name, each), safe="") for each in value)
        return [f"{quote(part.key, safe='')}={joined}"] if value else []
    return [_pair(part.key, as_text(name, each)) for each in several(value)]


def _spread(name: str, value: dict[str, JsonValue], others: Iterable[QueryPart]) -> list[str]:
    taken = value.keys() & {part.key for part in others}
    if taken:
        raise InvalidInput(f"{name} must not have {', '.join(sorted(taken))}: those are arguments of their own")
    return [_pair(key, as_text(name, each)) for key, items in value.items() for each in several(items)]


def _pair(key: str, text: str) -> str:
    return f"{quote(key, safe='')}={quote(text, safe='')}"


def _kind(value: JsonValue) -> str:
    return {dict: "an object", list: "a list", type(None): "null"}.get(type(value), type(value).__name__)
